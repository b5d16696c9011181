"""Draws the pictures of the documentation anew and writes the front in README.md, with commands that any user has.

Both are of one search, of the preset digits (about 20 seconds on two CPU cores). Times are of the machine at hand.
"""

import argparse
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "pictures"
PAGE = ROOT / "README.md"
PICTURES = ("front", "schedules", "learning-curves", "hypervolume")
MOST_BYTES = 150_000  # of one picture; a larger SVG is taken as PNG


def main() -> None:
    """Writes all pictures and the front."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        storage = ("--storage", f"sqlite:///{folder}/studies.db")
        end = dynamoe_search("run", "digits", "--quiet", *storage)
        front = dynamoe_search("front", "digits", *storage).partition("\n\n")[0]
        dynamoe_search("report", "digits", "--out", f"{folder}/report", *storage)
        for name in PICTURES:
            take(Path(folder) / "report" / "figures", name)
    PAGE.write_text(with_front(PAGE.read_text("utf-8"), end, front), "utf-8")
    print(f"{PAGE.name}: the front")


def dynamoe_search(*arguments: str) -> str:
    """Runs a command of the program and returns what it prints."""
    command = [sys.executable, "-m", "dynamoe_search", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own program
    return done.stdout


def with_front(page: str, end: str, front: str) -> str:
    """Returns README.md with another front, and with what it says of the run that found it.

    Args:
        page: README.md.
        end: What `run` printed.
        front: The table that `front` printed.

    Raises:
        SystemExit: A sentence of the page is not there any more.
    """
    rows = [line.rstrip() for line in front.splitlines()]
    best = rows[-1].split()[0]
    ran = re.search(r"(\d+) of (\d+) candidates complete, .* ([\d.]+) s in this run", end)
    if ran is None:
        raise SystemExit(f"the search did not end as it should: {end}")
    torch = ".".join(version("torch").split(".")[:2])
    said = f"{float(ran[3]):.0f} seconds on two CPU cores (seed 0, torch {torch}, {datetime.now(UTC):%Y-%m-%d}; "
    said += f"{ran[2]} candidates,\n{ran[1]} of them trained to the end"
    changes = (
        (
            r"\d+ seconds on two CPU cores \(seed 0, [^;]*; \d+ candidates,\n\d+ of them trained to the end",
            said,
        ),
        (r"```text\ntrial  accuracy .*?\n```", "\n".join(("```text", *rows, "```"))),
        (r"export digits \d+ ", f"export digits {best} "),
        (r"# trial \d+, one of the front", f"# trial {best}, one of the front"),
    )
    for old, new in changes:
        page, number = re.subn(old, lambda _, new=new: new, page, flags=re.S)
        if number != 1:
            raise SystemExit(f"{PAGE.name} has {number} places like {old!r}, not one")
    return page


def take(figures: Path, name: str) -> None:
    """Copies a picture, as SVG if that is small."""
    sizes = {suffix: (figures / f"{name}{suffix}").stat().st_size for suffix in (".svg", ".png")}
    suffix = ".svg" if sizes[".svg"] <= MOST_BYTES else ".png"
    if sizes[suffix] > MOST_BYTES:
        raise SystemExit(
            f"{name}{suffix} has {sizes[suffix]:,} bytes, which is too much for a page"
        )
    for old in FOLDER.glob(f"{name}.*"):
        old.unlink()
    shutil.copyfile(figures / f"{name}{suffix}", FOLDER / f"{name}{suffix}")
    print(f"docs/pictures/{name}{suffix}: {sizes[suffix]:,} bytes")


if __name__ == "__main__":
    main()
