"""Real processes, databases and the real loop, with training replaced by pauses: nothing fails or happens twice."""

import re

import pytest

from tests.benches import bench

SMALL = (
    *("--ramp", "1", "--window", "4", "--epoch-seconds", "0.5"),
    *("--cohort", "4", "--patience", "180"),
)


@pytest.mark.slow
def test_workers_on_both_databases_share_a_study() -> None:
    done = bench("cluster.load", "--postgresql", "6", "--sqlite", "4", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    rates = re.findall(
        r"^\| (PostgreSQL|SQLite) \| (\d+) \| [\d.]+ \| ([\d.]+) \| \d+%", done.stdout, re.M
    )
    assert [row[:2] for row in rates] == [("PostgreSQL", "6"), ("SQLite", "4")]
    assert all(float(legs) > 0 for *_, legs in rates)
