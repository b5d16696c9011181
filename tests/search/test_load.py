"""Real processes, databases and the real loop, with training replaced by pauses: nothing fails or happens twice."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = (
    "--ramp",
    "1",
    "--window",
    "6",
    "--epoch-seconds",
    "0.5",
    "--cohort",
    "4",
    "--patience",
    "180",
)


@pytest.mark.slow
def test_workers_on_both_databases_share_a_study() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.cluster.load"),
            *("--postgresql", "6", "--sqlite", "4", *SMALL),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rates = re.findall(
        r"^\| (PostgreSQL|SQLite) \| (\d+) \| [\d.]+ \| ([\d.]+) \| \d+%", done.stdout, re.M
    )
    assert [row[:2] for row in rates] == [("PostgreSQL", "6"), ("SQLite", "4")]
    assert all(float(legs) > 0 for *_, legs in rates)
