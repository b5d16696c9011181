"""A process that remembers who is over sees exactly what one sees that has just opened the database."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dynamoe_search.records import Ended, Stood
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store, fronts
from tests.store.builders import SETTINGS, add, add_complete, complete, leg_of


def check_same(store: Store, name: str) -> None:
    with Store.open(store.url) as fresh:
        assert store.standings(name) == fresh.standings(name)
        members = store.refresh_front(name)
        assert members == fresh.front(name)
        expected = fresh._database.query(
            lambda found: fronts.computed_front(found, fresh.study(name))
        )
        assert [one.trial for one in members] == [one["trial_number"] for one in expected]


def act(store: Store, name: str, draw: random.Random) -> None:
    """Adds some candidates, or trains some a little further or to their end."""
    standings = store.standings(name)
    free = [one for one in standings if one.status in ("running", "paused")]
    if not free or draw.random() < 0.4:
        for ordinal in range(len(standings), len(standings) + draw.randint(1, 3)):
            add(store, name, ordinal)
        return
    start = draw.choice(free).epochs
    chosen = [one for one in free if one.epochs == start and draw.random() < 0.7]
    if not chosen:
        return
    worker = store.join(name)
    leg = leg_of(store, name, worker, [one.trial for one in chosen], end=start + 1)
    check_same(store, name)
    ended, stood = [], []
    for one in chosen:
        if start + 1 < 3 and draw.random() < 0.6:
            stood.append(Stood(trial=one.trial, epochs=start + 1, checkpoint="some"))
            continue
        values = (draw.randint(1, 9) / 10, float(draw.randint(1, 5)))
        outcome = complete(one.ordinal, *values)
        violations = (draw.choice((-1.0, 1.0)),)
        ended.append(Ended(trial=one.trial, outcome=outcome, values=values, violations=violations))
    store.close_leg(name, worker, leg.number, ended=ended, stood=stood, versions={})


@pytest.mark.parametrize("seed", range(3))
def test_two_processes_see_the_same_as_one_that_has_just_come(
    store: Store, study: str, seed: int
) -> None:
    draw = random.Random(seed)
    with Store.open(store.url) as other:
        for _ in range(12):
            act(draw.choice((store, other)), study, draw)
            for one in (store, other):
                if draw.random() < 0.5:
                    check_same(one, study)
        check_same(store, study)
        check_same(other, study)
        assert {one.status for one in store.standings(study)} >= {"complete"}


def test_who_is_over_is_read_once(store: Store, study: str) -> None:
    for ordinal in range(3):
        add_complete(store, study, ordinal, 0.5, 10.0 + ordinal)
    before = store.standings(study)
    add_complete(store, study, 3, 0.5, 9.0)
    add(store, study, 4)
    after = store.standings(study)
    assert len(after) == 5
    assert all(one is same for one, same in zip(before, after[:3], strict=True))


def test_what_another_process_proposed_and_finished_in_between_is_seen(
    store: Store, study: str
) -> None:
    add_complete(store, study, 0, 0.5, 10.0)
    waiting = add(store, study, 1)
    check_same(store, study)
    with Store.open(store.url) as other:
        add_complete(other, study, 2, 0.9, 20.0)
    check_same(store, study)
    assert [one.status for one in store.standings(study)] == ["complete", "running", "complete"]
    assert store.standings(study)[1].trial == waiting


def test_another_study_of_the_same_name_is_another(
    store: Store, study: str, tiny_spec: Callable[..., StudySpec]
) -> None:
    for ordinal in range(2):
        add_complete(store, study, ordinal, 0.5 + ordinal / 10, 10.0)
    check_same(store, study)
    with Store.open(store.url) as other:
        store.leave(study, store.join(study), "finished")
        other.delete_study(study)
        other.create_study(tiny_spec(), source="tiny.toml", settings=SETTINGS)
        assert store.standings(study) == []
        assert store.refresh_front(study) == []
        for ordinal in range(2):
            add_complete(other, study, ordinal, 0.1, 1.0 + ordinal)
        check_same(store, study)


def test_a_restored_copy_is_seen_as_it_is(
    storage_url: str, tmp_path: Path, tiny_spec: Callable[..., StudySpec]
) -> None:
    path, copy = Path(storage_url.removeprefix("sqlite:///")), tmp_path / "copy.db"
    with Store.open(storage_url) as store:
        store.create_study(tiny_spec(), source="tiny.toml", settings=SETTINGS)
        add_complete(store, "tiny", 0, 0.5, 10.0)
        add(store, "tiny", 1)
    shutil.copy(path, copy)
    with Store.open(storage_url) as store:
        add_complete(store, "tiny", 1, 0.9, 1.0)
        check_same(store, "tiny")
        store.leave("tiny", store.join("tiny"), "interrupted")
        for name in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            name.unlink(missing_ok=True)
        shutil.copy(copy, path)
        assert [one.status for one in store.standings("tiny")] == ["complete", "running"]
        assert [one.trial for one in store.refresh_front("tiny")] == [0]
        check_same(store, "tiny")


@pytest.mark.parametrize("number", range(1, 5))
def test_who_ends_between_two_statements_hides_nobody(
    postgres_store_url: str, tiny_spec: Callable[..., StudySpec], number: int
) -> None:
    name = "tiny"
    with Store.open(postgres_store_url) as mine, Store.open(postgres_store_url) as other:
        mine.create_study(tiny_spec(), source="tiny.toml", settings=SETTINGS)
        add_complete(mine, name, 0, 0.1, 9000.0)
        open_trial = add(mine, name, 1)
        worker = other.join(name)
        leg = leg_of(other, name, worker, [open_trial], end=3)
        mine.refresh_front(name)  # knows who is over, and who is not
        best = add_complete(other, name, 2, 0.99, 10.0)
        asked: list[str] = []

        def end_meanwhile(_: Any, __: Any, statement: str, *___: Any) -> None:
            if "FROM dynamoe_candidates" in statement:
                asked.append(statement)
                if len(asked) == number:
                    outcome = complete(1, 0.2, 5000.0)
                    ended = [Ended(trial=open_trial, outcome=outcome, values=(0.2, 5000.0))]
                    other.close_leg(name, worker, leg.number, ended=ended, stood=[], versions={})

        sa.event.listen(mine._database.engine, "after_cursor_execute", end_meanwhile)
        members = mine.refresh_front(name)
        assert len(asked) >= number
        assert best in [one.trial for one in members]
