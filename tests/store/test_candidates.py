"""Candidates, their progress and outcomes: what goes in comes out, here and in Optuna's tables."""

import math
from dataclasses import replace

import numpy as np
import optuna
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from dynamoe_search.errors import UsageError
from dynamoe_search.records import AdaptiveConfig, Candidate, Ended, Outcome
from dynamoe_search.store import Store, tables
from dynamoe_search.store.texts import from_text, to_text
from tests.store.builders import (
    DISTRIBUTIONS,
    add,
    add_complete,
    addition,
    candidate,
    complete,
    finish,
    params,
    report,
)


def load(store: Store, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=store.storage_for_optuna())


def test_candidate_comes_back_as_it_went_in(store: Store, study: str) -> None:
    adaptive = AdaptiveConfig(max_experts=16, period=900, record_from=300, update_at=600)
    given_ = candidate(3, adaptive=adaptive, reference="top-2", study_seed=2**32 - 1)
    trial = add(store, study, 3, adaptive=adaptive, reference="top-2", study_seed=2**32 - 1)
    found = store.candidate(study, trial)
    assert found.candidate == given_
    assert found.params == params(3)
    assert found.sampler_state == {"ordinal": 3, "seen": [1, 2]}
    assert (found.trial, found.ordinal, found.cohort, found.status) == (0, 3, 0, "running")
    assert found.outcome is None
    assert found.values is None
    assert found.feasible


def test_one_insertion_makes_a_running_trial_with_all_parameters(store: Store, study: str) -> None:
    trial = add(store, study, 0)
    (frozen,) = load(store, study).get_trials()
    assert (frozen.number, frozen.state) == (trial, TrialState.RUNNING)
    assert frozen.params == params(0)
    assert frozen.distributions == DISTRIBUTIONS
    assert frozen.user_attrs["ordinal"] == 0
    assert frozen.user_attrs["experts_per_layer"] == "8,4"


def test_adding_an_ordinal_twice_gives_the_same_trial(store: Store, study: str) -> None:
    assert add(store, study, 0) == add(store, study, 0) == 0
    assert len(load(store, study).get_trials()) == 1
    assert add(store, study, 1) == 1


def test_outcome_comes_back_as_it_went_in(store: Store, study: str) -> None:
    trial = add(store, study, 0)
    outcome = complete(0, 0.9, 1000.5, validation_loss=math.inf, flops_per_token=2e6)
    finish(
        store,
        study,
        trial,
        outcome,
        values=[0.9, 1000.5],
        violations=[-1.0],
        versions={"torch": "2.13"},
    )
    found = store.candidate(study, trial)
    assert found.outcome == outcome
    assert found.values == {"accuracy": 0.9, "activated_params": 1000.5}
    assert (found.status, found.feasible, found.violations) == ("complete", True, (-1.0,))
    assert found.versions == {"torch": "2.13"}
    assert found.finished_at is not None


def test_nan_metrics_of_a_failed_candidate_are_kept(store: Store, study: str) -> None:
    trial = add(store, study, 0)
    outcome = Outcome(
        ordinal=0,
        status="failed",
        epochs=2,
        seconds=0.5,
        metrics={"validation_loss": math.nan, "accuracy": 0.1},
        reason="nan",
        message="the loss is not finite",
    )
    finish(store, study, trial, outcome, values=None, versions={})
    found = store.candidate(study, trial)
    assert (found.status, found.reason, found.message) == ("failed", "nan", outcome.message)
    assert found.outcome is not None
    assert math.isnan(found.outcome.metrics["validation_loss"])
    (frozen,) = load(store, study).get_trials()
    assert frozen.state == TrialState.FAIL
    assert frozen.user_attrs["reason"] == "nan"
    assert frozen.user_attrs["metrics"] == {"accuracy": 0.1}


def test_complete_candidate_is_a_complete_trial(store: Store, study: str) -> None:
    add_complete(store, study, 0, 0.9, 1000, -5.0, 2.0)
    (frozen,) = load(store, study).get_trials()
    assert frozen.state == TrialState.COMPLETE
    assert frozen.values == [0.9, 1000.0]
    assert list(frozen.constraints.values()) == [-5.0, 2.0]
    assert frozen.datetime_complete is not None


def test_stopped_candidate_is_a_pruned_trial(store: Store, study: str) -> None:
    trial = add(store, study, 0)
    finish(
        store,
        study,
        trial,
        replace(complete(0, 0.9, 10.0), status="stopped"),
        values=None,
        versions={},
    )
    (frozen,) = load(store, study).get_trials()
    assert frozen.state == TrialState.PRUNED
    assert store.candidate(study, trial).status == "stopped"


def test_closing_a_leg_twice_changes_nothing(store: Store, study: str) -> None:
    trial = add_complete(store, study, 0, 0.9, 1000)
    before = store.candidate(study, trial)
    other = Ended(trial=trial, outcome=complete(0, 0.1, 1.0), values=(0.1, 1.0))
    store.close_leg(study, store.join(study), 0, ended=[other], stood=[], versions={})
    assert store.candidate(study, trial) == before
    assert load(store, study).get_trials()[0].values == [0.9, 1000.0]


