"""Rows of Optuna's own tables, written for many trials at once and in one transaction with ours.

Optuna's storage makes and ends one trial at a time, with some forty statements each. What is written here is what it
would write, column by column (`tests/store/test_optuna_rows.py`), under the lock that it takes. That holds for the
layout of tables in `store.optuna_tables`; of any other its storage is asked, trial by trial (`store.trials`).
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial, TrialState

from dynamoe_search.store import optuna_tables


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How a trial ends.

    Attributes:
        number: Of the trial in its study.
        state: Complete, failed or pruned.
        values: Of the objectives, if it is complete; no NaN.
        user_attrs: What people see beside the values, as JSON can hold it.
        system_attrs: What samplers see.
    """

    number: int
    state: TrialState
    values: tuple[float, ...] | None
    user_attrs: Mapping[str, Any] = field(default_factory=dict)
    system_attrs: Mapping[str, Any] = field(default_factory=dict)


def insert_trials(
    connection: sa.Connection, study: str, new: Sequence[FrozenTrial]
) -> list[int] | None:
    """Adds trials without values to a study; returns their numbers, None if Optuna has no such study.

    Args:
        connection: In a transaction that writes. Others who add trials to the study wait for its end.
        study: The name.
        new: The trials, of which numbers and ids do not count.
    """
    query = sa.select(optuna_tables.studies.c.study_id).where(
        optuna_tables.studies.c.study_name == study
    )
    study_id = connection.execute(query.with_for_update()).scalar()
    if study_id is None:
        return None
    here = optuna_tables.trials.c
    latest = sa.select(here.number).where(here.study_id == study_id)
    last = connection.execute(latest.order_by(here.trial_id.desc()).limit(1)).scalar()
    numbers = [number for number, _ in enumerate(new, start=0 if last is None else last + 1)]
    made = connection.execute(
        optuna_tables.trials.insert().returning(here.number, here.trial_id),
        [
            {
                "number": number,
                "study_id": study_id,
                "state": one.state,
                "datetime_start": None if one.datetime_start is None else _utc(one.datetime_start),
            }
            for number, one in zip(numbers, new, strict=True)
        ],
    )
    ids = {row.number: row.trial_id for row in made}
    by_id = [(ids[number], one) for number, one in zip(numbers, new, strict=True)]
    _insert(
        connection,
        optuna_tables.params,
        [row for key, one in by_id for row in _params_of(key, one)],
    )
    _insert_attributes(
        connection, optuna_tables.user_attributes, {key: one.user_attrs for key, one in by_id}
    )
    _insert_attributes(
        connection, optuna_tables.system_attributes, {key: one.system_attrs for key, one in by_id}
    )
    return numbers


def finish_trials(
    connection: sa.Connection, study: str, known: "KnownIds", ends: Collection[End]
) -> bool:
    """Ends trials; those that are over stay as they are. Returns False if Optuna has not all of them.

    Args:
        connection: In a transaction that writes.
        study: The name.
        known: Ids of its trials.
        ends: How they end.
    """
    rows = known.locked(connection, study, {one.number for one in ends})
    if rows is None:
        return False
    found = {
        rows[one.number].trial_id: one for one in ends if not rows[one.number].state.is_finished()
    }
    for table, attributes in (
        (optuna_tables.user_attributes, {key: one.user_attrs for key, one in found.items()}),
        (optuna_tables.system_attributes, {key: one.system_attrs for key, one in found.items()}),
    ):
        _delete_attributes(connection, table, attributes)
        _insert_attributes(connection, table, attributes)
    _insert(
        connection,
        optuna_tables.values,
        [row for key, one in found.items() for row in _values_of(key, one)],
    )
    _set_states(connection, {key: one.state for key, one in found.items()})
    return True


def fail_trials(connection: sa.Connection, trial_ids: Collection[int], mark: str) -> None:
    """Fails those of some trials that are running and have a user attribute.

    Args:
        connection: In a transaction that writes.
        trial_ids: Optuna's ids of the trials.
        mark: The attribute.
    """
    here, marked = optuna_tables.trials.c, optuna_tables.user_attributes.c
    connection.execute(
        optuna_tables.trials.update()
        .where(
            here.trial_id.in_(sorted(trial_ids)),
            here.trial_id.in_(sa.select(marked.trial_id).where(marked.key == mark)),
            here.state == TrialState.RUNNING,
        )
        .values(state=TrialState.FAIL, datetime_complete=_now())
    )


def numbers_of(connection: sa.Connection, trial_ids: Collection[int]) -> dict[int, int]:
    """Returns the numbers of trials by Optuna's ids; Optuna would read them whole."""
    here = optuna_tables.trials.c
    query = sa.select(here.trial_id, here.number).where(here.trial_id.in_(sorted(trial_ids)))
    return {row.trial_id: row.number for row in connection.execute(query)}


