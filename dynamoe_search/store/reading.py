"""What is read of studies, as records; every function is a part of one transaction."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, Literal, cast

import sqlalchemy as sa

from dynamoe_search.errors import UsageError
from dynamoe_search.records import (
    FilesMark,
    StudyRecord,
    StudySettings,
    Worker,
)
from dynamoe_search.store import tables
from dynamoe_search.store.runs import Watcher
from dynamoe_search.store.texts import from_text
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


def read_made_at(connection: sa.Connection, name: str) -> str:
    """Returns when a study was made; raises `UsageError` if there is none of this name."""
    here = tables.studies.c
    query = sa.select(here.created_at).where(here.study_name == name)
    found = connection.execute(query).scalar()
    if found is None:
        require_study(connection, name)
    return str(found)


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
