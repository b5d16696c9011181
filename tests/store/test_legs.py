"""Legs: opened, taken over, closed in one transaction; candidates stand, go on, and end."""

from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from dynamoe_search.errors import LeaseLostError, StorageError, UsageError
from dynamoe_search.records import Ended, Outcome, Progress, RungDecision, Standing, Stood
from dynamoe_search.store import Store, legs
from tests.store.builders import KEY, add, complete, leg_of, report


def pruned(ordinal: int) -> Outcome:
    return replace(complete(ordinal, 0.5, 5.0), status="stopped", reason="pruned", epochs=1)


def states(store: Store, name: str) -> list[TrialState]:
    study = optuna.load_study(study_name=name, storage=store.storage_for_optuna())
    return [trial.state for trial in study.trials]


@pytest.fixture
def worker(store: Store, study: str) -> str:
    """A worker of a study with four new candidates."""
    for ordinal in range(4):
        add(store, study, ordinal)
    return store.join(study)


def test_candidates_stand_and_go_on(store: Store, study: str, worker: str) -> None:
    leg = leg_of(store, study, worker, [0, 1, 2], end=1)
    assert (leg.number, leg.trials, leg.state, leg.worker) == (0, (0, 1, 2), "open", worker)
    assert store.legs(study) == store.legs(study, state="open") == [leg]
    decisions = [
        RungDecision(trial=0, rung=1, action="go", beaten=0, rivals=2),
        RungDecision(trial=1, rung=1, action="stop", beaten=2, rivals=2, strongest=0, reason="x"),
    ]
    store.add_progress(study, [report(ordinal, 1) for ordinal in range(3)])
    store.close_leg(
        study,
        worker,
        leg.number,
        ended=[Ended(trial=1, outcome=pruned(1))],
        stood=[Stood(trial=trial, epochs=1, checkpoint=f"sum-{trial}") for trial in (0, 2)],
        decisions=decisions,
        versions={"torch": "2.13"},
    )
    assert store.legs(study) == [replace(leg, state="done")]
    assert store.standings(study)[:3] == [
        Standing(
            trial=trial,
            ordinal=trial,
            cohort=0,
            status=status,
            epochs=1,
            checkpoint=checkpoint,
            pack_key=KEY,
            reference=None,
        )
        for trial, status, checkpoint in (
            (0, "paused", "sum-0"),
            (1, "stopped", None),
            (2, "paused", "sum-2"),
        )
    ]
    record = store.candidate(study, 2)
    assert (record.status, record.epochs, record.checkpoint) == ("paused", 1, "sum-2")
    assert store.decisions(study) == decisions
    assert len(store.progress(study)) == 3
    assert store.candidate(study, 1).versions == {"torch": "2.13"}
    running, over = TrialState.RUNNING, TrialState.PRUNED
    assert states(store, study) == [running, over, running, running]
    found = store.study(study)
    assert (found.num_running, found.num_paused, found.num_stopped) == (1, 2, 1)
    spent = store.spent(study)
    assert (spent.running, spent.paused, spent.stopped, spent.epochs) == (1, 2, 1, 3)
    again = leg_of(store, study, worker, [2])
    assert again.number == 1
    assert store.candidate(study, 2).status == "running"
    assert store.candidate(study, 2).checkpoint == "sum-2"


@pytest.mark.parametrize(
    ("trials", "start", "end", "key", "words"),
    [
        ([7], 0, 1, KEY, "has no trial 7"),
        ([0], 0, 1, KEY, "trial 0 .* is in training already"),
        ([1], 1, 2, KEY, "stands at epoch 0"),
        ([1], 0, 1, "other", "of the pack .*not at epoch 0 of 'other'"),
        ([1, 1], 0, 1, KEY, "no leg"),
        ([], 0, 1, KEY, "no leg"),
        ([1], 1, 1, KEY, "no leg"),
    ],
)
def test_legs_that_cannot_be(
    store: Store,
    study: str,
    worker: str,
    trials: list[int],
    start: int,
    end: int,
    key: str,
    words: str,
) -> None:
    leg_of(store, study, worker, [0])
    with store.planning(study, worker), pytest.raises(UsageError, match=words):
        store.open_leg(study, worker, trials, start=start, end=end, pack_key=key)
    assert len(store.legs(study)) == 1
    assert store.candidate(study, 1).status == "running"


