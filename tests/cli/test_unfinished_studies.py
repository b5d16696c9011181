"""What the commands say of a study that is not over: who waits, what was measured so far, what it may still use."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dynamoe_search.cli.doctor import _package
from dynamoe_search.cli.words import ago
from dynamoe_search.store import Store
from tests.cli.conftest import STUDY, Run, invoke

CHANGES = (
    "search.pruner.kind=pareto",
    "search.pruner.min_records=2",
    "search.pruner.rungs=[1,2]",
    "train.epochs=4",
    "study.trials=9",
    "study.references=['dense', 'top-2']",
)
EPOCHS = 5


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a database with a study whose budget of epochs ended before its candidates did."""
    folder = tmp_path_factory.mktemp("waiting")
    (folder / "study.toml").write_text(STUDY)
    url = f"sqlite:///{folder / 'studies.db'}"
    sets = [word for change in CHANGES for word in ("--set", change)]
    words = ("run", folder / "study.toml", "--storage", url, "--device", "cpu", "--quiet")
    result = invoke(*words, *sets, "--epochs", EPOCHS, "--time-budget", "1h")
    assert result.exit_code == 0, result.output
    return url


def status_of(url: str) -> str:
    result = invoke("status", "tiny", "--storage", url)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_counts_add_up(waiting: str) -> None:
    (line,) = [one for one in status_of(waiting).splitlines() if one.startswith("candidates")]
    assert "not begun" in line
    *parts, total = map(int, re.findall(r"\d+", line))
    assert sum(parts) == total == 9


def test_references_that_wait_are_listed(waiting: str) -> None:
    with Store.open(waiting) as store:
        paused = store.candidates("tiny", status=("paused",))
    assert any(one.candidate.reference for one in paused)
    table = status_of(waiting).partition("paused trial")[2]
    for one in paused:
        assert re.search(rf"^\s*{one.trial}\b", table, re.M), table
    assert "reference dense" in table


def test_long_tables_are_cut(waiting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dynamoe_search.cli import states

    monkeypatch.setattr(states, "_MOST_ROWS", 1)
    with Store.open(waiting) as store:
        num_paused = store.study("tiny").num_paused
    assert num_paused > 1
    assert f"and {num_paused - 1} more; --json has all of them" in status_of(waiting)


def test_a_paused_trial_shows_its_latest_measurements(waiting: str) -> None:
    with Store.open(waiting) as store:
        record = store.candidates("tiny", status=("paused",))[0]
        last = store.progress("tiny", record.trial)[-1]
    result = invoke("show", "tiny", record.trial, "--storage", waiting)
    assert result.exit_code == 0, result.output
    assert f"measure after epoch {last.epoch}" in result.stdout
    for name in ("accuracy", "validation_loss", "activated_params", "mean K"):
        assert name in result.stdout
    assert f"{last.accuracy:.4g}" in result.stdout


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--epochs", EPOCHS - 1), f"has trained {EPOCHS} epochs already, which is more than 4"),
        (("--time-budget", "0.001s"), "s already, which is more than 0 s"),
    ],
)
def test_a_budget_below_what_is_spent_is_refused(
    waiting: str, option: tuple[object, ...], words: str
) -> None:
    result = invoke("resume", "tiny", *option, "--storage", waiting)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    with Store.open(waiting) as store:
        assert store.study("tiny").max_epochs == EPOCHS


def test_a_budget_that_is_used_up_may_be_named_again(waiting: str) -> None:
    result = invoke("resume", "tiny", "--epochs", EPOCHS, "--storage", waiting, "--quiet")
    assert result.exit_code == 0, result.output
    assert "the budget of epochs is used up" in result.stdout


def test_no_folder_is_made_for_a_trial_without_a_model(waiting: str, tmp_path: Path) -> None:
    with Store.open(waiting) as store:
        trial = store.candidates("tiny", status=("paused",))[0].trial
    out = tmp_path / "model"
    result = invoke("export", "tiny", trial, "--out", out, "--storage", waiting)
    assert result.exit_code == 2
    assert "is paused and has no model" in result.stderr
    assert not out.exists()


def test_an_interrupted_study_does_not_alarm_the_doctor(waiting: str) -> None:
    result = invoke("doctor", "tiny", "--json", "--storage", waiting)
    assert result.exit_code == 0, result.output
    assert {one["level"] for one in json.loads(result.stdout)} == {"ok"}


def test_an_unknown_pruner_is_one_problem(study_file: Path) -> None:
    result = invoke("check", study_file, "--set", "search.pruner.kind=nonsense")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "search.pruner.kind: got" in result.stderr
    assert "must be one of auto, none, pareto, moasha, median" in result.stderr


def test_a_narrow_front_says_what_it_leaves_out(
    cli: Run, searched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "left out: mean K, schedule" in cli("front", "tiny", "--storage", searched).stdout
    monkeypatch.setenv("COLUMNS", "120")
    assert "left out" not in cli("front", "tiny", "--storage", searched).stdout


def test_doctor_names_the_extras_as_optional(cli: Run, storage_url: str) -> None:
    found = json.loads(cli("doctor", "--json", "--storage", storage_url).stdout)
    report = [one for one in found if one["name"] in ("plotly", "matplotlib", "jinja2", "pyarrow")]
    assert len(report) == 4
    assert not any(one["required"] for one in report)
    missing = _package("no-such-package", cure="optional; pip install 'dynamoe-search[report]'")
    assert (missing.ok, missing.required) == (False, False)
    assert missing.cure is not None
    assert missing.cure.startswith("optional")


def test_moments_are_said_as_people_say_them() -> None:
    now = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)

    def said(**passed: float) -> str:
        return ago((now - timedelta(**passed)).isoformat(), now)

    assert said(seconds=20) == said(seconds=-20) == "just now"
    assert said(minutes=3) == "3 min ago"
    assert said(hours=5) == "5 h ago"
    assert said(days=3) == "2026-11-19"
    assert said(days=-2) == "2026-11-24 08:00 UTC"
    assert ago("\x1b]0;owned") == "\x1b]0;owned"  # printed as its escape
    assert ago("2026-11-22 08:00") == "2026-11-22 08:00"


def test_times_in_lists_are_short(waiting: str) -> None:
    shown = invoke("list", "--storage", waiting).stdout + status_of(waiting)
    assert "just now" in shown or "min ago" in shown
    assert not re.search(r"\d\dT\d\d:", shown)


def test_the_front_so_far_shows_who_is_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    sets = [word for change in CHANGES for word in ("--set", change)]
    words = ("run", tmp_path / "study.toml", "--storage", url, "--device", "cpu", "--quiet")
    result = invoke(*words, *sets, "--epochs", 3)
    assert result.exit_code == 0, result.output
    assert re.search(r"dynamoe-search front tiny .*--so-far|front tiny --so-far", result.stdout)

    empty = invoke("front", "tiny", "--storage", url)
    assert re.search(r"nobody has been trained to the end; \d+ (is|are) on the way", empty.stdout)
    shown = invoke("front", "tiny", "--storage", url, "--so-far")
    assert re.search(r"\d of 4 ", shown.stdout), shown.stdout
    rows = json.loads(invoke("front", "tiny", "--storage", url, "--so-far", "--json").stdout)
    with Store.open(url) as store:
        last = {one.ordinal: one for one in store.progress("tiny")}
        for row in rows:
            report = last[store.candidate("tiny", row["trial"]).ordinal]
            assert row["accuracy"] == report.accuracy
            assert (row["epochs"], row["is_complete"]) == (report.epoch, False)
