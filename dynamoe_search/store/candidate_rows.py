"""What is read of candidates, as records; every function is a part of one transaction."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace
from operator import itemgetter
from typing import Any, cast

import sqlalchemy as sa

from dynamoe_search.errors import UsageError
from dynamoe_search.records import Candidate, CandidateRecord, LayerRouting, Outcome, Standing
from dynamoe_search.store import reading, tables
from dynamoe_search.store.texts import from_text, number


def read_numbers(connection: sa.Connection, name: str, ordinals: Collection[int]) -> dict[int, int]:
    """Returns the trial numbers of ordinals of a study, as far as it has them."""
    here = tables.candidates.c
    query = sa.select(here.ordinal, here.trial_number).where(
        here.study_name == name, here.ordinal.in_(sorted(ordinals))
    )
    return {row.ordinal: row.trial_number for row in connection.execute(query)}


def read_ours(connection: sa.Connection, name: str, trials: Collection[int]) -> frozenset[int]:
    """Returns those of the trials that are candidates of a study."""
    here = tables.candidates.c
    query = sa.select(here.trial_number).where(
        here.study_name == name, here.trial_number.in_(sorted(trials))
    )
    return frozenset(connection.execute(query).scalars())


def has_candidates(connection: sa.Connection, name: str) -> bool:
    """Says whether a study has any candidate."""
    here = tables.candidates.c
    query = sa.select(here.trial_number).where(here.study_name == name).limit(1)
    return connection.execute(query).first() is not None


def read_candidates(
    connection: sa.Connection,
    name: str,
    *,
    status: Collection[str] | None = None,
    trials: Collection[int] | None = None,
    with_routing: bool = True,
) -> list[CandidateRecord]:
    """Returns candidates of a study by trial number: all, those with a status, or some trials.

    Without routing the outcomes do not say how their layers route, which takes most of the time to read.
    """
    here = tables.candidates.c
    where = [here.study_name == name]
    if status is not None:
        where.append(here.status.in_(sorted(status)))
    if trials is not None:
        where.append(here.trial_number.in_(sorted(trials)))
    rows = connection.execute(
        sa.select(
            tables.candidates,
            *(item.label(f"evaluation_{item.name}") for item in tables.evaluations.c),
        )
        .select_from(tables.candidates.outerjoin(tables.evaluations))
        .where(*where)
        .order_by(here.trial_number)
    ).all()
    if not rows:
        reading.require_study(connection, name)
    routing = read_routing(connection, name, trials) if with_routing else {}
    return [_candidate(row, routing.get(row.trial_number, ())) for row in rows]


def read_candidate(connection: sa.Connection, name: str, trial: int) -> CandidateRecord:
    """Returns a candidate; raises `UsageError` that says which trials there are if there is none."""
    if found := read_candidates(connection, name, trials=(trial,)):
        return found[0]
    here = tables.candidates.c
    first, last = connection.execute(
        sa.select(sa.func.min(here.trial_number), sa.func.max(here.trial_number)).where(
            here.study_name == name
        )
    ).one()
    has = "no trials yet" if last is None else f"trials {first} to {last}"
    raise UsageError(f"the study {name!r} has no trial {trial}; it has {has}")


def read_standings(
    connection: sa.Connection,
    name: str,
    status: Collection[str] | None = None,
    *,
    trials: Collection[int] | None = None,
    above: int | None = None,
) -> list[Standing]:
    """Returns where candidates of a study stand, by trial number.

    Args:
        connection: In a transaction.
        name: The study.
        status: Only those with one of these.
        trials: Only these trials.
        above: Only trials with a higher number.
    """
    here = tables.candidates.c
    query = sa.select(
        here.trial_number,
        here.ordinal,
        here.cohort,
        here.status,
        here.epochs,
        here.checkpoint,
        here.pack_key,
        here.reference,
    ).where(here.study_name == name)
    if status is not None:
        query = query.where(here.status.in_(sorted(status)))
    if trials is not None:
        query = query.where(here.trial_number.in_(sorted(trials)))
    if above is not None:
        query = query.where(here.trial_number > above)
    return [
        Standing(
            trial=row.trial_number,
            ordinal=row.ordinal,
            cohort=row.cohort,
            status=cast(Any, row.status),
            epochs=row.epochs,
            checkpoint=row.checkpoint,
            pack_key=row.pack_key,
            reference=row.reference,
        )
        for row in sorted(connection.execute(query), key=itemgetter(0))  # SQLite would read all
    ]


def read_routing(
    connection: sa.Connection, name: str, trials: Collection[int] | None = None
) -> dict[int, tuple[LayerRouting, ...]]:
    """Returns how the layers of every trial, or of some, route at the end, by trial number."""
    table = tables.layers
    query = sa.select(table).where(table.c.study_name == name)
    if trials is not None:
        query = query.where(table.c.trial_number.in_(sorted(trials)))
    rows: Iterable[sa.Row[Any]] = connection.execute(
        query.order_by(table.c.trial_number, table.c.layer)
    )
    found: dict[int, tuple[LayerRouting, ...]] = defaultdict(tuple)
    for row in rows:
        found[row.trial_number] += (
            LayerRouting(
                layer=row.layer,
                num_experts=row.num_experts,
                mean_k=number(row.mean_k),
                std_k=number(row.std_k),
                k_histogram=from_text(tuple[int, ...], row.k_histogram_json),
                load=from_text(tuple[float, ...], row.load_json),
                load_cv=number(row.load_cv),
                max_share=number(row.max_share),
                loss_by_k=from_text(tuple[float | None, ...], row.loss_by_k_json or "[]"),
            ),
        )
    return found


def _candidate(row: sa.Row[Any], routing: tuple[LayerRouting, ...]) -> CandidateRecord:
    is_finished = row.evaluation_epochs is not None
    return CandidateRecord(
        trial=row.trial_number,
        ordinal=row.ordinal,
        cohort=row.cohort,
        candidate=from_text(Candidate, row.candidate_json),
        params=from_text(dict[str, Any], row.params_json),
        status=cast(Any, row.status),
        created_at=row.created_at,
        epochs=row.epochs,
        checkpoint=row.checkpoint,
        reason=row.reason,
        message=row.message,
        outcome=replace(from_text(Outcome, row.evaluation_outcome_json), routing=routing)
        if is_finished
        else None,
        values=from_text(dict[str, float], row.evaluation_values_json)
        if row.evaluation_values_json
        else None,
        violations=from_text(tuple[float, ...], row.evaluation_violations_json)
        if is_finished
        else (),
        feasible=bool(row.evaluation_is_feasible) if is_finished else True,
        sampler_state=from_text(dict[str, Any], row.sampler_state_json),
        versions=from_text(dict[str, str], row.evaluation_versions_json) if is_finished else {},
        finished_at=row.finished_at,
    )