@pytest.mark.parametrize("values", [None, [0.9], [math.nan, 1.0]])
def test_complete_candidate_needs_a_value_per_objective(
    store: Store, study: str, values: list[float] | None
) -> None:
    trial = add(store, study, 0)
    with pytest.raises(ValueError, match="needs a number for each"):
        finish(store, study, trial, complete(0, 0.9, 1.0), values=values, versions={})
    assert store.candidate(study, trial).status == "running"


def test_numpy_numbers_are_stored_as_numbers(store: Store, study: str) -> None:
    numbers = replace(
        addition(0),
        params={"x": np.float64(0.5), "n": np.int64(3)},
        distributions={
            "x": optuna.distributions.FloatDistribution(0, 1),
            "n": optuna.distributions.IntDistribution(1, 8),
        },
    )
    (trial,) = store.add_candidates(study, [numbers])
    assert store.candidate(study, trial).params == {"x": 0.5, "n": 3}


def test_candidates_are_filtered_by_status_and_ordered_by_trial(store: Store, study: str) -> None:
    for ordinal in (2, 0, 1):
        add(store, study, ordinal)
    finish(store, study, 1, complete(0, 0.5, 5.0), values=[0.5, 5.0], versions={})
    assert [item.ordinal for item in store.candidates(study)] == [2, 0, 1]
    assert [item.trial for item in store.candidates(study, status=["complete"])] == [1]
    assert [item.trial for item in store.candidates(study, status={"running", "failed"})] == [0, 2]
    assert store.candidates(study, status=[]) == []


def test_missing_trial_says_which_there_are(store: Store, study: str) -> None:
    with pytest.raises(UsageError, match="has no trial 7; it has no trials yet"):
        store.candidate(study, 7)
    add(store, study, 0)
    with pytest.raises(UsageError, match="has no trial 7; it has trials 0 to 0"):
        store.candidate(study, 7)
    with pytest.raises(UsageError, match="has no trial 7"):
        finish(store, study, 7, complete(0, 0.5, 5.0), values=[0.5, 5.0], versions={})


def test_progress_of_a_second_training_overwrites_the_first(store: Store, study: str) -> None:
    first, second = add(store, study, 5), add(store, study, 6)
    store.add_progress(study, [report(5, 1), report(6, 1)])
    store.add_progress(study, [report(5, 2), report(6, 2)])
    store.add_progress(study, [report(5, 1, accuracy=0.75)])
    store.add_progress(study, [])
    found = store.progress(study)
    assert [(item.ordinal, item.epoch) for item in found] == [(5, 1), (5, 2), (6, 1), (6, 2)]
    assert [item.accuracy for item in store.progress(study, first)] == [0.75, 0.5]
    assert len(store.progress(study, second)) == 2
    again = found[1]
    assert math.isnan(again.train_loss)
    assert replace(again, train_loss=0.0) == replace(report(5, 2), train_loss=0.0)


def test_progress_of_an_unknown_candidate_is_refused(store: Store, study: str) -> None:
    with pytest.raises(UsageError, match="no candidate with the ordinal 9"):
        store.add_progress(study, [report(9, 1)])


def test_spent_counts_every_candidate_once(store: Store, study: str) -> None:
    add_complete(store, study, 0, 0.5, 5.0)
    running, failed = add(store, study, 1), add(store, study, 2)
    store.add_progress(study, [report(0, 1), report(1, 1), report(2, 1)])
    store.add_progress(study, [report(1, 2)])
    outcome = Outcome(ordinal=2, status="failed", epochs=1, seconds=0.5, reason="nan")
    finish(store, study, failed, outcome, values=None, versions={})
    spent = store.spent(study)
    assert (spent.complete, spent.failed, spent.running, spent.stopped) == (1, 1, 1, 0)
    assert spent.epochs == 3 + 2 + 1
    assert spent.seconds == pytest.approx(1.5 + 0.5 + 0.5)
    assert store.candidate(study, running).status == "running"


def test_thousand_candidates_are_read_in_a_few_queries(store: Store, study: str) -> None:
    database = store._database
    add_complete(store, study, 0, 0.5, 5.0)
    with database.write() as connection:  # copies of the first, without Optuna's side
        for table in (tables.candidates, tables.evaluations, tables.layers):
            rows = connection.execute(sa.select(table)).mappings().all()
            copies = [
                {**row, "trial_number": number} | ({"ordinal": number} if "ordinal" in row else {})
                for number in range(1, 1000)
                for row in rows
            ]
            connection.execute(table.insert(), copies)
    queries: list[str] = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda *all: queries.append(all[2]))
    found = store.candidates(study)
    assert len(found) == 1000
    assert found[999].outcome is not None
    assert len(found[999].outcome.routing) == 2
    assert len([one for one in queries if one.lower().startswith("select")]) <= 4


numbers = st.floats(allow_nan=False) | st.integers(0, 2**53)


@given(
    st.builds(
        complete,
        st.integers(0, 10**6),
        st.floats(0, 1),
        numbers.map(float),
        validation_loss=numbers.map(float),
    )
)
def test_any_outcome_survives_as_text(outcome: Outcome) -> None:
    assert from_text(Outcome, to_text(outcome)) == outcome


@given(st.integers(0, 10**6), st.lists(st.integers(1, 64), min_size=1).map(tuple))
def test_any_candidate_survives_as_text(ordinal: int, experts: tuple[int, ...]) -> None:
    given_ = candidate(ordinal, experts_per_layer=experts)
    assert from_text(Candidate, to_text(given_)) == given_
