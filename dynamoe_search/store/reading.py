"""What is read from our tables, as records; every function is a part of one transaction."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any, Literal, cast

import sqlalchemy as sa

from dynamoe_search.errors import UsageError
from dynamoe_search.records import (
    Candidate,
    CandidateRecord,
    FilesMark,
    LayerRouting,
    Outcome,
    Standing,
    StudyRecord,
    StudySettings,
    Worker,
)
from dynamoe_search.store import tables
from dynamoe_search.store.runs import Watcher
from dynamoe_search.store.texts import from_text, number
from dynamoe_search.store.workers import asked_to_stop, read_workers
from dynamoe_search.wording import similar


def read_studies(connection: sa.Connection, watcher: Watcher) -> list[StudyRecord]:
    """Returns all studies, oldest first."""
    table = tables.studies
    rows = connection.execute(
        sa.select(table).order_by(table.c.created_at, table.c.study_name)
    ).all()
    counts, at_work = _counts(connection), read_workers(connection, watcher)
    asked = [asked_to_stop(connection, row.study_name) for row in rows]
    return [
        _study(row, counts[row.study_name], at_work[row.study_name], names)
        for row, names in zip(rows, asked, strict=True)
    ]


def read_study(connection: sa.Connection, name: str, watcher: Watcher) -> StudyRecord:
    """Returns a study; raises `UsageError` that names close matches if there is none."""
    table = tables.studies
    row = connection.execute(sa.select(table).where(table.c.study_name == name)).one_or_none()
    if row is None:
        raise missing_study(connection, name)
    at_work = read_workers(connection, watcher, name)[name]
    return _study(row, _counts(connection, name)[name], at_work, asked_to_stop(connection, name))


def require_study(connection: sa.Connection, name: str) -> None:
    """Raises `UsageError` if there is no such study."""
    if not has_study(connection, name):
        raise missing_study(connection, name)


def missing_study(connection: sa.Connection, name: str) -> UsageError:
    """Returns the error for a study that is not there."""
    names = list(connection.execute(sa.select(tables.studies.c.study_name)).scalars())
    return UsageError(_no_study(name, names))


def read_files_mark(connection: sa.Connection, name: str) -> FilesMark | None:
    """Returns where the files of a study are; None if nobody said so yet."""
    here = tables.studies.c
    text = connection.execute(sa.select(here.files_json).where(here.study_name == name)).scalar()
    return from_text(FilesMark, text) if text else None


def read_max_pack(connection: sa.Connection, name: str) -> int | None:
    """Returns how many candidates of a study fit into memory together; None if that is not known."""
    here = tables.studies.c
    found: int | None = connection.execute(
        sa.select(here.max_pack).where(here.study_name == name)
    ).scalar()
    return found


def has_study(connection: sa.Connection, name: str) -> bool:
    """Says whether there is a study of this name."""
    table = tables.studies
    query = sa.select(table.c.study_name).where(table.c.study_name == name)
    return connection.execute(query).first() is not None


def read_goals(connection: sa.Connection, name: str) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """Returns the objectives of a study that is not being deleted, and which of them are maximised."""
    table = tables.studies
    row = connection.execute(
        sa.select(table.c.state, table.c.objectives_json, table.c.maximise_json).where(
            table.c.study_name == name
        )
    ).one_or_none()
    if row is None:
        raise missing_study(connection, name)
    refuse_deleting(name, row.state)
    return (
        from_text(tuple[str, ...], row.objectives_json),
        from_text(tuple[bool, ...], row.maximise_json),
    )


def refuse_deleting(name: str, state: str) -> None:
    """Raises `UsageError` if the state of a study says that it is being deleted."""
    if state == "deleting":
        raise UsageError(f"the study {name!r} is being deleted; delete it again to finish that")


def read_children(connection: sa.Connection, name: str) -> list[str]:
    """Returns the designed studies that were made from a study, oldest first."""
    table = tables.studies
    query = sa.select(table.c.study_name).where(table.c.parent == name)
    return list(
        connection.execute(query.order_by(table.c.created_at, table.c.study_name)).scalars()
    )


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
        require_study(connection, name)
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


def read_made_at(connection: sa.Connection, name: str) -> str:
    """Returns when a study was made; raises `UsageError` if there is none of this name."""
    here = tables.studies.c
    query = sa.select(here.created_at).where(here.study_name == name)
    found = connection.execute(query).scalar()
    if found is None:
        require_study(connection, name)
    return str(found)


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


def _no_study(name: str, names: list[str]) -> str:
    if close := similar(name, names, most=3, cutoff=0.5):
        return f"there is no study {name!r}; did you mean {', '.join(map(repr, close))}?"
    if not names:
        return f"there is no study {name!r}, and none other in this database; start one with the command run"
    return f"there is no study {name!r}; see the command list"


def _counts(connection: sa.Connection, name: str | None = None) -> dict[str, dict[str, int]]:
    """Returns, per study, how many candidates have each status, and the size of the front as `front`."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    here, front = tables.candidates.c, tables.front.c
    by_status = sa.select(here.study_name, here.status, sa.func.count().label("num"))
    on_front = sa.select(
        front.study_name, sa.literal("front").label("status"), sa.func.count().label("num")
    )
    if name is not None:
        by_status = by_status.where(here.study_name == name)
        on_front = on_front.where(front.study_name == name)
    for query in (
        by_status.group_by(here.study_name, here.status),
        on_front.group_by(front.study_name),
    ):
        for row in connection.execute(query):
            counts[row.study_name][row.status] = row.num
    return counts


def _study(
    row: sa.Row[Any], counts: dict[str, int], workers: Sequence[Worker], asked: Collection[str]
) -> StudyRecord:
    alive = [worker for worker in workers if worker.is_alive]
    latest = alive[-1] if alive else None
    return StudyRecord(
        name=row.study_name,
        spec_json=row.spec_json,
        source=row.source,
        settings=from_text(StudySettings, row.settings_json),
        objectives=from_text(tuple[str, ...], row.objectives_json),
        maximise=from_text(tuple[bool, ...], row.maximise_json),
        state=_true_state(row.state, bool(alive)),
        trials=row.trials,
        created_at=row.created_at,
        updated_at=row.updated_at,
        max_epochs=row.max_epochs,
        max_seconds=row.max_seconds,
        seconds_spent=sum(worker.seconds for worker in workers),
        max_pack=row.max_pack,
        exhausted_at=row.exhausted_at,
        parent=row.parent,
        purpose=row.purpose,
        plan_json=row.plan_json,
        is_stop_requested=any(worker.id in asked for worker in alive),
        host=latest.host if latest else None,
        pid=latest.pid if latest else None,
        heartbeat_at=latest.heartbeat_at if latest else None,
        num_complete=counts["complete"],
        num_failed=counts["failed"],
        num_stopped=counts["stopped"],
        num_running=counts["running"],
        num_paused=counts["paused"],
        num_front=counts["front"],
    )


def _true_state(
    state: str, is_alive: bool
) -> Literal["created", "running", "interrupted", "finished", "deleting"]:
    if state != "deleting":
        state = "running" if is_alive else "interrupted" if state == "running" else state
    return cast(Literal["created", "running", "interrupted", "finished", "deleting"], state)


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