def test_finished_candidates_are_in_no_leg(store: Store, study: str, worker: str) -> None:
    leg = leg_of(store, study, worker, [0])
    ended = [Ended(trial=0, outcome=complete(0, 0.5, 5.0), values=(0.5, 5.0))]
    store.close_leg(study, worker, leg.number, ended=ended, stood=[], versions={})
    with pytest.raises(UsageError, match=r"trial 0 .* is complete already"):
        leg_of(store, study, worker, [0], end=4)
    assert store.candidate(study, 0).epochs == 3
    assert not store.take_leg(study, worker, leg.number)
    with pytest.raises(UsageError, match="has no leg 5"):
        store.take_leg(study, worker, 5)


def test_all_members_must_come_out(store: Store, study: str, worker: str) -> None:
    leg = leg_of(store, study, worker, [0, 1])
    one = Stood(trial=0, epochs=1, checkpoint="x")
    for stood in ([one], [one, Stood(trial=2, epochs=1, checkpoint="x")], [one, one]):
        with pytest.raises(ValueError, match=r"has the trials \[0, 1\]"):
            store.close_leg(study, worker, leg.number, ended=[], stood=stood, versions={})
    assert store.legs(study, state="open") == [leg]


def test_lost_lease_stores_nothing(store: Store, study: str, worker: str) -> None:
    leg = leg_of(store, study, worker, [0])
    with store._database.write() as connection:
        connection.exec_driver_sql("update dynamoe_legs set worker = 'another'")
    before = store.candidates(study)
    with pytest.raises(LeaseLostError, match="was taken over by another") as caught:
        store.close_leg(
            study,
            worker,
            leg.number,
            ended=[Ended(trial=0, outcome=complete(0, 0.5, 5.0), values=(0.5, 5.0))],
            stood=[],
            decisions=[RungDecision(trial=0, rung=1, action="go", beaten=0, rivals=0)],
            versions={},
        )
    assert isinstance(caught.value, StorageError)
    assert store.candidates(study) == before
    assert store.decisions(study) == []
    assert states(store, study) == [TrialState.RUNNING] * 4