def ids_of(connection: sa.Connection, study_id: int, numbers: Collection[int]) -> dict[int, int]:
    """Returns Optuna's ids of trials of a study by number; Optuna looks for one at a time, among all."""
    here = optuna_tables.trials.c
    query = sa.select(here.number, here.trial_id).where(
        here.study_id == study_id, here.number.in_(sorted(numbers))
    )
    return {row.number: row.trial_id for row in connection.execute(query)}


def running(connection: sa.Connection, study_id: int) -> frozenset[int]:
    """Returns the numbers of the trials of a study that Optuna calls running; it would read all that they have."""
    here = optuna_tables.trials.c
    query = sa.select(here.number).where(
        here.study_id == study_id, here.state == TrialState.RUNNING
    )
    return frozenset(connection.execute(query).scalars())


class KnownIds:
    """Optuna's ids of the trials of one study by number, of which a process reads each once: numbers have no index.

    Ids rise with numbers, since trials are added to a study one transaction at a time.
    """

    def __init__(self) -> None:
        self._study_id: int | None = None
        self._ids: dict[int, int] = {}

    def locked(
        self, connection: sa.Connection, study: str, numbers: Collection[int]
    ) -> dict[int, sa.Row[Any]] | None:
        """Returns `trial_id` and `state` of trials by number, which nobody else changes while the transaction lasts.

        None if Optuna has not all of them, or no such study.

        Args:
            connection: In a transaction that writes.
            study: The name, always the same.
            numbers: Of the trials.
        """
        here = optuna_tables.trials.c
        for _ in range(2):  # the study may have been deleted and made again, or the file restored
            self._learn(connection, study, numbers)
            ids = sorted(self._ids[one] for one in numbers if one in self._ids)
            query = sa.select(here.number, here.trial_id, here.state)
            query = query.where(here.trial_id.in_(ids), here.study_id == self._study_id)
            rows: Iterable[sa.Row[Any]] = connection.execute(
                query.order_by(here.trial_id).with_for_update()
            )
            found = {row.number: row for row in rows}
            if found.keys() >= set(numbers):
                return found
            self._study_id, self._ids = None, {}
        return None

    def _learn(self, connection: sa.Connection, study: str, numbers: Collection[int]) -> None:
        if self._study_id is None:
            query = sa.select(optuna_tables.studies.c.study_id).where(
                optuna_tables.studies.c.study_name == study
            )
            self._study_id = connection.execute(query).scalar()
        if not self._ids.keys() >= set(numbers):
            here, above = optuna_tables.trials.c, max(self._ids.values(), default=-1)
            new = sa.select(here.number, here.trial_id).where(
                here.study_id == self._study_id, here.trial_id > above
            )
            self._ids |= {row.number: row.trial_id for row in connection.execute(new)}


def _params_of(trial_id: int, one: FrozenTrial) -> list[dict[str, Any]]:
    return [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": one.distributions[name].to_internal_repr(value),
            "distribution_json": distribution_to_json(one.distributions[name]),
        }
        for name, value in one.params.items()
    ]


def _values_of(trial_id: int, one: End) -> list[dict[str, Any]]:
    return [
        {
            "trial_id": trial_id,
            "objective": objective,
            "value": value if math.isfinite(value) else None,
            "value_type": "FINITE"
            if math.isfinite(value)
            else "INF_POS"
            if value > 0
            else "INF_NEG",
        }
        for objective, value in enumerate(one.values or ())
    ]


def _set_states(connection: sa.Connection, states: Mapping[int, TrialState]) -> None:
    here, now = optuna_tables.trials.c, _now()
    for state in sorted(set(states.values())):
        own = sorted(trial_id for trial_id, one in states.items() if one == state)
        query = optuna_tables.trials.update().where(here.trial_id.in_(own))
        connection.execute(query.values(state=state, datetime_complete=now))


def _delete_attributes(
    connection: sa.Connection, table: sa.Table, attributes: Mapping[int, Mapping[str, Any]]
) -> None:
    """Deletes what is about to be written: who told Optuna trial by trial may have been killed amid one."""
    keys = {key for own in attributes.values() for key in own}
    if keys:
        connection.execute(
            table.delete().where(
                table.c.trial_id.in_(sorted(attributes)), table.c.key.in_(sorted(keys))
            )
        )


def _insert_attributes(
    connection: sa.Connection, table: sa.Table, attributes: Mapping[int, Mapping[str, Any]]
) -> None:
    rows = [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
        for trial_id, own in attributes.items()
        for key, value in own.items()
    ]
    _insert(connection, table, rows)


def _insert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(table.insert(), rows)


def _now() -> datetime:
    return _utc(datetime.now(UTC))


def _utc(time: datetime) -> datetime:
    """Returns a time, without a zone of this machine, as Optuna keeps it: in UTC, without saying so."""
    return time.astimezone(UTC).replace(tzinfo=None)
