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
from dynamoe_search.store.runs import SILENCE_SECONDS, boot, started, this_process
from dynamoe_search.store.texts import from_text

_log = logging.getLogger(__name__)

_DROPPED = ("host", "pid", "process_mark", "heartbeat_at", "is_stop_requested")


def migrate(connection: sa.Connection, program: str) -> None:
    """Brings tables of an older version up to date; all of it happens, or nothing.

    A SQLite file is copied first, to `FILE.v1-backup` beside it, while nobody else can write. Other databases are
    not copied: that is for their own tools.

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
    if found != 1:
        raise StorageError(
            f"the tables of {display(url)} have the unknown version {found}; "
            "the database was changed by hand or is not one of this program's"
        )
    if connection.dialect.name == "sqlite" and sqlite3.sqlite_version_info < (3, 35):
        raise StorageError(
            f"the database {display(url)} is of an older version; upgrading it needs SQLite 3.35 or later, "
            f"this Python has {sqlite3.sqlite_version}; nothing was changed"
        )
    _refuse_live_runs(connection)
    if connection.dialect.name == "sqlite":
        copy = _backup(Path(str(url.database)), found)
        _log.warning("%s was upgraded; a copy of what it was is %s", display(url), copy)
    else:
        _log.warning("%s was upgraded, without a copy of what it was", display(url))
    _to_version_2(connection)
    connection.execute(tables.schema.update().values(version=2, program=program))


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


def _refuse_live_runs(connection: sa.Connection) -> None:
    """Raises if a program of version 1 is still at work, since it would not understand the new tables."""
    rows = connection.exec_driver_sql(
        "SELECT study_name, host, pid, process_mark, heartbeat_at FROM dynamoe_studies "
        "WHERE state = 'running' AND pid IS NOT NULL"
    ).all()
    for name, host, pid, mark, heard_at in rows:
        if host == this_process().host and mark:
            is_alive = started(pid) is not None and mark == f"{boot()}:{started(pid)}"
        else:
            age = datetime.now(UTC) - datetime.fromisoformat(heard_at)
            is_alive = abs(age.total_seconds()) < SILENCE_SECONDS
        if is_alive:
            raise StorageError(
                f"the database {display(connection.engine.url)} must be upgraded, but an older version of "
                f"this program is running the study {name!r} (process {pid} on {host}); stop it first"
            )


def _to_version_2(connection: sa.Connection) -> None:
    """Workers and legs take the place of the one process that could run a study; candidates know where they stand."""
    for table in (tables.workers, tables.legs, tables.decisions):
        table.create(connection)
    for table, names in (
        (tables.studies, ("max_seconds", "max_pack", "stop_serial", "planner")),
        (tables.candidates, ("epochs", "checkpoint", "pack_key")),
    ):
        for name in names:
            column = sa.schema.CreateColumn(table.c[name]).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column}")
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
    rows = connection.execute(
        sa.select(here.c.study_name, here.c.trial_number, here.c.candidate_json)
    ).all()
    for row in rows:
        connection.execute(
            here.update()
            .where(here.c.study_name == row.study_name, here.c.trial_number == row.trial_number)
            .values(pack_key=from_text(Candidate, row.candidate_json).pack_key)
        )
