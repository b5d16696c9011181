"""What `mkdocs build` does beyond Markdown: the benchmarks are in the site, and links work as in the repository.

In the repository a page links to the file that it speaks of, wherever that is. In the site the root is `docs/`, so a
link that leaves it is rewritten: to the page of a benchmark, or to its bare text if the file is not in the site.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
OTHERS = ("benchmarks",)
_COMMENT = re.compile(
    r"\A(\s*<!--.*?-->)+\s*", re.S
)  # before a heading, it would hide the page's title
_LINK = re.compile(r"(!?)\[([^\]\n]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the Markdown pages that stand beside `docs/`, and the pictures that they show."""
    for folder in OTHERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".md", ".svg", ".png"):
                uri = path.relative_to(ROOT).as_posix()
                files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: object) -> str:
    """Rewrites the links that leave the folder of the site."""
    source = path_of(page.file.src_uri)

    def rewritten(match: re.Match[str]) -> str:
        mark, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        if ":" in target or target.startswith("/"):
            return match[0]
        uri = uri_of(Path(os.path.normpath(source.parent / target)))
        if uri is None or files.get_file_from_path(uri) is None:
            return match[0] if uri is not None and source.is_relative_to(DOCS) else text
        here = Path(page.file.src_uri).parent
        return f"{mark}[{text}]({Path(os.path.relpath(uri, here)).as_posix()}{anchor})"

    return _LINK.sub(rewritten, _COMMENT.sub("", markdown))


def path_of(uri: str) -> Path:
    """Returns the file of the repository that a page of the site is made from."""
    return (ROOT if uri.partition("/")[0] in OTHERS else DOCS) / uri


def uri_of(path: Path) -> str | None:
    """Returns where a file of the repository would be in the site; None if it is not in it."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in OTHERS:
        return path.relative_to(ROOT).as_posix()
    return None
