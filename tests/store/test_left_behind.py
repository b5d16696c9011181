"""Trials of Optuna that a crash left behind, running and without a candidate, are failed when a study closes."""

from collections.abc import Callable

import optuna
import pytest
from optuna.trial import TrialState

from dynamoe_search.errors import LeaseLostError
from dynamoe_search.search import Limits, create_study, run_study
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from tests.store.builders import DISTRIBUTIONS, add, params
from tests.store.test_turns import give_turn, states

FAIL, RUNNING = TrialState.FAIL, TrialState.RUNNING


def optunas(store: Store, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=store.storage_for_optuna())


def leave_behind(store: Store, name: str, ordinal: int) -> None:
    """Adds what a process writes to Optuna's tables before it is killed."""
    optunas(store, name).add_trial(
        optuna.trial.create_trial(
            state=RUNNING,
            params=params(ordinal),
            distributions=DISTRIBUTIONS,
            user_attrs={"ordinal": ordinal},
        )
    )


def test_what_was_left_behind_is_failed_and_nothing_else(store: Store, study: str) -> None:
    add(store, study, 0)
    leave_behind(store, study, 1)
    add(store, study, 2)
    optunas(store, study).ask()  # another program's
    leave_behind(store, study, 3)
    worker = store.join(study)
    with store.planning(study, worker):
        for _ in range(2):
            store.discard_left_behind(study, worker)
            assert states(store, study) == [RUNNING, FAIL, RUNNING, RUNNING, FAIL]
    failed = optunas(store, study).trials[1]
    assert failed.datetime_start is not None
    assert failed.datetime_complete is not None
    assert failed.datetime_complete >= failed.datetime_start
    assert add(store, study, 1) == 5  # should it be proposed again


@pytest.mark.parametrize("planner", ["another", None])
def test_what_another_worker_is_about_to_add_stays(
    store: Store, study: str, planner: str | None
) -> None:
    worker = store.join(study)
    leave_behind(store, study, 0)
    with store.planning(study, worker):
        give_turn(store, planner)
        with pytest.raises(LeaseLostError):
            store.discard_left_behind(study, worker)
    assert states(store, study) == [RUNNING]


def test_study_that_closes_with_fewer_trials_leaves_none_running(
    store: Store, tiny_spec: Callable[..., StudySpec]
) -> None:
    spec = tiny_spec(train={"learning_rate": {"low": 1e-3, "high": 1e-2}})
    create_study(store, spec, source="test", device="cpu", num_threads=1)
    run_study(store, "tiny", limits=Limits(trials=2))
    leave_behind(store, "tiny", 2)
    assert store.zombies("tiny") == [2]
    assert run_study(store, "tiny", limits=Limits(trials=2)).state == "finished"
    assert store.zombies("tiny") == []
    assert states(store, "tiny") == [TrialState.COMPLETE] * 2 + [FAIL]
    assert {one.level for one in store.check("tiny")} == {"ok"}
