"""The methods of `Store` for the work on studies: whose turn it is to plan, and legs."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import sqlalchemy as sa

from dynamoe_search.errors import StoppedError
from dynamoe_search.records import Ended, Leg, RungDecision, Stood
from dynamoe_search.store import legs, reading, workers, writing
from dynamoe_search.store.joining import JoinMethods
from dynamoe_search.store.legs import Pulse
from dynamoe_search.store.writing import named_values

_POLL_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 1.0


class WorkMethods(JoinMethods):
    """A part of `Store`."""

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

    def pulse(self, name: str, first_leg: int = 0) -> Pulse:
        """Returns what tells a worker that waits whether anything has happened; one statement that reads few rows.

        Args:
            name: The study.
            first_leg: No leg below this one is open.

        Raises:
            UsageError: There is no such study.
        """
        return self._look(name, lambda one: legs.read_pulse(one, name, first_leg))

    def _named(self, name: str, ended: Sequence[Ended]) -> dict[int, dict[str, float] | None]:
        objectives, _ = self._database.query(lambda found: reading.read_goals(found, name))
        return {item.trial: named_values(objectives, item) for item in ended}
