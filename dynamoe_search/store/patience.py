"""Waiting for a database that another program locks, or that is out of reach for a while."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from dynamoe_search.store.problems import PassingError

Result = TypeVar("Result")

PATIENCE_SECONDS = 600.0
"""A worker waits this long for a database before it gives up."""
_WARN_SECONDS = 60.0
_PAUSE_SECONDS = 0.25

_log = logging.getLogger(__name__)


class Patience:
    """Repeats what failed because of something that may pass.

    Args:
        seconds: For how long; 0 means that the first failure counts.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self._warn_at = 0.0

    def call(self, act: Callable[[], Result]) -> Result:
        """Returns what `act` returns.

        Args:
            act: Something that may be done again as a whole if it fails half-way.

        Raises:
            StorageError: It failed for good, or for too long.
        """
        began = time.monotonic()
        while True:
            try:
                return act()
            except PassingError as error:
                now = time.monotonic()
                if now - began >= self.seconds:
                    raise
                if now >= self._warn_at:
                    self._warn_at = now + _WARN_SECONDS
                    minutes = max(1, round((self.seconds - (now - began)) / 60))
                    _log.warning("%s; trying again for up to %d minutes", error, minutes)
                time.sleep(_PAUSE_SECONDS)