def test_leg_is_closed_all_or_not_at_all(
    store: Store, study: str, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leg = leg_of(store, study, worker, [0, 1])
    before = store.candidates(study)

    def break_down(*_: object) -> None:
        raise RuntimeError("a crash")

    monkeypatch.setattr(legs, "upsert_decisions", break_down)
    with pytest.raises(RuntimeError):
        store.close_leg(
            study,
            worker,
            leg.number,
            ended=[Ended(trial=0, outcome=complete(0, 0.5, 5.0), values=(0.5, 5.0))],
            stood=[Stood(trial=1, epochs=1, checkpoint="x")],
            versions={},
        )
    assert store.candidates(study) == before
    assert store.legs(study, state="open") == [leg]


def test_paused_candidates_are_stopped_at_the_end(store: Store, study: str, worker: str) -> None:
    leg = leg_of(store, study, worker, [0, 1], end=1)
    stood = [Stood(trial=trial, epochs=1, checkpoint="x") for trial in (0, 1)]
    store.close_leg(study, worker, leg.number, ended=[], stood=stood, versions={})
    decision = RungDecision(trial=0, rung=1, action="stop", beaten=1, rivals=1, reason="over")
    over = [Ended(trial=trial, outcome=pruned(trial)) for trial in (0, 1)]
    with store.planning(study, worker):
        store.stop_paused(study, worker, over, [decision])
        store.stop_paused(study, worker, over)  # a second time
    assert states(store, study)[:2] == [TrialState.PRUNED] * 2
    assert [one.status for one in store.standings(study)[:2]] == ["stopped"] * 2
    assert store.decisions(study) == [decision]
    with (
        store.planning(study, worker),
        pytest.raises(UsageError, match=r"trial 2 .* is in training"),
    ):
        store.stop_paused(study, worker, [Ended(trial=2, outcome=pruned(2))])


def test_tells_of_stopped_candidates_are_replayed(
    store: Store, study: str, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leg = leg_of(store, study, worker, [0], end=1)
    stood = [Stood(trial=0, epochs=1, checkpoint="x")]
    store.close_leg(study, worker, leg.number, ended=[], stood=stood, versions={})
    with monkeypatch.context() as patch, store.planning(study, worker):
        patch.setattr(store._trials, "finish", lambda *_: None)
        store.stop_paused(study, worker, [Ended(trial=0, outcome=pruned(0))])
    assert states(store, study)[0] == TrialState.RUNNING
    assert store.zombies(study) == [0]
    assert store.replay_tells(study) == [0]
    assert states(store, study)[0] == TrialState.PRUNED
    assert store.zombies(study) == []


def test_two_that_tell_the_same_at_once(
    store: Store, study: str, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leg = leg_of(store, study, worker, [0])
    tell = store._tell

    def be_late(*arguments: Any) -> None:
        with Store.open(store.url) as other:
            assert other.replay_tells(study) == [0]
        tell(*arguments)

    monkeypatch.setattr(store, "_tell", be_late)
    ended = [Ended(trial=0, outcome=complete(0, 0.5, 5.0), values=(0.5, 5.0))]
    store.close_leg(study, worker, leg.number, ended=ended, stood=[], versions={})
    assert states(store, study)[0] == TrialState.COMPLETE


def test_later_decision_replaces_the_earlier(store: Store, study: str, worker: str) -> None:
    first = RungDecision(trial=0, rung=1, action="pause", beaten=3, rivals=4, strongest=2)
    second = replace(first, action="go", beaten=0, strongest=None)
    with store.planning(study, worker):
        store.decide(study, worker, [first])
        store.decide(study, worker, [])
        store.decide(study, worker, [second, replace(first, rung=2), replace(first, trial=1)])
    assert store.decisions(study) == [
        second,
        replace(first, rung=2),
        replace(first, trial=1),
    ]


def test_zombies_are_what_nobody_cares_for(store: Store, study: str, worker: str) -> None:
    leg = leg_of(store, study, worker, [0, 1], end=1)
    stood = [Stood(trial=trial, epochs=1, checkpoint="x") for trial in (0, 1)]
    store.close_leg(study, worker, leg.number, ended=[], stood=stood, versions={})
    leg_of(store, study, worker, [2])
    assert store.zombies(study) == []
    store.leave(study, worker, "interrupted")
    assert store.zombies(study) == [2, 3]


def reports_of(trials: int, epochs: int) -> list[Progress]:
    return [report(ordinal, epoch) for ordinal in range(trials) for epoch in range(1, epochs + 1)]


@pytest.mark.usefixtures("worker")
def test_reports_come_back_in_order(store: Store, study: str) -> None:
    store.add_progress(study, reports_of(3, 4)[::-1])
    assert [(one.ordinal, one.epoch) for one in store.progress(study)] == [
        (ordinal, epoch) for ordinal in range(3) for epoch in range(1, 5)
    ]
    assert [one.epoch for one in store.progress(study, 1)] == [1, 2, 3, 4]
    found = store.progress(study, epochs=(2, 4, 9))
    assert [(one.ordinal, one.epoch) for one in found] == [
        (ordinal, epoch) for ordinal in range(3) for epoch in (2, 4)
    ]
