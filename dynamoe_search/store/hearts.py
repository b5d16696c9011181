"""Signs of life of a lease, given by a thread of its own: whatever the process computes meanwhile, it is not silent."""

import threading
from collections.abc import Callable
from contextlib import suppress

from dynamoe_search.errors import StorageError
from dynamoe_search.store import runs


class Heart:
    """Beats from now on until `stop`. A database that cannot be used is no reason to stop: it is tried again.

    Args:
        beat: Gives a sign of life if it is time for one, on a connection of its own.
    """

    def __init__(self, beat: Callable[[], object]) -> None:
        self._beat = beat
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="signs of life", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends it; returns when the last beat is over."""
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(runs.HEARTBEAT_SECONDS / 10):
            with suppress(StorageError):
                self._beat()
