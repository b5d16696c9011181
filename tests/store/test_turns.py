"""Who lost its turn to plan stores nothing as the one that plans, whatever it had found out before it slept."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from dynamoe_search.errors import LeaseLostError
from dynamoe_search.records import Ended, RungDecision, Stood
from dynamoe_search.store import Store, tables, workers
from dynamoe_search.store.runs import Watcher
from tests.store.builders import KEY, add, addition, complete, leg_of
from tests.store.test_workers import may_plan, set_worker

GO = RungDecision(trial=0, rung=1, action="go", beaten=0, rivals=1)
STOPPED = replace(complete(0, 0.5, 5.0), status="stopped", reason="pruned", epochs=1)

WRITES: dict[str, Callable[[Store, str, str], object]] = {
    "stop_paused": lambda store, name, worker: store.stop_paused(
        name, worker, [Ended(trial=0, outcome=STOPPED)]
    ),
    "decide": lambda store, name, worker: store.decide(name, worker, [GO]),
    "add_candidates": lambda store, name, worker: store.add_candidates(
        name, [addition(3)], worker=worker
    ),
    "set_exhausted": lambda store, name, worker: store.set_exhausted(name, 3, worker=worker),
    "open_leg": lambda store, name, worker: store.open_leg(
        name, worker, [1], start=0, end=1, pack_key=KEY
    ),
}
"""What only the one that plans may store."""


def give_turn(store: Store, worker: str | None) -> None:
    """Gives the turn away, as if its owner had been silent for long."""
    with store._database.write() as connection:
        connection.execute(tables.studies.update().values(planner=worker))


def states(store: Store, name: str) -> list[TrialState]:
    loaded = optuna.load_study(study_name=name, storage=store.storage_for_optuna())
    return [trial.state for trial in loaded.trials]


def facts(store: Store, name: str) -> list[Any]:
    return [
        store.candidates(name),
        store.decisions(name),
        store.legs(name),
        store.study(name).exhausted_at,
        states(store, name),
    ]


@pytest.fixture
def worker(store: Store, study: str) -> str:
    """A worker of a study with one paused candidate and two new ones."""
    for ordinal in range(3):
        add(store, study, ordinal)
    worker = store.join(study)
    leg = leg_of(store, study, worker, [0], end=1)
    stood = [Stood(trial=0, epochs=1, checkpoint="x")]
    store.close_leg(study, worker, leg.number, ended=[], stood=stood, versions={})
    return worker


@pytest.mark.parametrize("planner", ["another", None])
@pytest.mark.parametrize("write", WRITES)
def test_who_lost_its_turn_stores_nothing(
    store: Store, study: str, worker: str, write: str, planner: str | None
) -> None:
    before = facts(store, study)
    with store.planning(study, worker):
        give_turn(store, planner)
        with pytest.raises(LeaseLostError, match="does not plan for the study 'tiny' any more"):
            WRITES[write](store, study, worker)
    assert facts(store, study) == before


@pytest.mark.parametrize("write", WRITES)
def test_who_has_its_turn_stores_it(store: Store, study: str, worker: str, write: str) -> None:
    before = facts(store, study)
    with store.planning(study, worker):
        WRITES[write](store, study, worker)
    assert facts(store, study) != before


def test_turn_that_is_lost_between_optunas_row_and_ours(
    store: Store, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    me, add_rows = store.join(study), store._trials.add
    store._trials.are_known = False  # otherwise both are in one transaction

    def be_late(*arguments: Any) -> list[int]:
        rows = add_rows(*arguments)
        give_turn(store, None)
        with Store.open(store.url) as other:
            theirs = other.join(study)
            with other.planning(study, theirs):  # takes what was left behind
                assert other.add_candidates(study, [addition(0)], worker=theirs) == rows
        return rows

    monkeypatch.setattr(store._trials, "add", be_late)
    with store.planning(study, me), pytest.raises(LeaseLostError):
        store.add_candidates(study, [addition(0)], worker=me)
    assert [one.trial for one in store.candidates(study)] == [0]
    assert states(store, study) == [TrialState.RUNNING]


def test_who_wakes_up_leaves_the_rows_alone_that_another_is_about_to_take(
    store: Store, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = store.join(study)
    changed = replace(addition(0), params={**addition(0).params, "model.d_model": 32})
    with Store.open(store.url) as other, store.planning(study, me):
        theirs, add_rows = other.join(study), other._trials.add
        other._trials.are_known = False
        give_turn(store, theirs)

        def be_overtaken(*arguments: Any) -> list[int]:
            rows = add_rows(*arguments)
            with pytest.raises(LeaseLostError):
                store.add_candidates(study, [changed], worker=me)
            return rows

        monkeypatch.setattr(other._trials, "add", be_overtaken)
        other.add_candidates(study, [addition(0)], worker=theirs)
    assert states(store, study) == [TrialState.RUNNING]


def test_turn_does_not_change_hands_amid_a_transaction(
    store: Store, study: str, worker: str
) -> None:
    with Store.open(store.url) as other:
        theirs = other.join(study)
        with store.planning(study, worker):
            set_worker(store, worker, host="elsewhere")
            other._watcher = Watcher(silence_seconds=0.0)  # dead at the second look
            assert not may_plan(other, study, theirs)
            with ThreadPoolExecutor(1) as pool, store._database.write() as connection:
                workers.require_turn(connection, study, worker)
                taken = pool.submit(may_plan, other, study, theirs)
                time.sleep(0.3)
                assert not taken.done()
                assert connection.execute(sa.select(tables.studies.c.planner)).scalar() == worker
            assert taken.result()
            with pytest.raises(LeaseLostError):
                store.decide(study, worker, [GO])


@pytest.mark.parametrize("write", WRITES)
def test_who_was_said_to_be_gone_stores_nothing(
    store: Store, study: str, worker: str, write: str
) -> None:
    before = facts(store, study)
    with store.planning(study, worker):
        set_worker(store, worker, left_at="2026-01-01T00:00:00.000000Z")
        with pytest.raises(LeaseLostError, match="does not plan for the study 'tiny' any more"):
            WRITES[write](store, study, worker)
    assert facts(store, study) == before
