"""An open database: its connections, SQLite's settings, the version of our tables, short transactions."""

import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from dynamoe_search.errors import StorageError
from dynamoe_search.places import AnyPath, place_of
from dynamoe_search.store import tables
from dynamoe_search.store.addresses import (
    APP_NAME,
    FILES_VARIABLE,
    URL_VARIABLE,
    checked_file,
    default_url,
    parsed,
    user_folder,
)
from dynamoe_search.store.migrations import migrate
from dynamoe_search.store.patience import DRIVER_SECONDS, Patience
from dynamoe_search.store.problems import display, problem, translated
from dynamoe_search.store.texts import safe_name, utc_now

BUSY_TIMEOUT_SECONDS = 60.0

CONNECT_SECONDS = 10
"""A server that has not let us in after so long counts as out of reach."""

_IS_LASTING = "is_lasting"
"""Key of what a connection to SQLite was told last: whether a power cut must not undo what is written."""

Result = TypeVar("Result")


class Database:
    """An open database with our tables in it; Optuna shares its connections.

    Args:
        engine: Engine of the database, its SQLite settings attached.
        lock_seconds: How long to wait for another program that writes.
    """

    def __init__(self, engine: sa.Engine, lock_seconds: float = BUSY_TIMEOUT_SECONDS) -> None:
        self.engine = engine
        self.url = engine.url
        self.is_sqlite = engine.dialect.name == "sqlite"
        self.patience = Patience(lock_seconds)
        self.id: str | None = None  # of this database and no other; older ones have none
        self._moment = threading.local()

    @classmethod
    def open(
        cls, text: str | None, *, create: bool, busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS
    ) -> "Database":
        """Opens a database; makes our tables, or brings them up to date.

        Raises:
            StorageError: For anything that keeps the database from being used.
        """
        is_chosen = text is not None or bool(os.environ.get(URL_VARIABLE))
        url = parsed(default_url() if text is None else text)
        if url.get_backend_name() == "sqlite":
            url = checked_file(url, create=create, make_folder=not is_chosen)
            identity = _Identity()
            driver_seconds = min(busy_timeout_seconds, DRIVER_SECONDS)
            engine = _sqlite_engine(url, driver_seconds, identity)
            database = cls(engine, busy_timeout_seconds)
        else:
            identity = None
            database = cls(_server_engine(url))
        try:
            database.patience.call(lambda: database._check_schema(create=create))
            database.id, made_at = database.query(_origin)
            if identity is not None:
                identity.made_at = made_at
        except BaseException:
            database.close()
            raise
        return database

    @property
    def name(self) -> str:
        """How the database is named to people; no password."""
        return display(self.url)

    @property
    def folder(self) -> AnyPath:
        """Where the files of the studies are: where `DYNAMOE_SEARCH_FILES` says, in a folder of the database's own.

        That may be a path or the URL of storage that fsspec knows. Without it they are beside a SQLite file, else in
        the per-user data folder.
        """
        place = f"{self.url.host or 'local'}-{self.url.port or 0}-{self.url.database}"
        own = "-".join(filter(None, (safe_name(place), self.id)))
        if chosen := os.environ.get(FILES_VARIABLE):
            return place_of(chosen, FILES_VARIABLE) / own
        if self.is_sqlite:
            path = Path(str(self.url.database))
            return path.with_name(f"{path.name}.files")
        return user_folder() / "files" / own

    @property
    def may_share_folder(self) -> bool:
        """Whether files of another database may be in its folder: of one at the same path of another machine.

        That is one without an id, or a copy of this file, which has the same.
        """
        return bool(os.environ.get(FILES_VARIABLE))

    def query(self, body: Callable[[sa.Connection], Result]) -> Result:
        """Returns what `body` reads, on a connection that sees one state of the database throughout."""
        if (shared := self._shared) is not None:
            return body(shared)

        def once() -> Result:
            with self.read() as connection:
                return body(connection)

        return self.patience.call(once)

    def at_one_moment(self, read: Callable[[], Result]) -> Result:
        """Returns what `read` returns; all that it asks by `query` and `look` sees one state of the database.

        It may be called again if the database went away before the end, and must not write.
        """
        if self._shared is not None:
            return read()

        def once() -> Result:
            with self.read() as connection:
                self._moment.connection = connection
                try:
                    return read()
                finally:
                    self._moment.connection = None

        return self.patience.call(once)

    @property
    def _shared(self) -> sa.Connection | None:
        """The connection of `at_one_moment`, if this thread is in it."""
        return getattr(self._moment, "connection", None)

    def look(self, body: Callable[[sa.Connection], Result]) -> Result:
        """Returns what `body` reads with one statement, without the round trips of a transaction."""
        if (shared := self._shared) is not None:
            return body(shared)

        def once() -> Result:
            with translated(self.url), self.engine.connect() as connection:
                return body(connection.execution_options(isolation_level="AUTOCOMMIT"))

        return self.patience.call(once)

    def transact(
        self, body: Callable[[sa.Connection], Result], *, is_lasting: bool = False
    ) -> Result:
        """Returns what `body` returns; all that it writes happens, or nothing.

        It may be called again if the database went away before the end.

        Args:
            body: What reads and writes.
            is_lasting: Whether a power cut right after it must not undo it, nor anything written before.
        """

        def once() -> Result:
            with self.write(is_lasting=is_lasting) as connection:
                return body(connection)

        return self.patience.call(once)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Gives a connection that sees one state of the database throughout."""
        with translated(self.url), self.engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN")
            else:  # by default every query of a transaction would see its own state
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def write(self, *, is_lasting: bool = False) -> Iterator[sa.Connection]:
        """Gives a connection whose writes all happen, or none; on SQLite one writer at a time."""
        with translated(self.url), self.engine.connect() as connection, connection.begin() as work:
            if self.is_sqlite:
                if connection.info.get(_IS_LASTING) is not is_lasting:
                    if is_lasting:
                        connection.exec_driver_sql("PRAGMA synchronous=FULL")
                    else:
                        connection.exec_driver_sql("PRAGMA synchronous=NORMAL")
                    connection.info[_IS_LASTING] = is_lasting
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            try:
                work.commit()
            except (exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
                # Whether it happened is not known, so that it is not an error that passes.
                raise StorageError(str(problem(self.url, error))) from error

    def close(self) -> None:
        """Closes all connections."""
        self.engine.dispose()

    def _check_schema(self, *, create: bool) -> None:
        with self.read() as connection:
            is_ours = sa.inspect(connection).has_table(tables.schema.name)
            found = _schema_version(connection) if is_ours else None
        if not is_ours and not create:
            raise StorageError(
                f"the database {self.name} has no studies of {APP_NAME}; start one with the command run"
            )
        if found is None:
            with self.write() as connection:
                tables.metadata.create_all(connection)
                found = _schema_version(connection)
                if found is None:
                    connection.execute(tables.schema.insert().values(**_version_row()))
                    found = tables.SCHEMA_VERSION
        if found > tables.SCHEMA_VERSION:
            raise StorageError(
                f"the database {self.name} was written by a newer {APP_NAME} (tables of version {found}, "
                f"this one knows {tables.SCHEMA_VERSION}); upgrade {APP_NAME}"
            )
        if found < tables.SCHEMA_VERSION:
            with self.write() as connection:
                migrate(connection, _program())


class _Identity:
    """When the tables of a database were made; tells it from another that comes to stand in its place."""

    def __init__(self) -> None:
        self.made_at: str | None = None


def _server_engine(url: sa.URL) -> sa.Engine:
    """Returns an engine that keeps one connection: servers have few, and workers are many.

    Others are opened for moments: a second one when a sign of life is due amid a transaction, more if several threads
    read, as those of a dashboard do. None waits for ever for a server that says nothing.
    """
    options = {}
    if url.get_backend_name() == "postgresql" and "connect_timeout" not in url.query:
        options["connect_timeout"] = CONNECT_SECONDS
    return sa.create_engine(
        url, pool_pre_ping=True, pool_size=1, max_overflow=15, connect_args=options
    )


def _sqlite_engine(url: sa.URL, busy_timeout_seconds: float, identity: _Identity) -> sa.Engine:
    """Returns an engine whose connections are always of the file that stands at its path now.

    A file that was moved away is never made again, since it would be empty: it is missing until it is back.
    """
    path = Path(str(url.database))
    engine = sa.create_engine(url, connect_args={"timeout": busy_timeout_seconds})

    @event.listens_for(engine, "do_connect")
    def open_file(_: Any, __: Any, arguments: list[Any], options: dict[str, Any]) -> None:
        if identity.made_at is not None:
            path.stat()
            arguments[0] = f"file:{quote(str(path))}?mode=rw"
            options["uri"] = True

    @event.listens_for(engine, "connect")
    def set_up(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        try:
            entry.info["file"] = _inode(path)
            if identity.made_at is None:
                _check_owner(connection, path)
            else:
                _check_identity(connection, path, identity)
            _set_pragmas(connection, busy_timeout_seconds)
        except BaseException:
            connection.close()
            raise

    @event.listens_for(engine, "checkout")
    def look(_: DBAPIConnection, entry: ConnectionPoolEntry, __: Any) -> None:
        if entry.info["file"] != _inode(path):  # raises if there is none
            raise exc.DisconnectionError("another file stands in the place of the database")

    return engine


def _inode(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _check_owner(connection: DBAPIConnection, path: Path) -> None:
    """Refuses a file of another program before anything in it is changed; Optuna's may get our tables.

    Raises:
        StorageError: The file has tables, but neither ours nor Optuna's.
    """
    cursor = connection.cursor()
    try:
        cursor.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        found = [str(name) for (name,) in cursor.fetchall() if not name.startswith("sqlite_")]
    finally:
        cursor.close()
    is_known = tables.schema.name in found or {"studies", "version_info"} <= set(found)
    if found and not is_known:
        raise StorageError(
            f"the database {path} belongs to another program (it has the table {found[0]}); "
            "name another file with --storage"
        )


def _check_identity(connection: DBAPIConnection, path: Path, identity: _Identity) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute(f"SELECT created_at FROM {tables.schema.name}")  # noqa: S608
        row = cursor.fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        row = None
    finally:
        cursor.close()
    if row is None or row[0] != identity.made_at:
        raise FileNotFoundError(f"{path} is another database now")


def _set_pragmas(connection: DBAPIConnection, busy_timeout_seconds: float) -> None:
    """Sets write-ahead logging and foreign keys; the busy timeout does not cover the first, so it is tried again."""
    cursor = connection.cursor()
    deadline = time.monotonic() + busy_timeout_seconds
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _origin(connection: sa.Connection) -> tuple[str | None, str]:
    """Returns the id of a database and when its tables were made."""
    here = tables.schema.c
    row = connection.execute(sa.select(here.database_id, here.created_at)).one()
    return row.database_id, row.created_at


def _schema_version(connection: sa.Connection) -> int | None:
    found: int | None = connection.execute(sa.select(tables.schema.c.version)).scalar()
    return found


def _program() -> str:
    try:
        return version(APP_NAME)
    except PackageNotFoundError:
        return "source tree"


def _version_row() -> dict[str, object]:
    return {
        "id": 1,
        "version": tables.SCHEMA_VERSION,
        "program": _program(),
        "database_id": uuid.uuid4().hex,
        "created_at": utc_now(),
    }
