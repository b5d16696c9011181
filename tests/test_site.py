"""The documentation as a site: built without a warning, complete, and nothing in it is loaded from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tools.site import DOCS, ROOT

LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
NAMED_ONLY = {"canonical", "next", "prev"}  # links in the head that no browser loads


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        is_named = set((found.get("rel") or "").split()) & NAMED_ONLY
        if tag in LOADING and not is_named and (address := found.get(LOADING[tag])):
            self.loaded.append(address)
        if tag == "a" and (address := found.get("href")):
            self.links.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_in_it(site: Path) -> None:
    pages = [path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")]
    pages.append(Path("benchmarks/README.html"))
    index = (site / "index.html").read_text("utf-8")
    for page in pages:
        built = site / ("index.html" if page.name == "index.html" else page)
        if page.name == "README.html":
            built = site / page.with_name("index.html")
        assert built.is_file(), page
        assert f'href="{built.relative_to(site).as_posix()}"' in index or page.parent == Path(), (
            page
        )


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        outside = [one for one in Page(path.read_text("utf-8")).loaded if "//" in one]
        assert not outside, path
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text("utf-8")), path


def test_links_lead_somewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        if path.name == "404.html":
            continue
        page = Page(path.read_text("utf-8"))
        for address in (*page.links, *page.loaded):
            parts = urlsplit(address)
            if parts.scheme or not parts.path:
                continue
            assert (path.parent / unquote(parts.path)).exists(), (path.name, address)
