"""The memory of the program: studies, candidates, results and fronts in a database that Optuna's tools open too.

A study is kept twice in one file: in Optuna's own tables, so that `optuna.load_study` and optuna-dashboard work,
and in tables `dynamoe_*` with what Optuna has no place for. Our rows are written first and Optuna is told after
them; `Store.replay_tells` repairs what a crash in between left open.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage

from dynamoe_search.errors import StorageError
from dynamoe_search.records import (
    Candidate,
    CandidateRecord,
    Ended,
    FrontMember,
    Leg,
    Progress,
    RungDecision,
    Spent,
    Standing,
    Stood,
    StudyRecord,
    StudySettings,
    Worker,
)
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import checks, deletion, legs, reading, workers, writing
from dynamoe_search.store.addresses import default_url
from dynamoe_search.store.checks import Finding
from dynamoe_search.store.database import BUSY_TIMEOUT_SECONDS, Database
from dynamoe_search.store.patience import PATIENCE_SECONDS
from dynamoe_search.store.problems import masked
from dynamoe_search.store.runs import Lease, Watcher, this_process
from dynamoe_search.store.texts import safe_name
from dynamoe_search.store.trials import Trials, quiet_optuna, taken
from dynamoe_search.store.writing import named_values

__all__ = ["Finding", "Store", "default_url", "masked", "quiet_optuna"]

Result = TypeVar("Result")

_POLL_SECONDS = 0.05


class Store:
    """An open database of studies; a context manager. Use `Store.open`.

    Every method is a short transaction of its own. All raise `StorageError` if the database cannot be used, and
    those that take the name of a study raise `UsageError` if there is none of that name.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._trials = Trials(database)
        self._watcher = Watcher()
        self._leases: dict[str, Lease] = {}

    @classmethod
    def open(
        cls,
        url: str | None = None,
        *,
        create: bool = True,
        busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
    ) -> "Store":
        """Opens a database.

        Args:
            url: An SQLAlchemy URL such as `sqlite:///studies.db`; None means `default_url()`.
            create: Make the database if there is none.
            busy_timeout_seconds: How long to wait for another process that writes to the same SQLite file.

        Raises:
            StorageError: For anything that keeps the database from being used, in one sentence.
        """
        return cls(Database.open(url, create=create, busy_timeout_seconds=busy_timeout_seconds))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the studies that this process works on, as interrupted, and closes all connections."""
        self._database.patience.seconds = 0.0
        for name, lease in list(self._leases.items()):
            with suppress(StorageError):  # the database may be why it is closed
                if lease.is_of_this_process():
                    self.leave(name, lease.worker, "interrupted")
        self._leases.clear()
        self._trials.close()
        self._database.close()

    @property
    def url(self) -> str:
        """The database's URL for people to read: passwords are shown as `***`."""
        return masked(self._database.url.render_as_string(hide_password=True))

    @property
    def folder(self) -> Path:
        """Where the files of all studies are; it need not exist."""
        return self._database.folder

    def storage_for_optuna(self) -> RDBStorage:
        """Returns Optuna's storage of the same database, on the same connections."""
        return self._trials.storage

    # Studies

    def create_study(self, spec: StudySpec, *, source: str, settings: StudySettings) -> None:
        """Adds a study to Optuna's tables and to ours.

        Args:
            spec: The study file as run.
            source: The file or preset that it came from.
            settings: What is chosen once and may change a number.

        Raises:
            UsageError: If the name is taken.
        """
        name = spec.study.name
        is_ours = self._database.query(lambda found: reading.has_study(found, name))
        if not is_ours and self._trials.exists(name):
            raise taken(name)
        self._database.transact(lambda found: writing.insert_study(found, spec, source, settings))
        self._optuna_study(name)

    def study(self, name: str) -> StudyRecord:
        """Returns a study; the `UsageError` for a missing one names close matches."""
        return self._database.query(lambda found: reading.read_study(found, name, self._watcher))

    def studies(self) -> list[StudyRecord]:
        """Returns all studies, oldest first."""
        return self._database.query(lambda found: reading.read_studies(found, self._watcher))

    def set_trials(self, name: str, trials: int) -> None:
        """Changes how many candidates a study is asked for."""
        self._update(name, trials=trials)

    def set_max_epochs(self, name: str, epochs: int) -> None:
        """Changes how many candidate-epochs a study may train in all."""
        self._update(name, max_epochs=epochs)

    def set_time_budget(self, name: str, seconds: float) -> None:
        """Changes how many seconds all workers together may work on a study."""
        self._update(name, max_seconds=seconds)

    def set_max_pack(self, name: str, candidates: int) -> None:
        """Remembers how many candidates fit into memory together."""
        self._update(name, max_pack=candidates)

    def delete_study(self, name: str) -> None:
        """Deletes a study everywhere: Optuna's tables, the folder with its files, our tables.

        A deletion that was cut short is finished by deleting again.

        Raises:
            UsageError: If there is no such study, or another process is running it.
        """
        deletion.refuse_live_workers(name, self.workers, self._watcher.silence_seconds)
        self._update(name, state="deleting")
        self._trials.delete(name)
        deletion.delete_files(self.files_of(name), self.folder)
        self._database.transact(lambda found: writing.delete_rows(found, name))
        self._leases.pop(name, None)

    def files_of(self, name: str) -> Path:
        """Returns the folder for the files of a study; any name is safe; it need not exist."""
        return self.folder / safe_name(name)

    # Candidates

    def add_candidate(
        self,
        name: str,
        candidate: Candidate,
        *,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        cohort: int,
        sampler_state: Mapping[str, Any],
    ) -> int:
        """Adds a candidate that will be trained and returns its trial number.

        Calling it again for the same ordinal returns the same number, also after a crash between Optuna's row
        and ours.

        Args:
            name: The study.
            candidate: What will be trained.
            params: Values of Optuna's parameters; plain numbers, strings and booleans.
            distributions: Their distributions.
            cohort: Which cohort the candidate belongs to, from 0.
            sampler_state: What the search needs to go on from here, as JSON can hold it.
        """
        known = self._database.query(lambda found: reading.read_numbers(found, name))
        if candidate.ordinal in known:
            return known[candidate.ordinal]
        study = self._optuna_study(name)
        trial = self._patiently(
            lambda: self._trials.add(
                study,
                candidate,
                cohort=cohort,
                params=params,
                distributions=distributions,
                known=frozenset(known.values()),
            )
        )
        stored = self._database.transact(
            lambda found: writing.insert_candidate(
                found,
                name,
                trial,
                candidate,
                cohort=cohort,
                params=params,
                sampler_state=sampler_state,
            )
        )
        if stored != trial:  # another process added the same ordinal at the same time
            self._patiently(lambda: self._trials.discard(study, trial))
        return stored

    def candidates(
        self, name: str, *, status: Collection[str] | None = None
    ) -> list[CandidateRecord]:
        """Returns the candidates of a study by trial number, all or those with one of the statuses."""
        return self._database.query(
            lambda found: reading.read_candidates(found, name, status=status)
        )

    def candidate(self, name: str, trial: int) -> CandidateRecord:
        """Returns a candidate; raises `UsageError` if the study has no such trial."""
        return self._database.query(lambda found: reading.read_candidate(found, name, trial))

    def standings(self, name: str, *, status: Collection[str] | None = None) -> list[Standing]:
        """Returns where every candidate stands, by trial number; much quicker than `candidates`."""
        return self._query(name, lambda found: legs.read_standings(found, name, status))

    def add_progress(self, name: str, reports: Sequence[Progress]) -> None:
        """Stores what candidates report after an epoch; a candidate that is trained again overwrites."""
        if not reports:
            return

        def write(connection: sa.Connection) -> None:
            writing.upsert_progress(connection, name, reports)
            self._beat(connection, name)

        self._database.transact(write)

    def progress(
        self, name: str, trial: int | None = None, *, epochs: Collection[int] | None = None
    ) -> list[Progress]:
        """Returns the reports of a study, of one trial, or at some epochs only, by trial number and epoch."""
        return self._database.query(lambda found: reading.read_progress(found, name, trial, epochs))

    def replay_tells(self, name: str) -> list[int]:
        """Tells Optuna what our tables call finished and Optuna still calls running; returns these trials."""
        running = self._running(name)
        late = [
            one.trial
            for one in self.standings(name, status=("complete", "failed", "stopped"))
            if one.trial in running
        ]
        for trial in late:
            self._tell(name, self.candidate(name, trial))
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

    def refresh_front(self, name: str) -> list[FrontMember]:
        """Computes the Pareto front of the complete and feasible candidates, stores and returns it."""
        record = self.study(name)
        self._database.transact(lambda found: writing.rewrite_front(found, record))
        return self.front(name)

    def front(self, name: str) -> list[FrontMember]:
        """Returns the stored front, by activated parameters (else by the second objective), ascending."""
        return self._database.query(lambda found: reading.read_front(found, name))

    def spent(self, name: str) -> Spent:
        """Returns what a study has used so far."""
        return self._database.query(lambda found: reading.read_spent(found, name))

    # Workers

    def join(self, name: str) -> str:
        """Makes this process one of those that work on a study and returns its id as a worker.

        Joining twice gives the same id. From now on the database is waited for if it is locked or out of reach.

        Raises:
            UsageError: The study is being deleted.
        """
        if (lease := self._leases.get(name)) is not None:
            return lease.worker
        self._database.query(lambda found: reading.require_study(found, name))
        worker, serial = self._database.transact(
            lambda found: workers.join(found, name, this_process())
        )
        self._leases[name] = Lease(worker, serial)
        self._database.patience.seconds = PATIENCE_SECONDS
        return worker

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
        self._database.transact(
            lambda found: workers.leave(
                found, name, worker, state=state, seconds=worked, watcher=self._watcher
            )
        )
        if lease is not None and lease.worker == worker:
            del self._leases[name]
        if not self._leases:
            self._database.patience.seconds = 0.0

    def heartbeat(self, name: str) -> None:
        """Gives a sign of life of this process; cheap enough to be called after every step."""
        lease = self._leases.get(name)
        if lease is not None and lease.is_due():
            self._database.transact(lambda found: self._beat(found, name))

    def workers(self, name: str) -> list[Worker]:
        """Returns who works on a study, or did, in the order in which they came."""
        return self._query(
            name, lambda found: workers.read_workers(found, self._watcher, name)[name]
        )

    def request_stop(self, name: str) -> None:
        """Asks all who work on the study to end after the current step."""
        self._database.query(lambda found: reading.require_study(found, name))
        self._database.transact(lambda found: writing.raise_stop_serial(found, name))

    def stop_serial(self, name: str) -> int:
        """Returns how often the study was asked to stop."""
        return self._database.query(lambda found: reading.read_stop_serial(found, name))

    def stop_requested(self, name: str) -> bool:
        """Says whether someone asked the study to end since this process joined it; false if it did not join."""
        lease = self._leases.get(name)
        return self.stop_serial(name) > lease.stop_serial if lease is not None else False

    # Legs

    @contextmanager
    def planning(self, name: str, worker: str) -> Iterator[None]:
        """Lets one worker at a time plan what is trained next; waits for its turn.

        Raises:
            LeaseLostError: The worker does not work on the study.
        """
        while self._is_planned(name, worker) or not self._database.transact(
            lambda found: workers.try_to_plan(found, name, worker, self._watcher)
        ):
            time.sleep(_POLL_SECONDS)
            self.heartbeat(name)
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
            LeaseLostError: The worker left, or another one plans.
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
                watcher=self._watcher,
            )
        )

    def take_leg(self, name: str, worker: str, number: int) -> bool:
        """Takes an open leg over if its worker is dead; returns whether it is this worker's now."""
        return self._database.transact(
            lambda found: legs.take_leg(found, name, worker, number, self._watcher)
        )

    def close_leg(
        self,
        name: str,
        worker: str,
        number: int,
        *,
        reports: Sequence[Progress] = (),
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
            reports: Reports that may not be stored yet.
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
            if reports:
                writing.upsert_progress(connection, name, reports)
            legs.upsert_decisions(connection, name, decisions)
            self._beat(connection, name)

        self._database.transact(write, is_lasting=True)
        for item in ended:
            self._tell(name, self.candidate(name, item.trial))

    def stop_paused(
        self, name: str, ended: Sequence[Ended], decisions: Sequence[RungDecision] = ()
    ) -> None:
        """Ends candidates that stand at a rung when the study is over, then tells Optuna.

        Candidates that are over already stay what they are.

        Raises:
            UsageError: A candidate is in training.
        """
        values = self._named(name, ended)
        versions = self.study(name).settings.versions

        def write(connection: sa.Connection) -> None:
            legs.require_not_running(connection, name, [item.trial for item in ended])
            writing.write_ended(connection, name, ended, values=values, versions=versions)
            legs.upsert_decisions(connection, name, decisions)

        self._database.transact(write, is_lasting=True)
        for item in ended:
            self._tell(name, self.candidate(name, item.trial))

    def decide(self, name: str, decisions: Sequence[RungDecision]) -> None:
        """Stores decisions; one of the same trial at the same rung replaces the older one."""
        if decisions:
            self._database.transact(lambda found: legs.upsert_decisions(found, name, decisions))

    def decisions(self, name: str) -> list[RungDecision]:
        """Returns the latest decision of every trial at every rung, by trial number and rung."""
        return self._query(name, lambda found: legs.read_decisions(found, name))

    # Checks

    def check(self, name: str | None = None) -> list[checks.Finding]:
        """Looks for what is wrong with the database and with one study or all; changes nothing."""
        return checks.check(self._database, self._trials, self._watcher, name)

    # Inside

    def _query(self, name: str, body: Callable[[sa.Connection], Result]) -> Result:
        """Reads something of a study; raises `UsageError` if there is none."""

        def read(connection: sa.Connection) -> Result:
            reading.require_study(connection, name)
            return body(connection)

        return self._database.query(read)

    def _beat(self, connection: sa.Connection, name: str) -> None:
        if (lease := self._leases.get(name)) is not None:
            lease.beaten()
            workers.beat(connection, name, lease.worker, lease.seconds)

    def _is_planned(self, name: str, worker: str) -> bool:
        return self._database.query(
            lambda found: workers.is_planned(found, name, worker, self._watcher)
        )

    def _patiently(self, act: Callable[[], Result]) -> Result:
        return self._database.patience.call(act)

    def _running(self, name: str) -> frozenset[int]:
        study = self._optuna_study(name)
        return self._patiently(lambda: self._trials.running(study))

    def _named(self, name: str, ended: Sequence[Ended]) -> dict[int, dict[str, float] | None]:
        objectives, _ = self._database.query(lambda found: reading.read_goals(found, name))
        return {item.trial: named_values(objectives, item) for item in ended}

    def _update(self, name: str, **values: Any) -> None:
        def write(connection: sa.Connection) -> None:
            reading.require_study(connection, name)
            writing.update_study(connection, name, **values)

        self._database.transact(write)

    def _optuna_study(self, name: str) -> optuna.Study:
        def read(connection: sa.Connection) -> tuple[tuple[str, ...], tuple[bool, ...], bool]:
            goals = reading.read_goals(connection, name)
            return *goals, not reading.read_numbers(connection, name)

        objectives, maximise, is_empty = self._database.query(read)
        return self._patiently(
            lambda: self._trials.study(name, objectives, maximise, create=is_empty)
        )

    def _tell(self, name: str, record: CandidateRecord) -> None:
        outcome = record.outcome
        if outcome is None:
            return
        values = None if record.values is None else list(record.values.values())
        study = self._optuna_study(name)
        self._patiently(
            lambda: self._trials.tell(study, record.trial, outcome, values, record.violations)
        )
