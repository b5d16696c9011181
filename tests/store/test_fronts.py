"""The front is the same by the store, by SQL, and by Optuna."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynamoe_search.records import FrontMember
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from dynamoe_search.store.answers import front_row
from tests.store.builders import SETTINGS, add, add_complete, complete, finish


def by_sql(store: Store, name: str) -> list[int]:
    query = "select trial_number from dynamoe_front where study_name = :name order by place"
    return [row[0] for row in select(store, query, name=name)]


def select(store: Store, query: str, **values: str) -> Sequence[sa.Row[Any]]:
    """Asks the database on a connection of its own, as another program would."""
    engine = sa.create_engine(store.url)
    try:
        with engine.connect() as connection:
            return connection.execute(sa.text(query), values).all()
    finally:
        engine.dispose()


def by_optuna(store: Store, name: str) -> set[int]:
    """Asks Optuna on connections of its own, as another program would."""
    storage = optuna.storages.RDBStorage(store.url)
    try:
        study = optuna.load_study(study_name=name, storage=storage)
        return {trial.number for trial in study.best_trials}
    finally:
        storage.engine.dispose()


def check_same(store: Store, name: str) -> list[FrontMember]:
    refreshed = store.refresh_front(name)
    trials = [member.trial for member in refreshed]
    assert store.front(name) == refreshed
    assert by_sql(store, name) == trials
    assert by_optuna(store, name) == set(trials)
    assert store.study(name).num_front == len(trials)
    return refreshed


def test_front_with_ties_and_equal_points(store: Store, study: str) -> None:
    points = [(0.9, 100), (0.8, 50), (0.9, 100), (0.9, 120), (0.7, 50), (0.95, 300)]
    for ordinal, (accuracy, activated) in enumerate(points):
        add_complete(store, study, ordinal, accuracy, activated)
    add(store, study, 6)  # still running
    members = check_same(store, study)
    assert [member.trial for member in members] == [1, 0, 2, 5]
    assert members[0].values == {"accuracy": 0.8, "activated_params": 50.0}
    assert members[0].metrics["total_params"] == 200
    assert len(members[0].routing) == 2
    assert members[0].candidate.ordinal == members[0].ordinal == 1


def test_front_has_the_experts_that_are_open_at_the_end(store: Store, study: str) -> None:
    trial = add_complete(store, study, 0, 0.9, 100)
    (member,) = store.refresh_front(study)
    assert member.candidate.experts_per_layer == (8, 4)
    assert member.experts_per_layer == (2, 1)
    assert store.candidate(study, trial).experts_per_layer == (2, 1)
    row = front_row(member)
    assert (row["experts_per_layer"], row["experts_per_layer_at_start"]) == ([2, 1], [8, 4])
    assert select(store, "select experts_per_layer from dynamoe_front") == [("2,1",)]
    running = store.candidate(study, add(store, study, 1))
    assert running.experts_per_layer == (8, 4)


def test_candidates_that_break_a_constraint_are_not_on_the_front(store: Store, study: str) -> None:
    add_complete(store, study, 0, 0.9, 100, -1.0, 0.0)
    add_complete(store, study, 1, 0.99, 90, 0.5, 0.0)
    add_complete(store, study, 2, 0.8, 50, -1.0, -1.0)
    assert [member.trial for member in check_same(store, study)] == [2, 0]


def test_study_without_a_feasible_candidate_has_an_empty_front(store: Store, study: str) -> None:
    assert check_same(store, study) == []
    add_complete(store, study, 0, 0.9, 100, 3.0)
    assert check_same(store, study) == []


def test_refreshed_front_forgets_who_is_dominated_now(store: Store, study: str) -> None:
    add_complete(store, study, 0, 0.8, 100)
    assert [member.trial for member in check_same(store, study)] == [0]
    add_complete(store, study, 1, 0.9, 100)
    assert [member.trial for member in check_same(store, study)] == [1]


def test_three_objectives_and_one(store: Store, tiny_spec: Callable[..., StudySpec]) -> None:
    for name, objectives in (
        ("three", ["accuracy", "validation_loss", "total_params"]),
        ("one", ["validation_loss"]),
    ):
        spec = tiny_spec(study={"name": name, "objectives": objectives})
        store.create_study(spec, source="x", settings=SETTINGS)
        for ordinal, values in enumerate([(0.9, 1.0, 5.0), (0.8, 0.5, 5.0), (0.8, 1.0, 6.0)]):
            trial = add(store, name, ordinal)
            finish(
                store,
                name,
                trial,
                complete(ordinal, 0.9, 1.0),
                values=values if name == "three" else values[1:2],
                versions={},
            )
    assert [member.trial for member in check_same(store, "three")] == [1, 0]
    assert [member.trial for member in check_same(store, "one")] == [1]


@settings(
    max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([None, -1, 0, 1])),
        max_size=6,
    )
)
def test_front_agrees_with_optuna_whatever_the_points(
    tmp_path: Path, tiny_spec: Callable[..., StudySpec], points: list[tuple[int, int, int | None]]
) -> None:
    with Store.open(f"sqlite:///{tmp_path / 'x.db'}") as store:
        if store.studies():
            store.delete_study("tiny")
        store.create_study(tiny_spec(), source="x", settings=SETTINGS)
        for ordinal, (accuracy, activated, violation) in enumerate(points):
            violations = () if violation is None else (float(violation),)
            add_complete(store, "tiny", ordinal, accuracy / 4, activated, *violations)
        check_same(store, "tiny")
