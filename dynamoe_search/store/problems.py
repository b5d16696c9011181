"""What can go wrong with a database, said in one sentence: where, what, and what to do. Passwords are never shown."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
import sqlalchemy as sa
from sqlalchemy import exc

from dynamoe_search.errors import StorageError

_IN_AUTHORITY = re.compile(r"(://[^/?#\s]*?:)[^/?#\s]*(@)")
_IN_QUERY = re.compile(r"([?&](?:password|passwd|pwd|sslpassword|passphrase)=)[^&\s]*", re.I)

_ADVICE = (
    ("file is not a database", "is not a SQLite database; name another file with --storage"),
    ("file is encrypted", "is not a SQLite database; name another file with --storage"),
    (
        "malformed",
        "is damaged; restore a copy, or save what can be read with: sqlite3 FILE .recover",
    ),
    ("readonly database", "cannot be written; check the permissions of the file and its folder"),
    ("unable to open", "cannot be opened; check that its folder exists and can be written"),
    (
        "is locked",
        "is locked by another program for too long; end that program, or try again later",
    ),
    ("is full", "cannot grow, because the disk is full; make room and try again"),
    ("disk i/o error", "cannot be read or written (disk I/O error); check the disk"),
    (
        "no such table",
        "lacks a table of this program; it was changed by hand or is not one of its databases",
    ),
    (
        "no such column",
        "lacks a column of this program; it was changed by hand or is not one of its databases",
    ),
)


def masked(text: str) -> str:
    """Returns text in which the passwords of all URLs are replaced by `***`."""
    return _IN_QUERY.sub(r"\1***", _IN_AUTHORITY.sub(r"\1***\2", text))


def display(url: sa.URL) -> str:
    """Returns how a database is named to people: the file of SQLite, else the URL without its password."""
    if url.get_backend_name() == "sqlite" and url.database:
        return url.database
    return masked(url.render_as_string(hide_password=True))


@contextmanager
def translated(url: sa.URL) -> Iterator[None]:
    """Turns every error of the database below the `with` into a `StorageError` that names it."""
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        raise problem(url, error.__cause__ or error) from error
    except (exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise problem(url, error) from error


def problem(url: sa.URL, error: BaseException) -> StorageError:
    """Returns the error to raise for one that a driver, SQLAlchemy or the file system raised."""
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    found = masked(lines[0].strip())
    if url.password:
        found = found.replace(str(url.password), "***")
    where = f"the database {display(url)}"
    for sign, advice in _ADVICE:
        if sign in found.lower():
            return StorageError(f"{where} {advice}")
    return StorageError(f"{where} cannot be used: {found}")
