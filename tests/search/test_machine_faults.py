"""Full disks, locked, missing, damaged or newer databases, storage that goes away: survived, with a clear message.

The faults are those of `benchmarks/faults/machine.py`, on a smaller study; all are tried in one process of its own,
since it forks.
"""

import json
from typing import Any

import pytest

from tests.benches import bench

FAULTS = (
    "disk full when the database is written",
    "disk full when a candidate's checkpoint is written",
    "disk full when a leg's checkpoint is written",
    "disk full when a model's weights is written",
    "disk with 256 kB left",
    "database locked",
    "database on a file system that is read-only",
    "database missing",
    "database corrupt",
    "database from a newer version",
    "every checkpoint corrupt",
    "folder of the database moved away",
    "storage unmounted",
)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """What came of every fault."""
    times = ("--lock-seconds", "3", "--gone-seconds", "1")
    done = bench("faults.machine", "--quick", "--json", *times)
    assert done.stdout, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_machine_is_survived(rows: list[dict[str, Any]], fault: str) -> None:
    (row,) = [row for row in rows if row["fault"].startswith(fault)]
    if row["skipped"] is not None:
        pytest.skip(row["skipped"])
    assert row["problems"] == [], row


@pytest.mark.slow
def test_no_fault_is_left_out(rows: list[dict[str, Any]]) -> None:
    assert len(rows) == len(FAULTS)
