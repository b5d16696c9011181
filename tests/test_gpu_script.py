"""`benchmarks/gpu.sh` as it runs without a GPU, very small, and the page that is made of what it leaves."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_page import page
from tests.benches import ROOT

STEPS = ["tests", "step", "sharing", "memory", "whole_study", "bench", "widths"]
MOST_FILES = 8  # that a machine which is lent for a command gives back


@pytest.mark.slow  # every step is a process of its own, and nothing else runs the script
def test_every_step_runs_without_a_gpu_and_has_its_table(tmp_path: Path) -> None:
    here = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "benchmarks/gpu.sh", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{here}:{os.environ['PATH']}"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = (tmp_path / "summary.txt").read_text()
    assert re.findall(r"^(\w+): rc 0 after", summary, re.M) == STEPS
    assert len(list(tmp_path.iterdir())) <= MOST_FILES
    text = "\n".join(page(tmp_path))
    assert (
        text.count("\n| --: |") + text.count("\n| :-- |") == len(STEPS) - 2
    )  # tests and bench have none
    assert text.count("; OpenMP as it is;") == 3  # steps and whole studies run as users' scripts do
    for words in (
        "skipped",
        "2 together in one process",
        "MB per candidate",
        "hypervolume",
        "cohort_size",
    ):
        assert words in text


def test_a_step_that_fails_keeps_its_table_and_shows_its_last_words(tmp_path: Path) -> None:
    summary = [
        "HAS A GPU",
        "tests: rc 1 after 9 of 130 s",
        "step: rc 124 after 110 of 110 s",
        "bench: rc 0 after 1 of 50 s",
        "widths: no time left",
    ]
    logs = {
        "summary.txt": summary,
        "tests.log": ["..F", "INFO     tests:x.py:1 y in bf16: within 0.0031", "noise", "1 failed"],
        "step.log": ["# Steps", "", "| who |", "| :-- |", "| ours |", "Traceback", "CUDA error"],
        "bench.log": ["16 together"],
    }
    for name, lines in logs.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    text = "\n".join(page(tmp_path))
    assert "within 0.0031\n1 failed\n```" in text
    assert "## Steps\n\n| who |\n| :-- |\n| ours |\n\nIt failed, or was too slow:\n" in text
    assert text.count("CUDA error") == 1
    assert "## Bench\n\n```text\n16 together\n```" in text
