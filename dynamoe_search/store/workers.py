"""The leases of the processes that work on studies; every function is a part of one transaction."""

import uuid
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from dynamoe_search.errors import LeaseLostError, UsageError
from dynamoe_search.records import Worker
from dynamoe_search.store import tables
from dynamoe_search.store.runs import Runner, Watcher, is_given_up
from dynamoe_search.store.texts import from_text, now_after, to_text, utc_now


class HeldStudy(NamedTuple):
    """What nobody else changes while the transaction lasts."""

    state: str
    planner: str | None
    stop_serial: int


def join(
    connection: sa.Connection,
    name: str,
    runner: Runner,
    versions: Mapping[str, str],
    watcher: Watcher,
) -> tuple[str, int]:
    """Adds a worker to a study; returns its id and the number of the latest request to stop.

    Raises:
        UsageError: The study is being deleted, or is gone, or is run by somebody with other versions.
    """
    row = locked_study(connection, name)
    if row is None or row.state == "deleting":
        raise UsageError(
            f"the study {name!r} is being deleted; delete it again to finish, then start anew"
        )
    _close_given_up(connection, name, runner)
    if others := of_other_versions(connection, name, versions, watcher):
        raise UsageError(unlike(name, others[0], runner.host, versions))
    worker = f"{runner.host[:40]}-{runner.pid}-{uuid.uuid4().hex[:8]}"
    here = tables.workers.c
    latest = sa.select(sa.func.max(here.started_at)).where(here.study_name == name)
    came = now_after(connection.execute(latest).scalar())  # one after another, by any clock
    now = utc_now()
    connection.execute(
        tables.workers.insert().values(
            study_name=name,
            worker=worker,
            host=runner.host,
            pid=runner.pid,
            process_mark=runner.mark,
            started_at=came,
            heartbeat_at=now,
            beats=0,
            seconds=0.0,
            stop_serial=row.stop_serial,
            versions_json=to_text(dict(versions)) if versions else None,
        )
    )
    _set_study(connection, name, state="running", updated_at=now)
    return worker, row.stop_serial


def of_other_versions(
    connection: sa.Connection, name: str, versions: Mapping[str, str], watcher: Watcher
) -> list[Worker]:
    """Returns the living workers of a study that compute with other versions, as far as both are known."""
    found = read_workers(connection, watcher, name)[name]
    return [one for one in found if one.is_alive and differing(one.versions, versions)]


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Returns the libraries of which two processes are known to have different versions."""
    return sorted(
        library for library in one.keys() & other.keys() if one[library] != other[library]
    )


def unlike(name: str, other: Worker, host: str, versions: Mapping[str, str]) -> str:
    """Returns why a process does not join another that has other versions."""
    libraries = differing(other.versions, versions)
    theirs = ", ".join(f"{library} {other.versions[library]}" for library in libraries)
    ours = ", ".join(f"{library} {versions[library]}" for library in libraries)
    return (
        f"the study {name!r} is being run with {theirs} by process {other.pid} on {other.host}, and {host} "
        f"has {ours}, with which numbers could differ; install the same versions on both"
    )


def _close_given_up(connection: sa.Connection, name: str, runner: Runner) -> None:
    """Says for this process that it left where it could not say so; to others it would look alive."""
    here = tables.workers.c
    own = connection.execute(
        sa.select(here.worker).where(
            here.study_name == name,
            here.left_at.is_(None),
            here.host == runner.host,
            here.pid == runner.pid,
            here.process_mark == runner.mark,
        )
    ).scalars()
    for worker in [one for one in own if is_given_up(one, runner)]:
        connection.execute(
            tables.workers.update()
            .where(here.study_name == name, here.worker == worker)
            .values(left_at=utc_now())
        )


def beat(connection: sa.Connection, name: str, worker: str, seconds: float) -> None:
    """Stores a sign of life."""
    here = tables.workers.c
    connection.execute(
        tables.workers.update()
        .where(here.study_name == name, here.worker == worker, here.left_at.is_(None))
        .values(heartbeat_at=utc_now(), beats=here.beats + 1, seconds=seconds)
    )


def leave(
    connection: sa.Connection,
    name: str,
    worker: str,
    *,
    state: str,
    seconds: float,
    watcher: Watcher,
) -> None:
    """Ends a lease; the study's state is set if nobody else works on it."""
    row = locked_study(connection, name)
    here = tables.workers.c
    left = connection.execute(
        tables.workers.update()
        .where(here.study_name == name, here.worker == worker, here.left_at.is_(None))
        .values(left_at=utc_now(), seconds=seconds)
    )
    if row is None or left.rowcount == 0:
        return
    if row.planner == worker:
        _set_study(connection, name, planner=None)
    others = read_workers(connection, watcher, name)[name]
    if row.state != "deleting" and not any(other.is_alive for other in others):
        _set_study(connection, name, state=state, updated_at=utc_now())


