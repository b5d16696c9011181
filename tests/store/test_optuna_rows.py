"""Optuna's rows as we write them are those that Optuna writes, and come in few statements."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from dynamoe_search.errors import StorageError
from dynamoe_search.records import Ended, Stood
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Addition, Store, optuna_rows
from dynamoe_search.store.optuna_rows import End, KnownIds
from tests.store.builders import (
    DISTRIBUTIONS,
    add,
    add_complete,
    candidate,
    complete,
    finish,
    leg_of,
    params,
)

NUMBERS = CategoricalDistribution((0, 1, None, 0.5, "n"))
TABLES = (
    "trials",
    "trial_params",
    "trial_values",
    "trial_user_attributes",
    "trial_system_attributes",
    "trial_intermediate_values",
    "trial_heartbeats",
)


def running(**options: Any) -> FrozenTrial:
    return create_trial(state=TrialState.RUNNING, **options)


def templates() -> list[FrozenTrial]:
    return [
        running(
            params=params(3), distributions=DISTRIBUTIONS, user_attrs={"ordinal": 3, "b": "ü'"}
        ),
        running(),
        running(
            params={"x": None, "n": 5},
            distributions={"x": NUMBERS, "n": IntDistribution(1, 8, log=True)},
            user_attrs={"reference": None, "cohort": 0},
            system_attrs={"nsga2:generation": 2},
        ),
    ]


def ends() -> list[End]:
    shown = {"metrics": {"accuracy": 0.5}, "reason": "pruned"}
    return [
        End(
            number=0,
            state=TrialState.COMPLETE,
            values=(0.75, math.inf),
            user_attrs=shown,
            system_attrs={"constraints": [-1.0, 2.5]},
        ),
        End(number=1, state=TrialState.PRUNED, values=None, user_attrs=shown),
        End(number=2, state=TrialState.FAIL, values=None, user_attrs={"metrics": {}}),
    ]


def two_studies(store: Store) -> optuna.storages.RDBStorage:
    storage = store.storage_for_optuna()
    for name in ("theirs", "ours"):
        directions = ["maximize", "minimize"]
        optuna.create_study(storage=storage, study_name=name, directions=directions)
    return storage


def table_rows(store: Store, study: str) -> dict[str, list[dict[str, Any]]]:
    """Returns all rows of a study in Optuna's tables in the order of their keys, with numbers in place of ids."""
    metadata = sa.MetaData()
    found: dict[str, list[dict[str, Any]]] = {}
    with store._database.read() as connection:
        metadata.reflect(connection, only=("studies", *TABLES))
        names, trials = metadata.tables["studies"], metadata.tables["trials"]
        query = sa.select(names.c.study_id).where(names.c.study_name == study)
        own = sa.select(trials).where(trials.c.study_id == connection.execute(query).scalar())
        numbers = {row.trial_id: row.number for row in connection.execute(own)}
        for table in (metadata.tables[name] for name in TABLES):
            key = next(iter(table.primary_key)).name
            query = sa.select(table).where(table.c.trial_id.in_(numbers)).order_by(table.c[key])
            found[table.name] = [
                dict(row) | {"trial_id": numbers[row["trial_id"]], key: None, "study_id": None}
                for row in connection.execute(query).mappings()
            ]
    return found


@contextmanager
def counted() -> Iterator[list[str]]:
    statements: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        statements.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


def additions(first: int, number: int) -> list[Addition]:
    return [
        Addition(
            candidate=candidate(ordinal),
            params=params(ordinal),
            distributions=DISTRIBUTIONS,
            cohort=0,
        )
        for ordinal in range(first, first + number)
    ]


def test_rows_of_new_trials_are_those_that_optuna_writes(store: Store) -> None:
    storage, new = two_studies(store), templates()
    theirs = storage.get_study_id_from_name("theirs")
    for one in new:
        storage.create_new_trial(theirs, one)
    for some in (new[:1], new[1:]):
        store._database.transact(
            lambda found, some=some: optuna_rows.insert_trials(found, "ours", some)
        )
    assert table_rows(store, "ours") == table_rows(store, "theirs")
    loaded = [
        optuna.load_study(study_name=name, storage=storage).trials for name in ("ours", "theirs")
    ]
    for ours, their in zip(*loaded, strict=True):
        their._trial_id = ours._trial_id
        assert ours == their
        assert list(ours.params) == list(their.params)


def test_rows_of_ended_trials_are_those_that_optuna_writes(store: Store) -> None:
    storage = two_studies(store)
    theirs = storage.get_study_id_from_name("theirs")
    ids = [storage.create_new_trial(theirs, one) for one in templates()]
    numbers = store._database.transact(
        lambda found: optuna_rows.insert_trials(found, "ours", templates())
    )
    assert numbers == [0, 1, 2]
    study = optuna.load_study(study_name="theirs", storage=storage)
    for one in ends():
        store._trials.tell(study, ids[one.number], one)
    known = KnownIds()
    for _ in range(2):  # the second time changes nothing
        assert store._database.transact(
            lambda found: optuna_rows.finish_trials(found, "ours", known, ends())
        )
    ours, their = table_rows(store, "ours"), table_rows(store, "theirs")
    for row in (*ours["trials"], *their["trials"]):
        for moment in (row.pop("datetime_start"), row.pop("datetime_complete")):
            assert abs(datetime.now(UTC).replace(tzinfo=None) - moment) < timedelta(minutes=5)
    assert ours == their


