"""Opening what may be far away: what is waited for is said once it takes longer than a moment, and not for ever."""

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dynamoe_search.cli.words import say
from dynamoe_search.errors import StorageError

if TYPE_CHECKING:  # these load Optuna, and rich
    from rich.status import Status

    from dynamoe_search.store import Store

NOTICE_SECONDS = 2.0
FILES_SECONDS = 30.0
"""A storage of files may ask several servers in turn, each of which has as long as that of a database."""


@contextmanager
def waiting_for(what: str, *, quiet: bool = False) -> Iterator[None]:
    """Says on stderr what is waited for if the block takes longer than two seconds.

    Args:
        what: For people, without passwords.
        quiet: Whether to say nothing.
    """
    notice = _Notice(what)
    timer = threading.Timer(NOTICE_SECONDS, notice.begin)
    timer.daemon = True
    if not quiet:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        notice.end()


class _Notice:
    """A line, or on a terminal one that moves and goes away."""

    def __init__(self, what: str) -> None:
        self._text = f"waiting for {what}"
        self._lock = threading.Lock()
        self._is_over = False
        self._status: Status | None = None

    def begin(self) -> None:
        with self._lock:
            if self._is_over:
                return
            if not sys.stderr.isatty():
                say(self._text, err=True)
                return
            from rich.text import Text

            from dynamoe_search.cli.screens import console
            from dynamoe_search.cli.words import printable

            self._status = console(to_stderr=True).status(Text(printable(self._text)))
            self._status.start()

    def end(self) -> None:
        with self._lock:
            self._is_over = True
            if self._status is not None:
                self._status.stop()


@contextmanager
def opened(storage: str | None, *, create: bool, quiet: bool = False) -> Iterator["Store"]:
    """Yields the open database; loads no torch.

    Args:
        storage: Its URL; None means the default.
        create: Whether to make it if there is none.
        quiet: Whether to say nothing of waiting.

    Raises:
        StorageError: It cannot be used.
    """
    from dynamoe_search.store import Store, default_url, masked

    with waiting_for(f"the database {masked(storage or default_url())}", quiet=quiet):
        store = Store.open(storage, create=create)
    with store:
        yield store


def check_files(store: "Store", *, is_for_new: bool, quiet: bool = False) -> None:
    """Returns if the place of the studies' files answers; see `Store.check_folder`.

    Raises:
        StorageError: It does not, not in time, or it cannot be written.
    """
    logging.getLogger("paramiko").addHandler(logging.NullHandler())  # of sftp; it prints traces
    where = str(store.folder)
    with waiting_for(f"the files in {where}", quiet=quiet):
        _within(FILES_SECONDS, where, lambda: store.check_folder(is_for_new=is_for_new))


def _within(seconds: float, where: str, act: Callable[[], None]) -> None:
    """Calls something in a thread, which is left behind if it takes longer; raises what it raises."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise StorageError(
            f"the files in {where} cannot be reached: no answer within {seconds:.0f} seconds; check "
            "DYNAMOE_SEARCH_FILES, and that this machine reaches the storage"
        )
    if errors:
        raise errors[0]
