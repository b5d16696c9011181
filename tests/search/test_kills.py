"""SIGKILL at every point where a study writes: nothing lost, nothing done twice, the same result.

A shorter run of `benchmarks/faults/kills.py`, in a process of its own, since it forks.
"""

import re

import pytest

from tests.benches import bench

OPTIONS = ("--kills", "20", "--studies", "3", "--each", "1", "--per-study", "7", "--quick-study")


@pytest.mark.slow
def test_a_study_that_is_killed_anywhere_ends_as_if_it_had_not_been() -> None:
    done = bench("faults.kills", *OPTIONS, "--no-commands")
    assert done.returncode == 0, done.stderr
    groups = dict(re.findall(r"^\| \*\*(.+)\*\* \| \| \*\*(\d+)\*\* \|$", done.stdout, re.M))
    for group in (
        "in an ask: Optuna's row written, ours not",
        "between the values and the mark: committed here, Optuna not told",
        "in a rung's transaction",
        "in the rename of a candidate's checkpoint",
        "in the rename of a leg's checkpoint",
        "database committed, checkpoint not",
        "checkpoints written, transaction not begun",
        "at random moments, by a timer",
    ):
        assert int(groups[group]) >= 1, done.stdout