def test_half_told_trial_is_told_to_the_end(store: Store, study: str) -> None:
    trial = add(store, study, 0)
    storage = store.storage_for_optuna()
    trial_id = storage.get_all_trials(storage.get_study_id_from_name(study))[0]._trial_id
    storage.set_trial_user_attr(trial_id, "metrics", {"accuracy": 0.0})
    finish(store, study, trial, complete(0, 0.5, 5.0), values=[0.5, 5.0], violations=[1.0])
    found = storage.get_trial(trial_id)
    assert found.user_attrs["metrics"]["accuracy"] == 0.5
    assert (found.state, found.values) == (TrialState.COMPLETE, [0.5, 5.0])


def test_sixteen_candidates_take_the_statements_of_one(store: Store, study: str) -> None:
    add(store, study, 0)
    with counted() as one:
        store.add_candidates(study, additions(1, 1))
    with counted() as many:
        assert store.add_candidates(study, additions(2, 16)) == list(range(2, 18))
    begin = store._database.is_sqlite * 1  # where the transaction begins
    for statements in (one, many):  # how hard to write is said when it changes
        assert len([each for each in statements if not each.startswith("PRAGMA")]) == begin + 8
    assert [one.ordinal for one in store.standings(study)] == list(range(18))
    storage = store.storage_for_optuna()
    loaded = storage.get_all_trials(storage.get_study_id_from_name(study))
    assert [one.number for one in loaded] == list(range(18))
    assert [one.user_attrs["ordinal"] for one in loaded] == list(range(18))
    assert [one.params for one in loaded] == [params(ordinal) for ordinal in range(18)]


def test_a_leg_of_eight_takes_the_statements_of_one(store: Store, study: str) -> None:
    store.add_candidates(study, additions(0, 20))
    worker = store.join(study)
    counts = []
    for first, number in ((0, 1), (1, 1), (2, 8), (10, 8)):
        trials = list(range(first, first + number))
        leg = leg_of(store, study, worker, trials)
        with counted() as statements:
            half = trials[: (number + 1) // 2]
            store.close_leg(
                study,
                worker,
                leg.number,
                ended=[
                    Ended(trial=t, outcome=complete(t, 0.5, 5.0), values=(0.5, 5.0)) for t in half
                ],
                stood=[Stood(trial=t, epochs=3, checkpoint="x") for t in trials[len(half) :]],
                versions={},
            )
        counts.append(len(statements))
    assert counts[2] <= counts[1] + 1  # those who stand are paused with one more
    assert counts[3] <= counts[1] + 1


def test_without_known_tables_optunas_storage_is_asked(store: Store, study: str) -> None:
    assert store._trials.are_known
    store._trials.are_known = False
    trials = store.add_candidates(study, additions(0, 3))
    assert trials == [0, 1, 2] == store.add_candidates(study, additions(0, 3))
    finish(store, study, 0, complete(0, 0.5, 5.0), values=[0.5, 5.0], violations=[-1.0])
    with Store.open(store._database.url.render_as_string(hide_password=False)) as other:
        assert other._trials.are_known
        other.add_candidates(study, additions(3, 1))
        finish(other, study, 3, complete(3, 0.5, 5.0), values=[0.5, 5.0], violations=[-1.0])
    storage = store.storage_for_optuna()
    first, *_, last = storage.get_all_trials(storage.get_study_id_from_name(study))
    assert last.user_attrs == first.user_attrs | {"ordinal": 3}
    assert (last.values, last.system_attrs) == (first.values, first.system_attrs)
    assert {one.level for one in store.check(study)} <= {"ok", "warning"}


def test_trial_that_another_version_left_behind_is_taken(store: Store, study: str) -> None:
    add(store, study, 0)
    store._clean.clear()
    store._trials.add(store._optuna_study(study), additions(1, 1), ())
    assert add(store, study, 1) == 1
    assert add(store, study, 2) == 2
    assert store._clean == {study}
    assert store.zombies(study) == [0, 1, 2]  # nobody is at work


def test_ids_are_learnt_anew_when_the_study_was_made_again(store: Store, study: str) -> None:
    add_complete(store, study, 0, 0.5, 5.0)
    spec, settings = store.study(study).spec_json, store.study(study).settings
    with Store.open(store._database.url.render_as_string(hide_password=False)) as other:
        other.delete_study(study)
        store._leases.clear()
        loaded = StudySpec.model_validate_json(spec)
        other.create_study(loaded, source="x", settings=settings)
        other.add_candidates(study, additions(0, 2))
    store._optuna._studies.clear()
    add_complete(store, study, 1, 0.25, 5.0)
    storage = store.storage_for_optuna()
    found = storage.get_all_trials(storage.get_study_id_from_name(study))
    assert [one.values for one in found] == [None, [0.25, 5.0]]


def test_trial_that_optuna_lost_is_an_error(store: Store, study: str) -> None:
    trial = add(store, study, 0)
    optuna.delete_study(study_name=study, storage=store.storage_for_optuna())
    for act in (
        lambda: store.add_candidates(study, additions(1, 2)),
        lambda: finish(store, study, trial, complete(0, 0.5, 5.0), values=[0.5, 5.0]),
    ):
        with pytest.raises(StorageError, match="another program deleted"):
            act()
    assert store.candidate(study, trial).outcome == complete(0, 0.5, 5.0)


def test_a_database_that_cannot_return_new_ids_is_asked_trial_by_trial(
    store: Store, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vars(store._trials).pop("are_known", None)  # which is asked once
    monkeypatch.setattr(store.storage_for_optuna().engine.dialect, "insert_returning", False)
    assert not store._trials.are_known
    assert store.add_candidates(study, additions(0, 2)) == [0, 1]
