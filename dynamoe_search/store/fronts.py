"""The Pareto fronts of studies: computed, stored, read; every function is a part of one transaction.

The front of all is that of the front of some and of the others. Candidates that are over never change, so a process
that refreshes a front again compares only its members with those that have ended since.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from dynamoe_search.pareto import front_indices
from dynamoe_search.records import Candidate, FrontMember, Standing, StudyRecord
from dynamoe_search.store import candidate_rows, reading, tables
from dynamoe_search.store.ledgers import Ledger
from dynamoe_search.store.texts import counts_to_text, from_text


class KnownFront:
    """The front of a study as this process knows it."""

    def __init__(self) -> None:
        self._over: dict[int, Standing] | None = None
        self._seen: set[int] = set()
        self._members: dict[int, FrontMember] = {}
        self.rows: list[sa.Row[Any]] = []
        """What is known of its members, in its order."""

    def update(
        self,
        connection: sa.Connection,
        study: str,
        goals: tuple[Sequence[str], Sequence[bool]],
        over: dict[int, Standing],
    ) -> None:
        """Takes in who has ended since.

        Args:
            connection: In a transaction.
            study: Always the same.
            goals: Its objectives, and which of them are maximised.
            over: Where those stand that are over, from a `Ledger`: while it is the same object, nobody was taken out.
        """
        if over is not self._over:
            self._over, self._seen, self._members, self.rows = over, set(), {}, []
        new = [trial for trial in over if trial not in self._seen]
        ended = [trial for trial in new if over[trial].status == "complete"]
        if ended:
            self.rows = _on_front(self.rows + _measured(connection, study, ended), *goals)
        self._seen.update(new)

    def members(self, connection: sa.Connection, study: str) -> list[FrontMember]:
        """Returns its members in its order; only those that are new are read."""
        new = [row for row in self.rows if row.trial_number not in self._members]
        read = self._members | {one.trial: one for one in _members(connection, study, new)}
        self._members = {row.trial_number: read[row.trial_number] for row in self.rows}
        return list(self._members.values())


def rewrite_front(
    connection: sa.Connection, name: str, ledger: Ledger, front: KnownFront
) -> list[FrontMember]:
    """Brings the front of the complete and feasible candidates up to date, stores it if it has changed, and returns it.

    Args:
        connection: In a transaction that writes.
        name: The study.
        ledger: What this process knows of the study.
        front: Likewise.
    """
    front.update(connection, name, _held_goals(connection, name), ledger.over(connection, name))
    here = tables.front.c
    query = sa.select(here.trial_number, here.values_json).where(here.study_name == name)
    stored = [tuple(row) for row in connection.execute(query.order_by(here.place))]
    if stored != [(row.trial_number, row.values_json) for row in front.rows]:
        connection.execute(tables.front.delete().where(here.study_name == name))
        if front.rows:
            connection.execute(tables.front.insert(), _as_stored(connection, name, front.rows))
    return front.members(connection, name)


def _held_goals(connection: sa.Connection, name: str) -> tuple[list[str], list[bool]]:
    """Returns a study's objectives and which of them are maximised; others who refresh its front wait, and only they.

    SQLite has one writer at a time. On PostgreSQL to hold the study's row would stop all who plan as well.
    """
    if connection.dialect.name == "postgresql":
        key = sa.func.hashtextextended(f"front of {name}", 0)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))
    here = tables.studies.c
    row = connection.execute(
        sa.select(here.objectives_json, here.maximise_json).where(here.study_name == name)
    ).one_or_none()
    if row is None:
        raise reading.missing_study(connection, name)
    return from_text(list[str], row.objectives_json), from_text(list[bool], row.maximise_json)


def computed_front(connection: sa.Connection, study: StudyRecord) -> list[dict[str, Any]]:
    """Returns the rows that the table of the front should have for a study, in their order, from all candidates."""
    rows = _on_front(_measured(connection, study.name), study.objectives, study.maximise)
    return _as_stored(connection, study.name, rows)


def _measured(
    connection: sa.Connection, name: str, trials: Collection[int] | None = None
) -> list[sa.Row[Any]]:
    """Returns what the front wants to know of the complete and feasible candidates: all, or those of some trials."""
    candidates, evaluations = tables.candidates.c, tables.evaluations.c
    query = (
        sa.select(
            candidates.trial_number,
            candidates.ordinal,
            candidates.router,
            candidates.schedule,
            candidates.experts_per_layer,  # at the start
            candidates.params_json,
            evaluations.accuracy,
            evaluations.activated_params,
            evaluations.total_params,
            evaluations.values_json,
        )
        .join_from(tables.candidates, tables.evaluations)
        .where(
            candidates.study_name == name,
            candidates.status == "complete",
            evaluations.is_feasible,
        )
        .order_by(candidates.trial_number)
    )
    if trials is not None:
        query = query.where(candidates.trial_number.in_(sorted(trials)))
    return list(connection.execute(query))


def _on_front(
    rows: Sequence[sa.Row[Any]], objectives: Sequence[str], maximise: Sequence[bool]
) -> list[sa.Row[Any]]:
    """Returns those that no other dominates, in the order of the front."""
    values = [from_text(dict[str, float], row.values_json) for row in rows]
    points = np.array([[item[key] for key in objectives] for item in values])
    order_key = front_order(objectives)
    chosen = sorted(
        front_indices(points, maximise).tolist(),
        key=lambda index: (values[index][order_key], rows[index].trial_number),
    )
    return [rows[index] for index in chosen]


def _as_stored(
    connection: sa.Connection, name: str, rows: Sequence[sa.Row[Any]]
) -> list[dict[str, Any]]:
    at_end = _experts_at_end(connection, name, [row.trial_number for row in rows])
    return [
        {"study_name": name, "place": place} | dict(row._mapping) | at_end.get(row.trial_number, {})
        for place, row in enumerate(rows)
    ]


def read_front(connection: sa.Connection, name: str) -> list[FrontMember]:
    """Returns the stored front in its order."""
    front = tables.front.c
    query = sa.select(front.trial_number, front.ordinal, front.values_json, front.params_json)
    query = query.where(front.study_name == name).order_by(front.place)
    rows: list[sa.Row[Any]] = list(connection.execute(query))
    if not rows:
        reading.require_study(connection, name)
    return _members(connection, name, rows)


def _members(
    connection: sa.Connection, name: str, rows: Sequence[sa.Row[Any]]
) -> list[FrontMember]:
    if not rows:
        return []
    here, done = tables.candidates.c, tables.evaluations.c
    trials = [row.trial_number for row in rows]
    # By their numbers: joined to the front, SQLite would go through all candidates.
    query = sa.select(here.trial_number, here.candidate_json, done.metrics_json).join_from(
        tables.candidates, tables.evaluations
    )
    query = query.where(here.study_name == name, here.trial_number.in_(sorted(trials)))
    found = {row.trial_number: row for row in connection.execute(query)}
    routing = candidate_rows.read_routing(connection, name, trials)
    return [
        FrontMember(
            trial=row.trial_number,
            ordinal=row.ordinal,
            candidate=from_text(Candidate, found[row.trial_number].candidate_json),
            values=from_text(dict[str, float], row.values_json),
            metrics=from_text(dict[str, float], found[row.trial_number].metrics_json),
            params=from_text(dict[str, Any], row.params_json),
            routing=routing[row.trial_number],
        )
        for row in rows
        if row.trial_number in found
    ]


def front_order(objectives: Sequence[str]) -> str:
    """Returns the objective by which a front is sorted: activated parameters, else the second, else the only one."""
    if "activated_params" in objectives:
        return "activated_params"
    return objectives[min(1, len(objectives) - 1)]


def _experts_at_end(
    connection: sa.Connection, name: str, trials: Collection[int]
) -> dict[int, dict[str, str]]:
    """Returns the column `experts_per_layer` of those of the trials whose layers are known."""
    here = tables.layers.c
    counts: dict[int, tuple[int, ...]] = defaultdict(tuple)
    for row in connection.execute(
        sa.select(here.trial_number, here.num_experts)
        .where(here.study_name == name, here.trial_number.in_(sorted(trials)))
        .order_by(here.trial_number, here.layer)
    ):
        counts[row.trial_number] += (row.num_experts,)
    return {
        trial: {"experts_per_layer": counts_to_text(numbers)} for trial, numbers in counts.items()
    }
