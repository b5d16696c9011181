"""What workers ask all the time, each with one statement: whether to stop, and whether anything has happened."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from dynamoe_search.errors import LeaseLostError, StorageError
from dynamoe_search.records import Ended
from dynamoe_search.store import Store, fronts, workers
from dynamoe_search.store.fronts import KnownFront
from dynamoe_search.store.ledgers import Ledger
from tests.store.builders import add, complete, leg_of


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """Gives a list of what is sent to the database below the `with`."""
    sent: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        sent.append(statement)

    sa.event.listen(store._database.engine, "before_cursor_execute", note)
    yield sent
    sa.event.remove(store._database.engine, "before_cursor_execute", note)


def test_orders_are_one_statement(store: Store, study: str) -> None:
    store.join(study)
    with Store.open(store.url) as other:
        theirs = other.join(study)
        store.request_stop(study)
        with statements(store) as sent:
            assert store.orders(study) == (True, math.inf)
        assert len(sent) == 1
        store.set_time_budget(study, 100.0)
        other.leave(study, theirs, "interrupted", 30.0)
        assert store.orders(study) == (True, 70.0)


def test_pulse_changes_with_whatever_may_give_work(store: Store, study: str) -> None:
    seen = [store.pulse(study)]

    def has_changed() -> bool:
        seen.append(store.pulse(study))
        return seen[-1] != seen[-2]

    worker = store.join(study)
    assert not has_changed()
    add(store, study, 0)
    assert has_changed()
    leg = leg_of(store, study, worker, [0], end=3)
    assert has_changed()
    first = store.pulse(study, leg.number)
    ended = Ended(trial=0, outcome=complete(0, 0.5, 5.0), values=(0.5, 5.0))
    store.close_leg(study, worker, leg.number, ended=[ended], stood=[], versions={})
    assert has_changed()
    assert store.pulse(study, leg.number) != first
    for act, value in (
        (store.set_trials, 99),
        (store.set_max_epochs, 400),
        (store.set_exhausted, 1),
    ):
        act(study, value)
        assert has_changed()
    with statements(store) as sent:
        assert not has_changed()
    assert len(sent) == 1


def test_many_ask_for_a_turn_without_locking(store: Store, study: str) -> None:
    store.join(study)
    with Store.open(store.url) as other:
        theirs = other.join(study)
        with other.planning(study, theirs), other._database.write() as connection:
            connection.exec_driver_sql("update dynamoe_studies set source = 'held'")
            with statements(store) as sent:
                assert not store._may_plan(study, "me")
            assert len(sent) <= 2  # SQLite begins a transaction of its own
            assert not any("UPDATE" in one for one in sent)


def test_who_left_cannot_plan(store: Store, study: str) -> None:
    me = store.join(study)
    store.leave(study, me, "interrupted")
    with (
        pytest.raises(LeaseLostError, match="does not work on the study"),
        store.planning(study, me),
    ):
        pass


def test_who_refreshes_the_front_keeps_nobody_from_planning(store: Store, study: str) -> None:
    if store._database.is_sqlite:
        pytest.skip("a SQLite file has one writer at a time")
    with Store.open(store.url) as other, other._database.write() as refreshing:
        fronts.rewrite_front(refreshing, study, Ledger(), KnownFront())
        with store._database.write() as planning:
            planning.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
            assert workers.locked_study(planning, study) is not None
        with pytest.raises(StorageError, match="lock timeout"):
            refresh_at_once(store, study)


def refresh_at_once(store: Store, study: str) -> None:
    with store._database.write() as connection:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '100ms'")
        fronts.rewrite_front(connection, study, Ledger(), KnownFront())
