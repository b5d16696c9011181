"""Brings the tables of an older version up to date, after a backup copy of the file."""

import logging
import os
import sqlite3
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from dynamoe_search.errors import StorageError
from dynamoe_search.records import Candidate
from dynamoe_search.store import tables
from dynamoe_search.store.problems import display
from dynamoe_search.store.runs import (
    SILENCE_SECONDS,
    Runner,
    boot,
    lives_here,
    started,
    this_process,
)
from dynamoe_search.store.texts import counts_from_text, from_text

_log = logging.getLogger(__name__)

_DROPPED = ("host", "pid", "process_mark", "heartbeat_at", "is_stop_requested")


def migrate(connection: sa.Connection, program: str) -> None:
    """Brings tables of an older version up to date; all of it happens, or nothing.

    A SQLite file is copied first, to `FILE.v4-backup` (or v3, v2, v1) beside it, while nobody else can write. Other
    databases are not copied: that is for their own tools.

    Args:
        connection: In a transaction that writes, on SQLite the only one.
        program: Version of this program.

    Raises:
        StorageError: The version is unknown, an older program is still at work on a study, or no copy can be made.
    """
    here = tables.schema.c
    found = connection.execute(sa.select(here.version).with_for_update()).scalar_one()
    if found == tables.SCHEMA_VERSION:
        return  # another process was faster
    url = connection.engine.url
    if not 1 <= found < tables.SCHEMA_VERSION:
        raise StorageError(
            f"the tables of {display(url)} have the unknown version {found}; "
            "the database was changed by hand or is not one of this program's"
        )
    if connection.dialect.name == "sqlite" and sqlite3.sqlite_version_info < (3, 35):
        raise StorageError(
            f"the database {display(url)} is of an older version; upgrading it needs SQLite 3.35 or later, "
            f"this Python has {sqlite3.sqlite_version}; nothing was changed"
        )
    _refuse_live_runs(connection, found)
    if connection.dialect.name == "sqlite":
        copy = _backup(Path(str(url.database)), found)
        _log.warning("%s was upgraded; a copy of what it was is %s", display(url), copy)
    else:
        _log.warning("%s was upgraded, without a copy of what it was", display(url))
    if found == 1:
        _to_version_2(connection)
    if found < 3:
        _to_version_3(connection)
    if found < 4:
        _to_version_4(connection)
    _to_version_5(connection)
    connection.execute(
        tables.schema.update().values(version=tables.SCHEMA_VERSION, program=program)
    )


def _backup(path: Path, found: int) -> Path:
    """Copies a SQLite file with all that is committed; returns the path of the copy, which is safe on the disk."""
    target = path.with_name(f"{path.name}.v{found}-backup")
    number = 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.v{found}-backup-{number}")
    half = target.with_name(f"{target.name}.partial")
    try:
        half.unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(half)) as copy:
            source.backup(copy)
        with half.open("rb+") as file:
            os.fsync(file.fileno())
        half.replace(target)
        _sync_folder(path.parent)
    except (sqlite3.Error, OSError) as error:
        with suppress(OSError):
            half.unlink(missing_ok=True)
        raise StorageError(
            f"the database {path} is of an older version and must be upgraded, but no backup copy can be "
            f"made beside it ({error}); make room, then try again; nothing was changed"
        ) from error
    return target


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refuse_live_runs(connection: sa.Connection, found: int) -> None:
    """Raises if an older program is still at work, since it would not understand the new tables."""
    for name, host, pid in _live_runs_1(connection) if found == 1 else _live_runs_2(connection):
        raise StorageError(
            f"the database {display(connection.engine.url)} must be upgraded, but an older version of "
            f"this program is running the study {name!r} (process {pid} on {host}); stop it first"
        )


def _live_runs_1(connection: sa.Connection) -> list[tuple[str, str, int]]:
    """Returns study, machine and process of every live run; in version 1 a study had one process."""
    rows = connection.exec_driver_sql(
        "SELECT study_name, host, pid, process_mark, heartbeat_at FROM dynamoe_studies "
        "WHERE state = 'running' AND pid IS NOT NULL"
    ).all()
    alive = []
    for name, host, pid, mark, heard_at in rows:
        if host == this_process().host and mark:
            is_alive = started(pid) is not None and mark == f"{boot()}:{started(pid)}"
        else:
            is_alive = _was_heard(heard_at)
        if is_alive:
            alive.append((name, host, pid))
    return alive


