"""Waiting for a database that another program locks, or for a database or files that are out of reach for a while."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from dynamoe_search.errors import StoppedError
from dynamoe_search.places import PlaceError
from dynamoe_search.store.problems import LockedError, PassingError
from dynamoe_search.wording import counted

Result = TypeVar("Result")

PATIENCE_SECONDS = 600.0
"""A worker waits this long for a database before it gives up."""
DRIVER_SECONDS = 1.0
"""SQLite's driver waits at most so long for a lock at a time: while it does, nobody can be asked whether to stop."""
_QUIET_SECONDS = 5.0
_WARN_SECONDS = 60.0
_PAUSE_SECONDS = 0.25

_log = logging.getLogger(__name__)


class Patience:
    """Repeats what failed because of something that may pass.

    Attributes:
        should_stop: Asked after every failure; if it returns true, that was the last one.

    Args:
        lock_seconds: For how long if another program has locked the database.
        seconds: For how long whatever it is; 0 means that the first failure counts.
    """

    def __init__(self, lock_seconds: float = 0.0, seconds: float = 0.0) -> None:
        self.lock_seconds, self.seconds = lock_seconds, seconds
        self.should_stop: Callable[[], bool] | None = None
        self._quiet_seconds = min(lock_seconds, _QUIET_SECONDS)
        self._warn_at = 0.0

    def call(self, act: Callable[[], Result]) -> Result:
        """Returns what `act` returns.

        Args:
            act: Something that may be done again as a whole if it fails half-way.

        Raises:
            StorageError: It failed for good, or for too long.
            StoppedError: It failed, and somebody asks to stop.
        """
        began = time.monotonic()
        while True:
            try:
                return _asked(act)
            except PassingError as error:
                if self.should_stop is not None and self.should_stop():
                    raise StoppedError(f"stopped while waiting, because {error}") from error
                waited = time.monotonic() - began
                is_locked = isinstance(error, LockedError)
                left = max(self.seconds, self.lock_seconds if is_locked else 0.0) - waited
                if left <= 0:
                    raise
                if not is_locked or waited >= self._quiet_seconds:
                    self._warn(error, left)
                time.sleep(_PAUSE_SECONDS)

    def _warn(self, error: PassingError, seconds: float) -> None:
        """Says at most once a minute what is waited for."""
        now = time.monotonic()
        if now >= self._warn_at:
            self._warn_at = now + _WARN_SECONDS
            minutes = max(1, round(seconds / 60))
            _log.warning("%s; trying again for up to %s", error, counted(minutes, "minute"))


def _asked(act: Callable[[], Result]) -> Result:
    """Returns what `act` returns; what may pass of storage of files is told as it is of a database."""
    try:
        return act()
    except PlaceError as error:
        if not error.may_pass:
            raise
        raise PassingError(str(error)) from error
