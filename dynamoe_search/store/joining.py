"""The methods of `Store` for the processes that work on studies: leases, signs of life, and what they are told."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Literal, TypeVar

import sqlalchemy as sa

from dynamoe_search.errors import StoppedError, StorageError, UsageError
from dynamoe_search.store import reading, workers
from dynamoe_search.store.hearts import Heart
from dynamoe_search.store.opening import OpenStore
from dynamoe_search.store.patience import PATIENCE_SECONDS
from dynamoe_search.store.runs import Lease, lives_here, runner_of, this_process

Result = TypeVar("Result")


class JoinMethods(OpenStore):
    """A part of `Store`."""

    def join(self, name: str, versions: Mapping[str, str] | None = None) -> str:
        """Makes this process one of those that work on a study and returns its id as a worker.

        Joining twice gives the same id. From now on the database is waited for if it is locked or out of reach, and a
        thread gives signs of life until `leave`.

        Args:
            name: The study.
            versions: Of the libraries whose versions could change a number.

        Raises:
            UsageError: The study is being deleted, or is run by somebody with other versions.
        """
        if (lease := self._leases.get(name)) is not None:
            return lease.worker
        self._database.query(lambda found: reading.require_study(found, name))
        own = dict(versions or {})
        self._wait_for_other_versions(name, own)
        worker, serial = self._database.transact(
            lambda found: workers.join(found, name, this_process(), own, self._watcher)
        )
        self._leases[name] = Lease(worker, serial)
        self._hearts[name] = Heart(lambda: self._beat_if_due(name))
        self._database.patience.seconds = PATIENCE_SECONDS
        return worker

    def _wait_for_other_versions(self, name: str, versions: Mapping[str, str]) -> None:
        """Returns once nobody with other versions may be alive; of another machine's it waits for a sign of life."""
        beats: dict[str, int] = {}
        host = this_process().host
        while others := self._database.query(
            lambda found: workers.of_other_versions(found, name, versions, self._watcher)
        ):
            for one in others:
                is_heard = beats.setdefault(one.id, one.beats) != one.beats
                if is_heard or lives_here(runner_of(one)):
                    raise UsageError(workers.unlike(name, one, host, versions))
            time.sleep(self._watcher.silence_seconds / 60)

    def leave(
        self,
        name: str,
        worker: str,
        state: Literal["finished", "interrupted"],
        seconds: float | None = None,
    ) -> None:
        """Says that a worker stopped; the study gets the state if no other live worker is there.

        Args:
            name: The study.
            worker: Id of the worker.
            state: What the study is now.
            seconds: How long it worked; none means since it joined.
        """
        lease = self._leases.get(name)
        if seconds is None:
            seconds = lease.seconds if lease is not None else 0.0
        worked = seconds
        if lease is not None and lease.worker == worker and name in self._hearts:
            self._hearts.pop(name).stop()
        try:
            self._database.transact(
                lambda found: workers.leave(
                    found, name, worker, state=state, seconds=worked, watcher=self._watcher
                )
            )
        finally:  # who could not say it counts as dead here, and to others once the process is gone
            if lease is not None and lease.worker == worker:
                self._leases.pop(name).end()
            if not self._leases:
                self._database.patience.seconds = 0.0

    def bury(self, name: str, host: str, pid: int) -> None:
        """Says for a worker that it is gone, as whoever started it knows; else others wait a minute for a sign of life.

        A process that can be seen from here speaks for itself.

        Args:
            name: The study.
            host: Its machine.
            pid: Its process there.
        """
        with suppress(StorageError, StoppedError):  # then it counts as dead a minute later
            found = self._query(
                name, lambda found: workers.read_workers(found, self._watcher, name)[name]
            )
            for one in found:
                is_it = one.is_alive and (one.host, one.pid) == (host, pid)
                if is_it and lives_here(runner_of(one)) is None:
                    self.leave(name, one.id, "interrupted", one.seconds)

    def has_lease(self, name: str, worker: str) -> bool:
        """Says whether a worker of this process still works on a study: nobody said for it that it is gone."""
        return self._query(name, lambda found: workers.has_lease(found, name, worker))

    def _beat_if_due(self, name: str) -> None:
        """Gives a sign of life without waiting for the database; not in the thread of all other methods."""
        lease = self._leases.get(name)
        if lease is not None and lease.is_due():
            with self._database.write() as connection:
                self._beat(connection, name)

    def note_times(self, name: str, worker: str, times: Mapping[str, float]) -> None:
        """Keeps what a worker's time has gone into so far, in seconds by activity."""
        study = self._optuna.known(name) or self._optuna_study(name)
        rounded = {activity: round(seconds, 3) for activity, seconds in times.items()}
        self._patiently(lambda: self._optuna.keep_times(study, worker, rounded))

    def times(self, name: str) -> dict[str, float]:
        """Returns what the time of all workers of a study went into, in seconds by activity."""
        total: dict[str, float] = {}
        for times in self._patiently(lambda: self._optuna.times(name)):
            for activity, seconds in times.items():
                total[activity] = total.get(activity, 0.0) + seconds
        return total

    def orders(self, name: str) -> tuple[bool, float]:
        """Returns whether somebody asked the study to stop since this process joined it, and how long it may work.

        The seconds are what the study's budget leaves to this run, after what the other workers took; infinite if there
        is no budget. It is one statement, since hundreds of workers ask every second.

        Raises:
            UsageError: There is no such study.
        """
        lease = self._leases.get(name)
        worker = "" if lease is None else lease.worker
        found = self._look(name, lambda one: workers.read_orders(one, name, worker))
        budget = found.max_seconds
        left = math.inf if budget is None else budget - found.others_seconds
        return lease is not None and found.stop_serial > lease.stop_serial, left

    def _look(self, name: str, body: Callable[[sa.Connection], Result | None]) -> Result:
        found = self._database.look(body)
        if found is None:
            self._database.query(lambda one: reading.require_study(one, name))
        assert found is not None
        return found

    def close(self) -> None:
        """Leaves the studies that this process works on, as interrupted, and closes all connections."""
        self._database.patience.seconds = self._database.patience.lock_seconds = 0.0
        for name, lease in list(self._leases.items()):
            with suppress(StorageError, StoppedError):  # the database may be why it is closed
                if lease.is_of_this_process():
                    self.leave(name, lease.worker, "interrupted")
        for heart in self._hearts.values():
            heart.stop()
        self._hearts.clear()
        for lease in self._leases.values():
            lease.end()
        self._leases.clear()
        super().close()
