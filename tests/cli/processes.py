"""The program in a process of its own, so that it can be watched, signalled and killed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(
    *words: object, cwd: Path | None = None, stdout: int = subprocess.DEVNULL
) -> "subprocess.Popen[str]":
    """Starts `dynamoe-search WORDS`; what it says on stderr can be read line by line."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *(str(word) for word in words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stderr=subprocess.PIPE,
        stdout=stdout,
        text=True,
    )


def wait_for_line(process: "subprocess.Popen[str]", beginning: str) -> None:
    """Reads stderr up to a line that begins so; fails if the process ends before it."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(beginning):
            return
    raise AssertionError(f"it ended with {process.wait()} before it said {beginning!r}")


@contextmanager
def ended(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    """Kills the process at the end, if it still runs."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
