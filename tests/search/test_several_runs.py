"""Several runs of one study, at once and one after another: files, threads, budgets of time."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from dynamoe_search.errors import StoppedError
from dynamoe_search.records import Leg
from dynamoe_search.search import (
    Event,
    LegFinished,
    LegStarted,
    Limits,
    check_study,
    create_study,
    run_study,
)
from dynamoe_search.search.study_files import StudyFiles
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store, weight_files
from tests.search.interrupting import SEARCH, SECTIONS, Steps, everything, run

MakeSpec = Callable[..., StudySpec]

PARETO = {"kind": "pareto", "min_records": 2}


def spec_with(tiny_spec: MakeSpec, **search: Any) -> StudySpec:
    return tiny_spec(**SECTIONS, search=SEARCH | {"pruner": PARETO} | search)


def test_links_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    for name in ("documents", "17", "models"):
        (outside / name).mkdir(parents=True)
        (outside / name / "3.safetensors").write_text("theirs")
    before = sorted(path.relative_to(outside) for path in outside.rglob("*"))
    for number, (link, target) in enumerate(
        (
            ("checkpoints", outside),
            ("checkpoints/legs", outside),
            ("checkpoints/candidates", outside),
            ("models", outside / "models"),
        )
    ):
        folder = tmp_path / f"study-{number}"
        (folder / link).parent.mkdir(parents=True)
        (folder / link).symlink_to(target)
        files = StudyFiles(folder)
        files.keep_legs(files.present(), ())
        files.keep_states(files.present(), {}, 0)
        weight_files.remove(files.models, weight_files.present(files.models).keys())
    assert sorted(path.relative_to(outside) for path in outside.rglob("*")) == before


def test_only_what_was_there_before_the_database_was_asked_is_removed(tmp_path: Path) -> None:
    files = StudyFiles(tmp_path)
    leg = Leg(number=0, trials=(1,), start=0, end=1, pack_key="a", worker=None)
    files.of_leg(leg).path.mkdir(parents=True)
    (tmp_path / "checkpoints" / "legs" / "notes").mkdir()
    present = files.present()
    later = Leg(number=1, trials=(2,), start=0, end=1, pack_key="a", worker=None)
    files.of_leg(later).path.mkdir()
    files.keep_legs(present, ())
    left = sorted(path.name for path in (tmp_path / "checkpoints" / "legs").iterdir())
    assert left == ["1", "notes"]


def test_another_number_of_threads_outside_changes_nothing(
    storage_url: str, tiny_spec: MakeSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = spec_with(tiny_spec)
    url = f"sqlite:///{tmp_path / 'whole.db'}"
    whole = Steps()
    run(url, spec, on_event=whole.on_event, should_stop=whole.should_stop)
    first = Steps(stop_after=whole.count // 2)
    run(storage_url, spec, on_event=first.on_event, should_stop=first.should_stop)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with Store.open(storage_url) as store:
            assert {one.level for one in check_study(store, "tiny")} <= {"ok", "warning"}
        torch.set_num_threads(3)
        second = Steps()
        run(storage_url, spec, on_event=second.on_event, should_stop=second.should_stop)
    finally:
        torch.set_num_threads(before)
    assert "is not used" not in caplog.text
    assert first.count + second.count == whole.count
    assert everything(storage_url) == everything(url)


def test_a_time_budget_counts_what_other_runs_took(storage_url: str, tiny_spec: MakeSpec) -> None:
    spec = spec_with(tiny_spec)
    seen: list[Event] = []

    def stop_after_a_leg() -> bool:
        return any(isinstance(event, LegFinished) for event in seen)

    first = run(storage_url, spec, on_event=seen.append, should_stop=stop_after_a_leg)
    with Store.open(storage_url) as store:
        spent = store.study("tiny").seconds_spent
    assert first.reason == "interrupt"
    assert spent > 0
    second = run(storage_url, spec, limits=Limits(study_seconds=spent))
    assert (second.reason, second.complete) == ("time-budget", 0)
    third = run(storage_url, spec, limits=Limits(study_seconds=spent + 600))
    assert third.state == "finished"


def test_second_run_in_a_process_whose_first_could_not_say_that_it_left(
    storage_url: str, tiny_spec: MakeSpec
) -> None:
    path = Path(storage_url.removeprefix("sqlite:///"))
    away = path.with_name("away.db")
    with Store.open(storage_url) as store:
        create_study(store, tiny_spec(), source="test", device="cpu")

        def lose_the_database(event: Event) -> None:
            if isinstance(event, LegStarted):
                path.rename(away)

        with pytest.raises(StoppedError):
            run_study(store, "tiny", on_event=lose_the_database, should_stop=away.exists)
        away.rename(path)
        (first,) = store.workers("tiny")
        assert not first.is_alive
        assert [leg.worker for leg in store.legs("tiny", state="open")] == [first.id]
        summary = run_study(store, "tiny", limits=Limits(timeout_seconds=30))
        assert summary.reason in ("trials", "exhausted")
        assert store.legs("tiny", state="open") == []
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("select left_at from dynamoe_workers").fetchall()
        assert all(left_at for (left_at,) in rows)
        assert store.study("tiny").state == "finished"


def test_a_worker_that_was_said_to_be_gone_ends(
    storage_url: str, tiny_spec: MakeSpec, caplog: pytest.LogCaptureFixture
) -> None:
    spec = tiny_spec(study={"trials": 2, "references": []})
    since: list[float] = []
    with Store.open(storage_url) as store, Store.open(storage_url) as other:
        create_study(store, spec, source="test", device="cpu", num_threads=1)

        def say_it(event: Event) -> None:
            if isinstance(event, LegFinished) and not since:
                since.append(time.monotonic())
                other.leave("tiny", store.workers("tiny")[0].id, "interrupted", 1.0)

        def is_late() -> bool:
            return bool(since) and time.monotonic() - since[0] > 20

        summary = run_study(store, "tiny", on_event=say_it, should_stop=is_late)
        assert summary.reason == "interrupt"
        assert not is_late()
        assert caplog.text.count("somebody said of this process that it is gone") == 1
        again = run_study(store, "tiny", limits=Limits(timeout_seconds=30))
        assert again.state == "finished"
