"""Opening a database: URL, file checks, SQLite's settings, the version of our tables, short transactions."""

import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import platformdirs
import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from dynamoe_search.errors import StorageError
from dynamoe_search.store import tables
from dynamoe_search.store.problems import display, masked, translated
from dynamoe_search.store.tables import utc_now

APP_NAME = "dynamoe-search"
URL_VARIABLE = "DYNAMOE_SEARCH_STORAGE"
BUSY_TIMEOUT_SECONDS = 60.0


def default_url() -> str:
    """Returns where studies are kept if nobody says otherwise.

    The environment variable `DYNAMOE_SEARCH_STORAGE`, else a SQLite file in the per-user data folder.
    """
    if chosen := os.environ.get(URL_VARIABLE):
        return chosen
    path = user_folder() / "studies.db"
    return sa.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def user_folder() -> Path:
    """Returns the per-user data folder of this program; it need not exist."""
    return Path(platformdirs.user_data_dir(APP_NAME, appauthor=False))


class Database:
    """An open database with our tables in it; Optuna shares its connections.

    Args:
        engine: Engine of the database, its SQLite settings attached.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.url = engine.url
        self.is_sqlite = engine.dialect.name == "sqlite"

    @classmethod
    def open(
        cls, text: str | None, *, create: bool, busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS
    ) -> "Database":
        """Opens a database and makes or checks our tables.

        Raises:
            StorageError: For anything that keeps the database from being used.
        """
        is_chosen = text is not None or bool(os.environ.get(URL_VARIABLE))
        url = parsed(default_url() if text is None else text)
        if url.get_backend_name() == "sqlite":
            url = _checked_file(url, create=create, make_folder=not is_chosen)
        database = cls(_engine(url, busy_timeout_seconds))
        try:
            database._check_schema(create=create)
        except BaseException:
            database.close()
            raise
        return database

    @property
    def name(self) -> str:
        """How the database is named to people; no password."""
        return display(self.url)

    @property
    def folder(self) -> Path:
        """Where the files of the studies are: beside a SQLite file, else in the per-user data folder."""
        if self.is_sqlite:
            path = Path(str(self.url.database))
            return path.with_name(f"{path.name}.files")
        place = f"{self.url.host or 'local'}-{self.url.port or 0}-{self.url.database}"
        return user_folder() / "files" / tables.safe_name(place)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Gives a connection that sees one state of the database throughout."""
        with translated(self.url), self.engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN")
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Gives a connection whose writes all happen, or none; on SQLite one writer at a time."""
        with translated(self.url), self.engine.begin() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

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
                migrate(connection, found)


def migrate(connection: sa.Connection, found: int) -> None:
    """Brings tables of an older version up to date; version 1 is the first, so there is nothing to do yet.

    Raises:
        StorageError: If nothing is known of the version that was found.
    """
    raise StorageError(
        f"the tables of {display(connection.engine.url)} have the unknown version {found}; "
        "the database was changed by hand or is not one of this program's"
    )


def parsed(text: str) -> sa.URL:
    """Returns the URL that a text means; the error for anything else never shows a password."""
    try:
        url = sa.make_url(text)
        dialect = url.get_dialect()
        dialect.import_dbapi()
    except exc.NoSuchModuleError:
        kind = text.partition("://")[0]
        raise StorageError(
            f"the storage {masked(text)} names an unknown kind of database ({kind}); "
            "use sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"
        ) from None
    except (exc.ArgumentError, ValueError):
        raise StorageError(
            f"the storage {masked(text)!r} is not a database URL; write it like sqlite:///studies.db"
        ) from None
    except ImportError as error:
        raise StorageError(
            f"the storage {masked(text)} needs the Python package {error.name or 'of its driver'}, "
            "which is not installed; install it with pip"
        ) from None
    if dialect.is_async:
        raise StorageError(
            f"the storage {masked(text)} names an asynchronous driver; use the plain one, "
            f"{url.get_backend_name()}://"
        )
    return url


def _checked_file(url: sa.URL, *, create: bool, make_folder: bool) -> sa.URL:
    """Returns the URL of a SQLite file with its absolute path, after looking at file and folder."""
    name = url.database or ""
    if (
        name in ("", ":memory:")
        or "\0" in name
        or name.startswith("file:")
        or url.host
        or url.query
    ):
        raise StorageError(
            f"the storage {masked(str(url))} is not a file that lasts; "
            "write sqlite:///FILE, with four slashes for an absolute path"
        )
    try:
        path = Path(name).absolute()
        if make_folder and create:
            path.parent.mkdir(parents=True, exist_ok=True)
        _check_path(path, create=create)
    except OSError as error:
        reason = (os.strerror(error.errno) if error.errno else str(error)).lower()
        raise StorageError(f"the database {name} cannot be opened: {reason}") from error
    return url.set(database=str(path))


def _check_path(path: Path, *, create: bool) -> None:
    if not create and not path.exists():
        raise StorageError(
            f"there is no database {path}; start a study with the command run, "
            "or name another database with --storage"
        )
    if not path.parent.is_dir():
        what = "is not a folder" if path.parent.exists() else "does not exist"
        raise StorageError(
            f"the database {path} cannot be opened: the folder {path.parent} {what}; "
            "make it, or name another file with --storage"
        )
    if path.is_dir():
        raise StorageError(f"the database {path} is a folder; name a file in it with --storage")
    if path.exists():
        if not path.is_file():
            raise StorageError(
                f"the database {path} is not an ordinary file; name another with --storage"
            )
        if not os.access(path, os.R_OK | os.W_OK):
            raise StorageError(f"the database {path} cannot be written; check its permissions")
    if not os.access(path.parent, os.W_OK):
        raise StorageError(
            f"the database {path} cannot be used, because the folder {path.parent} cannot be written; "
            "check its permissions"
        )
    if len(os.fsencode(path.name)) > 200:
        raise OSError(errno.ENAMETOOLONG, "")


def _engine(url: sa.URL, busy_timeout_seconds: float) -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True)
    engine = sa.create_engine(url, connect_args={"timeout": busy_timeout_seconds})

    @event.listens_for(engine, "connect")
    def set_up(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        try:
            _set_pragmas(connection, busy_timeout_seconds)
        except BaseException:
            connection.close()
            raise

    return engine


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


def _schema_version(connection: sa.Connection) -> int | None:
    found: int | None = connection.execute(sa.select(tables.schema.c.version)).scalar()
    return found


def _version_row() -> dict[str, object]:
    try:
        program = version(APP_NAME)
    except PackageNotFoundError:
        program = "source tree"
    return {
        "id": 1,
        "version": tables.SCHEMA_VERSION,
        "program": program,
        "created_at": utc_now(),
    }
