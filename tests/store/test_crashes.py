"""Killed processes and two processes at once, on real files."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from dynamoe_search.errors import StorageError
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from tests.store.builders import SETTINGS, add, addition, complete, finish, params

ROOT = Path(__file__).parents[2]

SETUP = """
import os, signal, sys
from dynamoe_search.store import Store, optuna_rows, trials, writing
from tests.store.builders import add, complete, finish
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
store = Store.open(sys.argv[1])
"""


def start(code: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SETUP + code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def run_until_killed(code: str, url: str) -> None:
    process = start(code, url)
    _, problems = process.communicate()
    assert process.returncode == -9, problems


def states(store: Store, name: str) -> list[TrialState]:
    loaded = optuna.load_study(study_name=name, storage=store.storage_for_optuna())
    return [trial.state for trial in loaded.trials]


KILLED_BEFORE_TELL = """
add(store, "tiny", 0), add(store, "tiny", 1)
store._trials.finish = die
finish(store, "tiny", 1, complete(1, 0.75, 10.0), values=[0.75, 10.0], violations=[-1.0],
             versions={})
"""


def test_kill_between_our_rows_and_the_tell_is_healed(store: Store, study: str) -> None:
    run_until_killed(KILLED_BEFORE_TELL, store.url)
    assert store.candidate(study, 1).status == "complete"
    assert states(store, study) == [TrialState.RUNNING, TrialState.RUNNING]
    assert store.replay_tells(study) == [1]
    assert states(store, study) == [TrialState.RUNNING, TrialState.COMPLETE]
    loaded = optuna.load_study(study_name=study, storage=store.storage_for_optuna())
    assert loaded.trials[1].values == [0.75, 10.0]
    assert list(loaded.trials[1].constraints.values()) == [-1.0]
    assert store.replay_tells(study) == []


KILLED_BETWEEN_CONSTRAINT_AND_TELL = """
add(store, "tiny", 0)
optuna_rows._set_states = die
finish(store, "tiny", 0, complete(0, 0.75, 10.0), values=[0.75, 10.0], violations=[-1.0],
             versions={})
"""


def test_kill_inside_the_tell_is_healed(store: Store, study: str) -> None:
    run_until_killed(KILLED_BETWEEN_CONSTRAINT_AND_TELL, store.url)
    assert states(store, study) == [TrialState.RUNNING]
    assert store.replay_tells(study) == [0]
    assert states(store, study) == [TrialState.COMPLETE]


KILLED_BEFORE_OUR_ROW = """
add(store, "tiny", 0)
writing.insert_candidates = die
add(store, "tiny", 1)
"""

KILLED_BEFORE_OUR_ROW_OF_UNKNOWN_TABLES = "store._trials.are_known = False" + KILLED_BEFORE_OUR_ROW


def test_kill_between_the_trial_and_our_row_leaves_neither(store: Store, study: str) -> None:
    run_until_killed(KILLED_BEFORE_OUR_ROW, store.url)
    assert len(states(store, study)) == 1
    assert add(store, study, 1) == 1
    assert len(states(store, study)) == 2


@pytest.mark.parametrize("are_known", [True, False])
def test_kill_between_the_trial_and_our_row_is_healed(
    store: Store, study: str, are_known: bool
) -> None:
    run_until_killed(KILLED_BEFORE_OUR_ROW_OF_UNKNOWN_TABLES, store.url)
    store._trials.are_known = are_known
    assert len(states(store, study)) == 2
    assert [item.trial for item in store.candidates(study)] == [0]
    assert add(store, study, 1) == 1
    assert len(states(store, study)) == 2
    assert store.candidate(study, 1).ordinal == 1


def test_left_over_trial_with_other_parameters_is_failed(store: Store, study: str) -> None:
    run_until_killed(KILLED_BEFORE_OUR_ROW_OF_UNKNOWN_TABLES, store.url)
    other = replace(addition(1), params={**params(1), "model.d_model": 32})
    (trial,) = store.add_candidates(study, [other])
    assert trial == 2
    assert states(store, study) == [TrialState.RUNNING, TrialState.FAIL, TrialState.RUNNING]


KILLED_BEFORE_OPTUNAS_STUDY = """
from dynamoe_search.specs import StudySpec
from tests.store.builders import SETTINGS
store._optuna.study = die
store.create_study(StudySpec.model_validate({"study": {"name": "half"}}), source="x",
                   settings=SETTINGS)
