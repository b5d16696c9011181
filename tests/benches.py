"""Benchmarks as tests run them: shorter ones, each in a process of its own, since they fork."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def bench(module: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """Runs `python -m benchmarks.MODULE` to its end."""
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        text=True,
    )
