"""What `Store.check` finds in databases that something happened to, and that it changes nothing."""

import contextlib
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from dynamoe_search.errors import UsageError
from dynamoe_search.records import Stood
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from tests.store.builders import SETTINGS, add, add_complete, leg_of


@pytest.fixture
def full(store: Store, study: str) -> Store:
    """A database with two complete candidates, one that is paused and one that is new."""
    for ordinal in range(2):
        add_complete(store, study, ordinal, 0.5 + ordinal / 10, 5.0 + ordinal)
    add(store, study, 2)
    add(store, study, 3)
    worker = store.join(study)
    leg = leg_of(store, study, worker, [2], end=1)
    stood = [Stood(trial=2, epochs=1, checkpoint="x")]
    store.close_leg(study, worker, leg.number, ended=[], stood=stood, versions={})
    store.refresh_front(study)
    return store


@contextlib.contextmanager
def connected(store: Store) -> Iterator[sqlite3.Connection]:
    path = store.url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def found(store: Store) -> list[tuple[str, str]]:
    """Returns what is not in order; every such finding says how to mend it."""
    with connected(store) as connection:
        before = list(connection.iterdump())
        problems = [one for one in store.check() if one.level != "ok"]
        assert list(connection.iterdump()) == before
    assert all(one.how_to_mend for one in problems)
    return [(one.level, one.what) for one in problems]


def change(store: Store, statement: str) -> list[tuple[str, str]]:
    with connected(store) as connection:
        connection.execute(statement)
    return found(store)


def test_nothing_is_wrong_with_a_study_at_work(full: Store) -> None:
    assert [one.level for one in full.check()] == ["ok", "ok"]
    assert [one.level for one in full.check("tiny")] == ["ok", "ok"]
    with pytest.raises(UsageError, match="no study 'tony'"):
        full.check("tony")


@pytest.mark.parametrize(
    ("statement", "level", "words"),
    [
        ("drop table dynamoe_front", "error", "the table dynamoe_front is missing"),
        (
            "alter table dynamoe_legs drop column closed_at",
            "error",
            "the table dynamoe_legs lacks the column closed_at",
        ),
        (
            "delete from dynamoe_candidates where trial_number = 1",
            "error",
            "1 row of the table dynamoe_evaluations belongs to rows of dynamoe_candidates",
        ),
        (
            "update dynamoe_candidates set status = 'paused' where trial_number = 0",
            "error",
            "trial 0 of the study 'tiny' is paused, but has an outcome",
        ),
        (
            "delete from dynamoe_evaluations where trial_number = 0",
            "error",
            "trial 0 of the study 'tiny' is complete, but has no outcome",
        ),
        (
            "update dynamoe_candidates set checkpoint = null",
            "error",
            "trial 2 of the study 'tiny' stands at epoch 1 without a checkpoint",
        ),
        (
            "update dynamoe_evaluations set values_json = replace(values_json, '5.0', '7.0')",
            "error",
            "trial 0 of the study 'tiny' has the values",
        ),
        (
            "update trials set state = 'RUNNING' where number = 1",
            "warning",
            "Optuna was not told how trial 1 of the study 'tiny' ended",
        ),
        (
            "update trials set state = 'COMPLETE' where number = 2",
            "error",
            "trial 2 of the study 'tiny' is paused, for Optuna complete",
        ),
        (
            "update trials set state = 'FAIL' where number = 0",
            "error",
            "trial 0 of the study 'tiny' is complete, for Optuna fail",
        ),
        ("delete from trials where number = 3", "error", "Optuna has no trial 3"),
        (
            "delete from dynamoe_front where place = 0",
            "warning",
            "has the trials 1; it should have 0, 1",
        ),
        (
            "update dynamoe_studies set planner = 'nobody'",
            "warning",
            "the planner nobody of the study 'tiny' is dead",
        ),
        (
            "update dynamoe_legs set state = 'open', worker = 'nobody' where members = '2'",
            "warning",
            "leg 2 of the study 'tiny' is open, but nobody is dead",
        ),
        (
            "update dynamoe_legs set state = 'open', members = '3'",
            "error",
            "trial 3 of the study 'tiny' is in the legs 0 and 1",
        ),
        (
            "update dynamoe_studies set state = 'deleting'",
            "warning",
            "the deletion of the study 'tiny' did not end",
        ),
        ("delete from studies", "error", "another program deleted Optuna's part"),
    ],
)
def test_what_is_wrong_is_found(full: Store, statement: str, level: str, words: str) -> None:
    problems = change(full, statement)
    assert any(one[0] == level and words in one[1] for one in problems), problems


def test_trials_that_nobody_trains(full: Store) -> None:
    with connected(full) as connection:
        connection.execute("update dynamoe_workers set pid = 999999999, process_mark = ''")
    assert found(full) == [
        ("warning", "trials 3 of the study 'tiny' run for Optuna, but nobody trains them")
    ]


def test_study_that_was_interrupted_is_in_order(full: Store) -> None:
    worker = full.join("tiny")
    leg = leg_of(full, "tiny", worker, [3], end=1)
    full.leave("tiny", worker, "interrupted")
    findings = full.check()
    assert {one.level for one in findings} == {"ok"}
    assert findings[-1].what == (
        f"the study 'tiny' is in order; it was interrupted in leg {leg.number}, "
        "with which the command resume goes on"
    )


def test_trial_of_another_program(full: Store) -> None:
    study = optuna.load_study(study_name="tiny", storage=full.storage_for_optuna())
    study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))  # of a crash that was healed
    assert found(full) == []
    study.add_trial(optuna.trial.create_trial(values=[0.5, 1.0]))
    assert ("error", "trial 5 of the study 'tiny' was added by another program") in found(full)


def test_ordinal_that_repeats(full: Store) -> None:
    with connected(full) as connection:
        connection.executescript(
            "pragma writable_schema = on;"
            "update sqlite_master set sql = replace(sql, 'UNIQUE (study_name, ordinal),', '')"
            " where name = 'dynamoe_candidates';"
            "delete from sqlite_master where name = 'sqlite_autoindex_dynamoe_candidates_2';"
            "pragma writable_schema = reset;"
            "vacuum;"
        )
        connection.execute("update dynamoe_candidates set ordinal = 0")
    with Store.open(full.url) as store:
        problems = [one.what for one in store.check() if one.level == "error"]
    assert "4 candidates of the study 'tiny' have the ordinal 0" in problems


@pytest.mark.parametrize("seed", range(4))
def test_damaged_file(storage_url: str, tiny_spec: Callable[..., StudySpec], seed: int) -> None:
    with Store.open(storage_url) as store:
        store.create_study(tiny_spec(), source="x", settings=SETTINGS)
        for ordinal in range(3):
            add_complete(store, "tiny", ordinal, 0.5, ordinal)
        with store._database.read() as connection:
            query = "select rootpage from sqlite_master where name = 'dynamoe_evaluations'"
            page = connection.exec_driver_sql(query).scalar_one()
    path = Path(storage_url.removeprefix("sqlite:///"))
    content = bytearray(path.read_bytes())
    content[4096 * (page - 1) + 200 : 4096 * page] = random.Random(seed).randbytes(4096 - 200)
    path.write_bytes(content)
    with Store.open(storage_url) as store:
        problems = store.check()
    assert problems[0].level == "error"
    assert "is damaged" in problems[0].what  # as SQLite finds when asked, or by itself before
