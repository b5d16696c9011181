"""What can go wrong with a database, said in one sentence: where, what, and what to do. Passwords are never shown."""

import os
import platform
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
import sqlalchemy as sa
from sqlalchemy import exc

from dynamoe_search.credentials import Mask, masked, secrets_in
from dynamoe_search.errors import StorageError


class PassingError(StorageError):
    """Nothing was changed, and the same may work later: a lock, or a database that is out of reach."""


class LockedError(PassingError):
    """Another program writes to the same SQLite file."""


_UNKNOWN = re.compile('(database|role) "[^"]*" does not exist')
_NO_CONNECTION = (
    "has no free connection: every worker keeps one and takes a second for moments; "
    "raise max_connections of the server, or the limit of the role, to twice the workers"
)
_ADVICE = (
    ("too many clients", _NO_CONNECTION),
    ("too many connections", _NO_CONNECTION),
    ("remaining connection slots", _NO_CONNECTION),
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
        "is locked by another program; end that program, or try again later",
    ),
    ("is full", "cannot grow, because the disk is full; make room and try again"),
    ("disk i/o error", "cannot be read or written (disk I/O error); check the disk"),
    (
        "no such table",
        "lacks a table of this program; it was changed by hand or is not one of its databases",
    ),
    (
        "password authentication failed",
        "refuses the user or the password; correct the user in the URL, and the password in PGPASSWORD or ~/.pgpass",
    ),
    (
        "no password supplied",
        "wants a password; put it into PGPASSWORD or ~/.pgpass",
    ),
    (
        "timeout expired",
        "does not answer; check that this machine reaches the server, and whether it runs",
    ),
    (
        "connection refused",
        "cannot be reached: nobody listens there; check host and port in the URL, and whether the server runs",
    ),
    (
        "could not translate host name",
        "cannot be reached: its host is not known here; check the host in the URL",
    ),
    (
        "failed to resolve host",
        "cannot be reached: its host is not known here; check the host in the URL",
    ),
    (
        "no such column",
        "lacks a column of this program; it was changed by hand or is not one of its databases",
    ),
)


def display(url: sa.URL) -> str:
    """Returns how a database is named to people: the file of SQLite, else the URL without its password."""
    if url.get_backend_name() == "sqlite" and url.database:
        return url.database
    return masked(url.render_as_string(hide_password=True))


_PASSING = ("is locked", "unable to open", "disk i/o error")
"""Signs of errors of SQLite that may pass."""
_PASSING_STATES = ("08", "40", "53300", "55P03", "57P")
"""Beginnings of SQLSTATE codes that may pass: no connection, a lost race, too many clients, a restart."""


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
    everything = str(cause).strip().lower()
    first, _, _ = everything.partition("\n")
    where = f"the database {display(url)}"
    kind = StorageError
    if _may_pass(url, error, cause, first):
        kind = LockedError if is_locked(cause) else PassingError
    if url.get_backend_name() != "sqlite":
        where += f", asked by {platform.node()},"
        if missing := _UNKNOWN.search(first):
            is_user = missing[1] == "role"
            what = (
                "has no such user; correct"
                if is_user
                else "is not there; make it with createdb, or correct"
            )
            return kind(f"{where} {what} the URL in --storage or DYNAMOE_SEARCH_STORAGE")
    if isinstance(cause, FileNotFoundError):
        return kind(f"{where} is gone: it was moved, removed or unmounted; put it back")
    for sign, advice in _ADVICE:
        if sign in everything:
            return kind(f"{where} {advice}")
    return kind(f"{where} cannot be used: {_words_of(url, cause)}")


def _words_of(url: sa.URL, cause: BaseException) -> str:
    """Returns the first line of what another program says, which may quote what it was given."""
    whole = url.render_as_string(hide_password=False)
    text = Mask(secrets_in({**os.environ, "URL": whole}))(str(cause))
    return text.strip().partition("\n")[0].strip() or type(cause).__name__


def is_locked(error: BaseException) -> bool:
    """Says whether SQLite refused something because another program writes."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    found = getattr(cause, "orig", None) or cause
    return isinstance(found, sqlite3.OperationalError) and "is locked" in str(found)


def _may_pass(url: sa.URL, error: BaseException, cause: BaseException, found: str) -> bool:
    if url.get_backend_name() == "sqlite":
        return isinstance(cause, FileNotFoundError) or any(sign in found for sign in _PASSING)
    if not isinstance(error, exc.DBAPIError):
        return False
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if state is None:  # no answer of the server at all
        return isinstance(error, exc.OperationalError | exc.InterfaceError)
    return error.connection_invalidated or str(state).startswith(_PASSING_STATES)
