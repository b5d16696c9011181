"""Makes one page of what `benchmarks/gpu.sh` left in a folder: all tables, what the tests found, and what failed.

python -m benchmarks.gpu_page FOLDER --out benchmarks/speed/results/gpu_h100.md
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.pages import tell

_LAST_LINES = 15  # of a step that failed


def page(folder: Path) -> Iterator[str]:
    """Yields the lines of the page; of a step that failed, the table as far as it came and its last words."""
    summary = (folder / "summary.txt").read_text(encoding="utf-8").splitlines()
    yield "# What `benchmarks/gpu.sh` found"
    yield from (
        "",
        "Command: `bash benchmarks/gpu.sh FOLDER`; what each step of it ran stands at its table.",
    )
    yield from ("", "```text", *summary, "```")
    for line in summary:
        ended = re.fullmatch(r"(\w+): rc (\d+) after .*", line)
        log = folder / f"{ended[1]}.log" if ended else None
        if ended is not None and log is not None and log.exists():
            text = log.read_text(encoding="utf-8", errors="replace")
            yield ""
            yield from _section(ended[1], text.splitlines(), has_failed=ended[2] != "0")


def _section(name: str, lines: list[str], *, has_failed: bool) -> Iterator[str]:
    titles = [number for number, line in enumerate(lines) if line.startswith("# ")]
    if name == "tests":
        yield "## Tests"
        found = [line for line in lines if line.startswith(("INFO", "WARNING", "FAILED", "ERROR"))]
        yield from ("", "```text", *found, *lines[-1:], "```")
    elif titles:  # a table of ours
        words = lines[titles[0] :]
        last = max(
            n for n, line in enumerate(words) if not n or line.startswith("|") or not has_failed
        )
        yield from (f"#{words[0]}", *words[1 : last + 1])
    else:
        yield f"## {name.replace('_', ' ').capitalize()}"
        if not has_failed:
            yield from ("", "```text", *lines, "```")
    if has_failed:
        yield from ("", "It failed, or was too slow:", "", "```text", *lines[-_LAST_LINES:], "```")


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tell("\n".join(page(options.folder)), options.out)


if __name__ == "__main__":
    main()