def read_workers(
    connection: sa.Connection, watcher: Watcher, name: str | None = None
) -> dict[str, list[Worker]]:
    """Returns the workers of one study or of all, by study, in the order in which they came."""
    table = tables.workers
    query = sa.select(table).order_by(table.c.started_at, table.c.worker)
    if name is not None:
        query = query.where(table.c.study_name == name)
    found: dict[str, list[Worker]] = defaultdict(list)
    for row in connection.execute(query):
        found[row.study_name].append(_worker(row, watcher))
    return found


def asked_to_stop(connection: sa.Connection, name: str) -> set[str]:
    """Returns the workers that began before the latest request to stop and have not left."""
    studies, here = tables.studies, tables.workers.c
    query = (
        sa.select(here.worker)
        .select_from(tables.workers.join(studies))
        .where(
            here.study_name == name,
            here.left_at.is_(None),
            here.stop_serial < studies.c.stop_serial,
        )
    )
    return set(connection.execute(query).scalars())


def left(connection: sa.Connection, name: str) -> set[str]:
    """Returns the workers of a study that said that they stop, by id."""
    here = tables.workers.c
    query = sa.select(here.worker).where(here.study_name == name, here.left_at.is_not(None))
    return set(connection.execute(query).scalars())


def living(connection: sa.Connection, name: str, watcher: Watcher) -> dict[str, Worker]:
    """Returns the workers of a study that are alive, by id."""
    found = read_workers(connection, watcher, name)[name]
    return {worker.id: worker for worker in found if worker.is_alive}


def has_lease(connection: sa.Connection, name: str, worker: str) -> bool:
    """Says whether a worker of this process has not left."""
    here = tables.workers.c
    query = sa.select(here.worker).where(
        here.study_name == name, here.worker == worker, here.left_at.is_(None)
    )
    return connection.execute(query).first() is not None


def try_to_plan(connection: sa.Connection, name: str, worker: str, watcher: Watcher) -> bool:
    """Makes a worker of this process the one that plans, if nobody who is alive does; returns whether it is.

    Nothing is locked until it is known that the turn is free, since many ask at once.

    Raises:
        LeaseLostError: The worker has no lease.
    """
    planner = _planner(connection, name)
    if planner is not None and _is_taken(planner, worker, watcher):
        return False
    if planner is None or not has_lease(connection, name, worker):
        raise LeaseLostError(f"{worker} does not work on the study {name!r} any more")
    here = tables.studies.c
    taken = connection.execute(
        tables.studies.update()
        .where(here.study_name == name, here.planner.is_not_distinct_from(planner.planner))
        .values(planner=worker)
    )
    return taken.rowcount == 1


def stop_planning(connection: sa.Connection, name: str, worker: str) -> None:
    """Lets others plan; nothing if another worker has taken over."""
    here = tables.studies.c
    connection.execute(
        tables.studies.update()
        .where(here.study_name == name, here.planner == worker)
        .values(planner=None)
    )


