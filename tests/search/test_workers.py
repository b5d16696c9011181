"""Several processes work on one study: no error, every trial once, and the numbers of one worker."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_four_workers_share_a_study() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.faults.workers"),
            *("--workers", "4", "--trials", "16", "--no-optuna"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "each is there exactly once" in done.stdout
    assert "give every candidate the numbers of one worker, bit for bit" in done.stdout
