"""Draws the pictures of the documentation anew, with the commands that any user has: a search and its report.

The study is the preset digits (about 20 seconds on two CPU cores). Times in a picture are of the machine at hand.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

FOLDER = Path(__file__).parent.parent / "docs" / "pictures"
PICTURES = ("front", "schedules", "learning-curves", "hypervolume")
MOST_BYTES = 150_000  # of one picture; a larger SVG is taken as PNG


def main() -> None:
    """Writes all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", default="digits", help="a study file or preset")
    study = parser.parse_args().study
    FOLDER.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        storage = ("--storage", f"sqlite:///{folder}/studies.db")
        dynamoe_search("run", study, "--name", "digits", "--quiet", *storage)
        dynamoe_search("report", "digits", "--out", f"{folder}/report", *storage)
        for name in PICTURES:
            take(Path(folder) / "report" / "figures", name)


def dynamoe_search(*arguments: str) -> None:
    """Runs a command of the program."""
    command = [sys.executable, "-m", "dynamoe_search", *arguments]
    subprocess.run(command, check=True, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})  # noqa: S603 - our own program


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
