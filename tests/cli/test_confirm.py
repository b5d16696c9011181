"""`confirm` as a user runs it: tables and JSON, bad input in one sentence, and a process that is killed."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cli.processes import ended, start, wait_for_line
from tests.finished import copy_of

ROOT = Path(__file__).parents[2]
OPTIONS = ("--seeds", "3", "--limit", "2", "--quiet")


@pytest.fixture
def url(searched: str, tmp_path: Path) -> str:
    return copy_of(searched, tmp_path / "copy")


def results(cli: Run, url: str) -> dict[str, Any]:
    done = cli("confirm", "tiny", *OPTIONS, "--json", "--storage", url)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_table_json_and_what_is_left_in_the_database(cli: Run, url: str) -> None:
    shown = cli("confirm", "tiny", *OPTIONS, "--storage", url)
    assert shown.exit_code == 0, shown.output
    assert "members of the front" in shown.stdout
    assert "All runs are kept, with their weights: tiny.confirm" in shown.stdout
    found = results(cli, url)
    assert found["studies"] == ["tiny.confirm"]
    assert found["confirmation"]["seeds"] == 3
    assert len(found["confirmation"]["places"]) == len(found["trials"])
    for sentence in found["findings"]:
        assert sentence in shown.stdout
    listed = json.loads(cli("list", "--json", "--storage", url).stdout)
    assert [(one["name"], one["purpose"], one["parent"]) for one in listed] == [
        ("tiny", "search", None),
        ("tiny.confirm", "confirm", "tiny"),
    ]
    assert "confirm tiny" in cli("status", "tiny.confirm", "--storage", url).stdout
    assert cli("front", "tiny.confirm", "--storage", url).exit_code == 0
    again = cli("resume", "tiny.confirm", "--quiet", "--storage", url)
    assert again.exit_code == 0, again.output
    assert "--trials" not in again.stdout
    wrong = cli("resume", "tiny.confirm", "--trials", 500, "--quiet", "--storage", url)
    assert wrong.exit_code == 2
    assert "for more, call confirm on 'tiny' again" in wrong.stderr
    asked = cli("delete", "tiny", "--storage", url, input="n\n")
    assert "what was made from it: tiny.confirm" in asked.stderr
    gone = cli("delete", "tiny", "--yes", "--storage", url)
    assert gone.stdout == "deleted tiny, tiny.confirm\n"
    assert json.loads(cli("list", "--json", "--storage", url).stdout) == []


def test_scaled_designs_are_shown_beside(cli: Run, url: str) -> None:
    more = ("--no-baselines", "--scale", "2", "--scale-by", "epochs")
    shown = cli("confirm", "tiny", *OPTIONS, *more, "--storage", url)
    assert shown.exit_code == 0, shown.output
    assert "The same at 2 times the epochs" in shown.stdout
    assert "carry over to 2 times the epochs" in shown.stdout
    assert "tiny.confirm, tiny.confirm-2" in shown.stdout


def test_killed_process_goes_on_to_the_same_numbers(cli: Run, url: str, tmp_path: Path) -> None:
    other = copy_of(url, tmp_path / "other")
    with ended(start("confirm", "tiny", *OPTIONS[:4], "--storage", other)) as process:
        wait_for_line(process, "leg 1")
        process.send_signal(signal.SIGKILL)
    (row,) = json.loads(cli("list", "--json", "--storage", other).stdout)[1:]
    assert row["state"] == "interrupted"
    assert row["complete"] < row["trials"]
    assert results(cli, other)["confirmation"] == results(cli, url)["confirmation"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("other",), "there is no study 'other'"),
        (("tiny", "--trials", "99"), "has no trial 99"),
        (("tiny", "--trials", "a,b"), "must be trial numbers, such as 3,17"),
        (("tiny", "--trials", ""), "must be trial numbers"),
        (("tiny", "--seeds", "1"), "--seeds"),
        (("tiny", "--limit", "0"), "--limit"),
        (("tiny", "--scale", "1"), "--scale"),
        (("tiny", "--scale-by", "depth"), "--scale-by"),
        (("tiny", "--scale-by", "epochs"), "such as --scale 2"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: tuple[str, ...], words: str, cli: Run, searched: str
) -> None:
    done = cli("confirm", *arguments, "--storage", searched)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert len(json.loads(cli("list", "--json", "--storage", searched).stdout)) == 1
