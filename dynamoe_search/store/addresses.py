"""Where a database is: the default place, the meaning of a URL, what must be true of a SQLite file."""

import errno
import os
from pathlib import Path

import platformdirs
import sqlalchemy as sa
from sqlalchemy import exc

from dynamoe_search.credentials import masked
from dynamoe_search.errors import StorageError

APP_NAME = "dynamoe-search"
URL_VARIABLE = "DYNAMOE_SEARCH_STORAGE"
FILES_VARIABLE = "DYNAMOE_SEARCH_FILES"


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
    if "@" in (url.host or ""):
        raise StorageError(
            f"the storage {masked(text)} has an @ in its user or password; write it as %40"
        )
    if dialect.is_async:
        raise StorageError(
            f"the storage {masked(text)} names an asynchronous driver; use the plain one, "
            f"{url.get_backend_name()}://"
        )
    return url


def checked_file(url: sa.URL, *, create: bool, make_folder: bool) -> sa.URL:
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