def _live_runs_2(connection: sa.Connection) -> list[tuple[str, str, int]]:
    """Returns study, machine and process of every live worker."""
    here = tables.workers.c
    alive = []
    query = sa.select(
        here.study_name, here.host, here.pid, here.process_mark, here.heartbeat_at
    ).where(here.left_at.is_(None))
    for row in connection.execute(query).all():
        found = lives_here(Runner(host=row.host, pid=row.pid, mark=row.process_mark))
        if found or (found is None and _was_heard(row.heartbeat_at)):
            alive.append((row.study_name, row.host, row.pid))
    return alive


def _was_heard(heard_at: str) -> bool:
    """Says whether a process of another machine gave a sign of life lately; there is only its clock to go by."""
    age = datetime.now(UTC) - datetime.fromisoformat(heard_at)
    return abs(age.total_seconds()) < SILENCE_SECONDS


def _to_version_2(connection: sa.Connection) -> None:
    """Workers and legs take the place of the one process that could run a study; candidates know where they stand."""
    for table in (tables.workers, tables.legs, tables.decisions):
        table.create(connection)
    _add_columns(connection, tables.studies, "max_seconds", "max_pack", "stop_serial", "planner")
    _add_columns(connection, tables.candidates, "epochs", "checkpoint", "pack_key")
    for name in _DROPPED:
        connection.exec_driver_sql(f"ALTER TABLE dynamoe_studies DROP COLUMN {name}")
    studies, here, done = tables.studies, tables.candidates, tables.evaluations.c
    connection.execute(
        studies.update().where(studies.c.state == "running").values(state="interrupted")
    )
    epochs = (
        sa.select(done.epochs)
        .where(done.study_name == here.c.study_name, done.trial_number == here.c.trial_number)
        .scalar_subquery()
    )
    connection.execute(here.update().values(epochs=sa.func.coalesce(epochs, 0)))


def _to_version_3(connection: sa.Connection) -> None:
    """Studies whose candidates are all given; candidates share a pack only if they share the order of the batches."""
    for table in (tables.tests, tables.evidence):
        table.create(connection)
    _add_columns(connection, tables.studies, "exhausted_at", "parent", "purpose", "plan_json")
    _add_columns(connection, tables.layers, "loss_by_k_json")
    here, legs = tables.candidates, tables.legs
    rows = connection.execute(
        sa.select(here.c.study_name, here.c.trial_number, here.c.candidate_json)
    ).all()
    keys = {}
    for row in rows:
        key = from_text(Candidate, row.candidate_json).pack_key
        keys[row.study_name, row.trial_number] = key
        connection.execute(
            here.update()
            .where(here.c.study_name == row.study_name, here.c.trial_number == row.trial_number)
            .values(pack_key=key)
        )
    for row in connection.execute(sa.select(legs.c.study_name, legs.c.leg, legs.c.members)).all():
        first = counts_from_text(row.members)[0]
        connection.execute(
            legs.update()
            .where(legs.c.study_name == row.study_name, legs.c.leg == row.leg)
            .values(pack_key=keys[row.study_name, first])
        )


def _to_version_4(connection: sa.Connection) -> None:
    """Studies know where their files are, and workers with which versions they compute."""
    _add_columns(connection, tables.studies, "files_json")
    _add_missing_column(connection, tables.workers, "versions_json")  # version 1 had no such table
    for index in tables.candidates.indexes:  # one of them is new, beside that of the design
        index.create(connection, checkfirst=True)


def _to_version_5(connection: sa.Connection) -> None:
    """Databases have an id. Older ones never get one: it is a part of the folder where their files would be."""
    _add_columns(connection, tables.schema, "database_id")
    _add_missing_column(connection, tables.layers, "loss_by_k_json")  # a late part of version 3


def _add_missing_column(connection: sa.Connection, table: sa.Table, name: str) -> None:
    known = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
    if name not in known:
        _add_columns(connection, table, name)


def _add_columns(connection: sa.Connection, table: sa.Table, *names: str) -> None:
    for name in names:
        column = sa.schema.CreateColumn(table.c[name]).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column}")
