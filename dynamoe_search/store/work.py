"""The methods of `Store` for the processes that work on studies: their leases, whose turn it is to plan, legs."""

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Literal, TypeVar

import sqlalchemy as sa

from dynamoe_search.errors import StoppedError, StorageError, UsageError
from dynamoe_search.records import Ended, FilesMark, Leg, RungDecision, Stood
from dynamoe_search.store import legs, reading, workers, writing
from dynamoe_search.store.hearts import Heart
from dynamoe_search.store.legs import Pulse
from dynamoe_search.store.opening import OpenStore
from dynamoe_search.store.patience import PATIENCE_SECONDS
from dynamoe_search.store.runs import Lease, lives_here, runner_of, this_process
from dynamoe_search.store.writing import named_values

Result = TypeVar("Result")

_POLL_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 1.0


class WorkMethods(OpenStore):
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

    def files_mark(self, name: str) -> FilesMark | None:
        """Returns what the first worker of a study wrote among its files; None if there was none yet."""
        return self._query(name, lambda found: reading.read_files_mark(found, name))

    def claim_files(self, name: str, mark: FilesMark) -> FilesMark:
        """Says where the files of a study are, if nobody said it before; returns what is stored then."""
        return self._database.transact(lambda found: writing.claim_files(found, name, mark))

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
        study = self._trials.known(name) or self._optuna_study(name)
        rounded = {activity: round(seconds, 3) for activity, seconds in times.items()}
        self._patiently(lambda: self._trials.keep_times(study, worker, rounded))

    def times(self, name: str) -> dict[str, float]:
        """Returns what the time of all workers of a study went into, in seconds by activity."""
        total: dict[str, float] = {}
        for times in self._patiently(lambda: self._trials.times(name)):
            for activity, seconds in times.items():
                total[activity] = total.get(activity, 0.0) + seconds
        return total

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

    @contextmanager
    def planning(
        self, name: str, worker: str, should_stop: Callable[[], bool] | None = None
    ) -> Iterator[None]:
        """Lets one worker at a time plan what is trained next; waits for its turn.

        Whoever sleeps in its turn for so long that it counts as dead has lost it: what it stores then as the one that
        plans raises `LeaseLostError`.

        Args:
            name: The study.
            worker: Whose turn it is to be.
            should_stop: Asked while it waits.

        Raises:
            LeaseLostError: The worker does not work on the study.
            StoppedError: `should_stop` returned true while it waited.
        """
        pause = _POLL_SECONDS
        while not self._may_plan(name, worker):
            if should_stop is not None and should_stop():
                raise StoppedError("stopped while another worker planned")
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - so that many do not ask at once
            pause = min(1.5 * pause, _LONGEST_POLL_SECONDS)
        try:
            yield
        finally:
            self._database.transact(lambda found: workers.stop_planning(found, name, worker))

    def legs(self, name: str, *, state: Literal["open", "done"] | None = None) -> list[Leg]:
        """Returns the legs of a study by number, all or those of a state."""
        return self._query(name, lambda found: legs.read_legs(found, name, state))

    def open_leg(
        self,
        name: str,
        worker: str,
        trials: Sequence[int],
        *,
        start: int,
        end: int,
        pack_key: str,
    ) -> Leg:
        """Adds a leg that the worker will train; its candidates are running from now on.

        Raises:
            LeaseLostError: It is not the worker's turn to plan.
            UsageError: A candidate is in training or over, or does not stand at the start.
        """
        return self._database.transact(
            lambda found: legs.open_leg(
                found,
                name,
                worker,
                trials,
                start=start,
                end=end,
                pack_key=pack_key,
            )
        )

    def take_leg(self, name: str, worker: str, number: int) -> bool:
        """Takes an open leg over if its worker is dead; returns whether it is this worker's now."""
        return self._database.transact(
            lambda found: legs.take_leg(found, name, worker, number, self._watcher)
        )

    def require_leg(self, name: str, leg: Leg) -> None:
        """Raises `LeaseLostError` if another worker has taken a leg over, or it is over."""
        self._database.query(lambda found: legs.require_leg(found, name, leg))

    def close_leg(
        self,
        name: str,
        worker: str,
        number: int,
        *,
        ended: Sequence[Ended],
        stood: Sequence[Stood],
        decisions: Sequence[RungDecision] = (),
        versions: Mapping[str, str],
    ) -> None:
        """Stores all that came of a leg at once, then tells Optuna; does nothing that was done before.

        Args:
            name: The study.
            worker: Who trained the leg.
            number: The leg's number.
            ended: Members whose training is over.
            stood: Members that reached the end of the leg and wait for the next one.
            decisions: What was decided of candidates, of the leg or not.
            versions: Versions of the libraries that computed it.

        Raises:
            LeaseLostError: Another worker took the leg over; nothing is stored.
            ValueError: Members are missing or of another leg, or a complete candidate has no value, or a NaN, for
                an objective.
        """
        values = self._named(name, ended)

        def write(connection: sa.Connection) -> None:
            if not legs.close_leg(
                connection,
                name,
                worker,
                number,
                ended=ended,
                stood=stood,
                values=values,
                versions=versions,
            ):
                return
            legs.upsert_decisions(connection, name, decisions)
            self._beat(connection, name)

        self._database.transact(write, is_lasting=True)
        self._tell(name, [item.trial for item in ended])

    def stop_paused(
        self,
        name: str,
        worker: str,
        ended: Sequence[Ended],
        decisions: Sequence[RungDecision] = (),
    ) -> None:
        """Ends candidates that stand at a rung when the study is over, then tells Optuna.

        Candidates that are over already stay what they are.

        Raises:
            LeaseLostError: It is not the worker's turn to plan; nothing is stored.
            UsageError: A candidate is in training.
        """
        values = self._named(name, ended)
        study = self._database.query(lambda found: reading.read_study(found, name, self._watcher))
        versions = study.settings.versions

        def write(connection: sa.Connection) -> None:
            workers.require_turn(connection, name, worker)
            legs.require_not_running(connection, name, [item.trial for item in ended])
            writing.write_ended(connection, name, ended, values=values, versions=versions)
            legs.upsert_decisions(connection, name, decisions)

        self._database.transact(write, is_lasting=True)
        self._tell(name, [item.trial for item in ended])

    def _may_plan(self, name: str, worker: str) -> bool:
        """Takes the turn to plan if it is free."""
        watcher = self._watcher
        if (
            self._database.is_sqlite
            and self._database.query(  # there to ask for a turn locks the file
                lambda found: workers.is_planned(found, name, worker, watcher)
            )
        ):
            return False
        return self._database.transact(
            lambda found: workers.try_to_plan(found, name, worker, watcher)
        )

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

    def pulse(self, name: str, first_leg: int = 0) -> Pulse:
        """Returns what tells a worker that waits whether anything has happened; one statement that reads few rows.

        Args:
            name: The study.
            first_leg: No leg below this one is open.

        Raises:
            UsageError: There is no such study.
        """
        return self._look(name, lambda one: legs.read_pulse(one, name, first_leg))

    def _look(self, name: str, body: Callable[[sa.Connection], Result | None]) -> Result:
        found = self._database.look(body)
        if found is None:
            self._database.query(lambda one: reading.require_study(one, name))
        assert found is not None
        return found

    def _named(self, name: str, ended: Sequence[Ended]) -> dict[int, dict[str, float] | None]:
        objectives, _ = self._database.query(lambda found: reading.read_goals(found, name))
        return {item.trial: named_values(objectives, item) for item in ended}
