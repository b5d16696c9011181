"""The methods of `Store` on candidates: what is tried, what they report, where they stand, what is decided of them."""

from collections.abc import Collection, Sequence
from functools import partial

import optuna
import sqlalchemy as sa

from dynamoe_search.records import (
    CandidateRecord,
    Leg,
    Progress,
    RungDecision,
    Standing,
)
from dynamoe_search.store import candidate_rows, ledgers, legs, progress, workers, writing
from dynamoe_search.store.opening import OpenStore
from dynamoe_search.store.trials import Addition


class CandidateMethods(OpenStore):
    """A part of `Store`."""

    def add_candidates(
        self, name: str, additions: Sequence[Addition], *, worker: str | None = None
    ) -> list[int]:
        """Adds candidates that will be trained, all of them or none; returns their trial numbers.

        For an ordinal that was added before it is the same number, also after a crash.

        Args:
            name: The study.
            additions: What will be trained.
            worker: Whose turn to plan it must be; None if they are given and not proposed by one who plans.

        Raises:
            LeaseLostError: It is not the worker's turn; no candidate is added.
        """
        if self._is_clean(name):
            stored = self._database.transact(
                lambda found: writing.add_candidates(
                    found, name, additions, worker, self._trials.insert
                )
            )
        else:
            stored = self._added_one_by_one(name, additions, worker)
        return [stored[one.candidate.ordinal] for one in additions]

    def _added_one_by_one(
        self, name: str, additions: Sequence[Addition], worker: str | None
    ) -> dict[int, int]:
        """Adds Optuna's trials with its storage, then ours; returns the trial number of every ordinal."""
        ordinals = [one.candidate.ordinal for one in additions]
        known = self._database.query(
            lambda found: candidate_rows.read_numbers(found, name, ordinals)
        )
        new = [one for one in additions if one.candidate.ordinal not in known]
        study = self._optuna_study(name)
        trials: list[int] = []
        if new:
            trials = self._patiently(  # who tries again takes what the attempt before left behind
                lambda: self._trials.add(study, new, self._left_behind(name, study, worker))
            )
        made = {one.candidate.ordinal: trial for one, trial in zip(new, trials, strict=True)}

        def numbers(_: sa.Connection, __: str, some: Sequence[Addition]) -> list[int]:
            return [made[one.candidate.ordinal] for one in some]

        stored = self._database.transact(
            lambda found: writing.add_candidates(found, name, additions, worker, numbers)
        )
        for ordinal, trial in made.items():
            if stored[ordinal] != trial:  # another process added the same ordinal at the same time
                self._patiently(partial(self._trials.discard, study, trial))
        return stored

    def _is_clean(self, name: str) -> bool:
        """Says whether trials can be added together with candidates.

        They cannot if Optuna's tables are of an unknown layout, or while there are trials without candidates, which a
        crash amid adding them one by one leaves behind: another version of this program may have done so.
        """
        if not self._trials.are_known:
            return False
        if name not in self._clean and not self._left_behind(name, self._optuna_study(name)):
            self._clean.add(name)
        return name in self._clean

    def _left_behind(
        self, name: str, study: optuna.Study, worker: str | None = None
    ) -> frozenset[int]:
        """Returns the trials that Optuna calls running and that are no candidates: a crash came between.

        Those of another worker that adds candidates at this moment look the same, so a worker asks in its turn to plan.
        """
        running = self._patiently(lambda: self._trials.running(study))
        waiting = {one.trial for one in self.standings(name, status=ledgers.OPEN)}
        if unknown := running - waiting:
            unknown -= self._database.query(
                lambda found: candidate_rows.read_ours(found, name, unknown)
            )
        if worker is not None:  # last: who has its turn now had it all the while
            self._database.transact(lambda found: workers.require_turn(found, name, worker))
        return unknown

    def discard_left_behind(self, name: str, worker: str) -> None:
        """Fails in Optuna the trials that a crash left behind running, without a candidate.

        As it is the worker's turn to plan until that is stored, nobody is about to add a candidate to one of them.

        Raises:
            LeaseLostError: It is not the worker's turn; nothing is changed.
        """
        study = self._optuna_study(name)
        left = self._left_behind(name, study)
        if not left:
            return
        ids = self._patiently(lambda: self._trials.ids(study, left))

        def write(connection: sa.Connection) -> None:
            workers.require_turn(connection, name, worker)
            self._trials.fail(connection, ids.values())

        self._database.transact(write)

    def known_designs(self, name: str, hashes: Collection[str]) -> frozenset[str]:
        """Returns those of the hashes of designs that are of candidates of a study."""
        return self._query(name, lambda found: writing.known_designs(found, name, hashes))

    def candidates(
        self,
        name: str,
        *,
        status: Collection[str] | None = None,
        trials: Collection[int] | None = None,
        with_routing: bool = True,
    ) -> list[CandidateRecord]:
        """Returns the candidates of a study by trial number: all, those with a status, or these trials.

        Args:
            name: The study.
            status: Only those with one of these.
            trials: Only these trials.
            with_routing: Whether outcomes say how their layers route, which takes most of the time to read.
        """
        return self._database.query(
            lambda found: candidate_rows.read_candidates(
                found, name, status=status, trials=trials, with_routing=with_routing
            )
        )

    def candidate(self, name: str, trial: int) -> CandidateRecord:
        """Returns a candidate; raises `UsageError` if the study has no such trial."""
        return self._database.query(lambda found: candidate_rows.read_candidate(found, name, trial))

    def standings(self, name: str, *, status: Collection[str] | None = None) -> list[Standing]:
        """Returns where every candidate stands, by trial number; much quicker than `candidates`.

        Without a status this process reads only what can have changed since it last asked.
        """
        if status is not None:
            return self._query(
                name, lambda found: candidate_rows.read_standings(found, name, status)
            )
        ledger = self._ledgers[name]
        return self._database.query(lambda found: ledger.standings(found, name))

    def numbers(self, name: str, ordinals: Collection[int]) -> dict[int, int]:
        """Returns the trial numbers of ordinals, as far as the study has them."""
        return self._query(name, lambda found: candidate_rows.read_numbers(found, name, ordinals))

    def add_progress(self, name: str, reports: Sequence[Progress], leg: Leg | None = None) -> None:
        """Stores what candidates report after an epoch; a candidate that is trained again overwrites.

        Args:
            name: The study.
            reports: At most one of a candidate and an epoch.
            leg: In which they are trained; None does not ask whose it is.

        Raises:
            LeaseLostError: Another worker took the leg over; nothing is stored.
        """
        if not reports:
            return

        def write(connection: sa.Connection) -> None:
            if leg is not None:
                legs.require_leg(connection, name, leg)
            progress.upsert_progress(connection, name, reports)
            self._beat(connection, name)

        self._database.transact(write)

    def progress(
        self,
        name: str,
        trial: int | None = None,
        *,
        trials: Collection[int] | None = None,
        epochs: Collection[int] | None = None,
    ) -> list[Progress]:
        """Returns the reports of a study, of one trial or some, or at some epochs, by trial number and epoch."""
        chosen = trials if trial is None else (trial,)
        return self._database.query(
            lambda found: progress.read_progress(found, name, chosen, epochs)
        )

    def decide(self, name: str, worker: str, decisions: Sequence[RungDecision]) -> None:
        """Stores decisions; one of the same trial at the same rung replaces the older one.

        Raises:
            LeaseLostError: It is not the worker's turn to plan; nothing is stored.
        """
        if not decisions:
            return

        def write(connection: sa.Connection) -> None:
            workers.require_turn(connection, name, worker)
            legs.upsert_decisions(connection, name, decisions)

        self._database.transact(write)

    def decisions(self, name: str, *, status: Collection[str] | None = None) -> list[RungDecision]:
        """Returns the latest decision of every trial, or of those with a status, at every rung, by trial and rung."""
        return self._query(name, lambda found: legs.read_decisions(found, name, status))

    def replay_tells(self, name: str) -> list[int]:
        """Tells Optuna what our tables call finished and Optuna still calls running; returns these trials."""
        running = self._running(name)
        late = [
            one.trial
            for one in self._query(
                name, lambda found: candidate_rows.read_standings(found, name, trials=running)
            )
            if one.status not in ledgers.OPEN
        ]
        self._tell(name, late)
        return late

    def zombies(self, name: str) -> list[int]:
        """Returns the trials that Optuna calls running and nobody works on, by number.

        Not among them: what is in an open leg of a live worker, what is paused, and, while a worker is alive, what
        waits for its first leg.
        """
        running = self._running(name)
        return self._query(
            name, lambda found: legs.without_lease(found, name, running, self._watcher)
        )

    def _running(self, name: str) -> frozenset[int]:
        study = self._optuna_study(name)
        return self._patiently(lambda: self._trials.running(study))
