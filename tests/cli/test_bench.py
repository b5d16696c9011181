"""`bench`: packs of several sizes are really trained and timed, and bad sizes are refused in one sentence."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run


def test_bench_times_every_size_and_names_the_best(cli: Run, study_file: Path) -> None:
    result = cli("bench", study_file, "--packs", "3,1", "--time", "0.1s", "--threads", 1, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [pack["size"] for pack in found["packs"]] == [1, 3]
    assert found["packs"][0]["ratio"] == 1.0
    assert found["best"] in (1, 3)
    for pack in found["packs"]:
        assert pack["rate"] == pytest.approx(pack["size"] / pack["step_seconds"])


def test_bench_prints_a_table_and_what_to_set(cli: Run, study_file: Path) -> None:
    result = cli("bench", study_file, "--packs", "2", "--time", "0.1s")
    assert result.exit_code == 0, result.output
    assert "candidate-steps per second" in result.stdout
    assert "--set search.cohort_size=2" in result.stdout


@pytest.mark.parametrize("sizes", ["0", "1,two", "", "4,,8", "2000"])
def test_bench_refuses_sizes_that_are_none(cli: Run, study_file: Path, sizes: str) -> None:
    result = cli("bench", study_file, "--packs", sizes)
    assert result.exit_code == 2
    assert "must be numbers from 1 to 1024" in result.stderr