def require_turn(connection: sa.Connection, name: str, worker: str) -> HeldStudy:
    """Keeps the turn to plan with a worker until the transaction ends; returns where the study stands.

    A worker that slept so long that it counted as dead has lost it, also if nobody has it now: what it is about to
    write follows from what was stored before.

    Raises:
        LeaseLostError: It is not the worker's turn.
    """
    row = locked_study(connection, name)
    if row is None or row.planner != worker or not has_lease(connection, name, worker):
        raise LeaseLostError(f"{worker} does not plan for the study {name!r} any more")
    return row


def is_planned(connection: sa.Connection, name: str, worker: str, watcher: Watcher) -> bool:
    """Says whether another worker that is alive plans now."""
    row = _planner(connection, name)
    return row is not None and _is_taken(row, worker, watcher)


def _is_taken(planner: sa.Row[Any], worker: str, watcher: Watcher) -> bool:
    if planner.worker in (
        None,
        worker,
    ):  # nobody's turn, or that of a worker of whom nothing is known
        return False
    return _worker(planner, watcher).is_alive


def _planner(connection: sa.Connection, name: str) -> sa.Row[Any] | None:
    """Returns who plans as `planner`, with its row if that is there; None if the study is gone."""
    here, lease = tables.studies.c, tables.workers.c
    is_its = sa.and_(lease.study_name == here.study_name, lease.worker == here.planner)
    return connection.execute(
        sa.select(here.planner, tables.workers)
        .select_from(tables.studies.outerjoin(tables.workers, is_its))
        .where(here.study_name == name)
    ).one_or_none()


class Orders(NamedTuple):
    """What a worker must know while it trains.

    Attributes:
        stop_serial: How often the study was asked to stop.
        max_seconds: How long all workers together may work on it, None for no limit.
        others_seconds: How long the others did so far; 0 if there is no limit.
    """

    stop_serial: int
    max_seconds: float | None
    others_seconds: float


def read_orders(connection: sa.Connection, name: str, worker: str) -> Orders | None:
    """Returns what a worker must know while it trains, in one statement; None if the study is gone."""
    here, lease = tables.studies.c, tables.workers.c
    others = (
        sa.select(sa.func.coalesce(sa.func.sum(lease.seconds), 0.0))
        .where(lease.study_name == name, lease.worker != worker)
        .scalar_subquery()
    )
    row = connection.execute(
        sa.select(
            here.stop_serial,
            here.max_seconds,
            sa.case((here.max_seconds.is_(None), 0.0), else_=others),
        ).where(here.study_name == name)
    ).one_or_none()
    return None if row is None else Orders(*row)


def locked_study(connection: sa.Connection, name: str) -> HeldStudy | None:
    """Keeps a study from being changed by others and returns where it stands; None if it is gone."""
    here = tables.studies.c
    row = connection.execute(
        sa.select(here.state, here.planner, here.stop_serial)
        .where(here.study_name == name)
        .with_for_update(key_share=True)  # rows that refer to the study may be added meanwhile
    ).one_or_none()
    return None if row is None else HeldStudy(*row)


def _set_study(connection: sa.Connection, name: str, **values: Any) -> None:
    table = tables.studies
    connection.execute(table.update().where(table.c.study_name == name).values(**values))


def _worker(row: sa.Row[Any], watcher: Watcher) -> Worker:
    runner = Runner(host=row.host, pid=row.pid, mark=row.process_mark)
    key = (row.study_name, row.worker)
    return Worker(
        id=row.worker,
        host=row.host,
        pid=row.pid,
        mark=row.process_mark,
        started_at=row.started_at,
        heartbeat_at=row.heartbeat_at,
        beats=row.beats,
        is_alive=row.left_at is None
        and not is_given_up(row.worker, runner)
        and watcher.is_alive(key, runner, row.beats),
        seconds=row.seconds,
        versions=dict(_versions(row.versions_json)),
    )


@lru_cache(maxsize=64)
def _versions(text: str | None) -> dict[str, str]:
    return from_text(dict[str, str], text) if text else {}