"""


def test_study_of_which_optuna_does_not_know_yet_is_completed(store: Store) -> None:
    run_until_killed(KILLED_BEFORE_OPTUNAS_STUDY, store.url)
    assert optuna.get_all_study_names(store.storage_for_optuna()) == []
    assert add(store, "half", 0) == 0
    loaded = optuna.load_study(study_name="half", storage=store.storage_for_optuna())
    assert loaded.metric_names == ["accuracy", "activated_params"]


def test_study_that_optuna_lost_is_not_made_again(store: Store, study: str) -> None:
    add(store, study, 0)
    storage = store.storage_for_optuna()
    optuna.delete_study(study_name=study, storage=storage)
    for use in (
        lambda: add(store, study, 1),
        lambda: finish(store, study, 0, complete(0, 0.5, 5.0), values=[0.5, 5.0], versions={}),
        lambda: store.replay_tells(study),
    ):
        with pytest.raises(StorageError, match="another program deleted"):
            use()
    assert store.times(study) == {}  # reading still tells what there is
    assert store.study(study).num_complete == 1
    store.delete_study(study)
    assert store.studies() == []


ADD_MANY = """
numbers = [add(store, "tiny", int(sys.argv[2]) + 2 * step) for step in range(15)]
for step, number in enumerate(numbers):
    assert store.candidate("tiny", number).ordinal == int(sys.argv[2]) + 2 * step
    finish(store, "tiny", number, complete(int(sys.argv[2]) + 2 * step, 0.5, 1.0),
                 values=[0.5, 1.0], versions={})
"""


@pytest.mark.slow
def test_two_processes_at_once_get_their_own_trials(store: Store, study: str) -> None:
    both = [start(ADD_MANY, store.url, str(first)) for first in (0, 1)]
    for process in both:
        _, problems = process.communicate()
        assert process.returncode == 0, problems
    found = store.candidates(study)
    assert [item.trial for item in found] == list(range(30))
    assert sorted(item.ordinal for item in found) == list(range(30))
    loaded = optuna.load_study(study_name=study, storage=store.storage_for_optuna())
    assert [trial.user_attrs["ordinal"] for trial in loaded.trials] == [
        item.ordinal for item in found
    ]
    assert {trial.state for trial in loaded.trials} == {TrialState.COMPLETE}


ADD_SAME = """
for step in range(10):
    print(add(store, "tiny", step))
"""


@pytest.mark.slow
def test_two_processes_that_add_the_same_ordinals_agree(store: Store, study: str) -> None:
    both = [start(ADD_SAME, store.url) for _ in range(2)]
    outputs = []
    for process in both:
        output, problems = process.communicate()
        assert process.returncode == 0, problems
        outputs.append(output)
    assert outputs[0] == outputs[1]
    assert len(store.candidates(study)) == 10
    assert states(store, study).count(TrialState.RUNNING) == 10


OPEN_NEW = """
store.storage_for_optuna()
"""


@pytest.mark.slow
def test_processes_that_open_a_new_database_at_once(
    storage_url: str, tiny_spec: Callable[..., StudySpec]
) -> None:
    several = [start(OPEN_NEW, storage_url) for _ in range(3)]
    for process in several:
        _, problems = process.communicate()
        assert process.returncode == 0, problems
    with Store.open(storage_url) as store:
        store.create_study(tiny_spec(), source="x", settings=SETTINGS)
        assert add(store, "tiny", 0) == 0
