"""The memory of the program: studies, candidates, results and fronts in a database that Optuna's tools open too.

A study is kept twice in one file: in Optuna's own tables, so that `optuna.load_study` and optuna-dashboard work,
and in tables `dynamoe_*` with what Optuna has no place for. Our rows are written first and Optuna is told after
them; `Store.replay_tells` repairs what a crash in between left open.
"""

import math
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage

from dynamoe_search.errors import StorageError, UsageError
from dynamoe_search.records import (
    Candidate,
    CandidateRecord,
    FrontMember,
    Outcome,
    Progress,
    Spent,
    StudyRecord,
    StudySettings,
)
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import reading, writing
from dynamoe_search.store.database import BUSY_TIMEOUT_SECONDS, Database, default_url
from dynamoe_search.store.problems import masked
from dynamoe_search.store.runs import HEARTBEAT_SECONDS, this_process
from dynamoe_search.store.tables import safe_name
from dynamoe_search.store.trials import Trials, quiet_optuna, taken

__all__ = ["Store", "default_url", "masked", "quiet_optuna"]


class Store:
    """An open database of studies; a context manager. Use `Store.open`.

    Every method is a short transaction of its own. All raise `StorageError` if the database cannot be used, and
    those that take the name of a study raise `UsageError` if there is none of that name.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._trials = Trials(database)
        self._heartbeat_due: dict[str, float] = {}

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
        """Closes all connections."""
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
        with self._database.read() as connection:
            is_ours = reading.has_study(connection, name)
        if not is_ours and self._trials.exists(name):
            raise taken(name)
        with self._database.write() as connection:
            writing.insert_study(connection, spec, source, settings)
        self._optuna_study(name)

    def study(self, name: str) -> StudyRecord:
        """Returns a study; the `UsageError` for a missing one names close matches."""
        with self._database.read() as connection:
            return reading.read_study(connection, name)

    def studies(self) -> list[StudyRecord]:
        """Returns all studies, oldest first."""
        with self._database.read() as connection:
            return reading.read_studies(connection)

    def set_trials(self, name: str, trials: int) -> None:
        """Changes how many candidates a study is asked for."""
        self._update(name, trials=trials)

    def set_max_epochs(self, name: str, epochs: int) -> None:
        """Changes how many candidate-epochs a study may train in all."""
        self._update(name, max_epochs=epochs)

    def delete_study(self, name: str) -> None:
        """Deletes a study everywhere: Optuna's tables, the folder with its files, our tables.

        A deletion that was cut short is finished by deleting again.

        Raises:
            UsageError: If there is no such study, or another process is running it.
        """
        record = self.study(name)
        me = this_process()
        if record.state == "running" and (record.host, record.pid) != (me.host, me.pid):
            raise UsageError(
                f"the study {name!r} is being run by process {record.pid} on {record.host}; "
                "stop it before deleting it"
            )
        self._update(name, state="deleting")
        self._trials.delete(name)
        self._delete_files(self.files_of(name))
        with self._database.write() as connection:
            writing.delete_rows(connection, name)

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
        study = self._optuna_study(name)
        with self._database.read() as connection:
            known = reading.read_numbers(connection, name)
        if candidate.ordinal in known:
            return known[candidate.ordinal]
        trial = self._trials.add(
            study,
            candidate,
            cohort=cohort,
            params=params,
            distributions=distributions,
            known=frozenset(known.values()),
        )
        with self._database.write() as connection:
            stored = writing.insert_candidate(
                connection,
                name,
                trial,
                candidate,
                cohort=cohort,
                params=params,
                sampler_state=sampler_state,
            )
        if stored != trial:  # another process added the same ordinal at the same time
            self._trials.discard(study, trial)
        return stored

    def candidates(
        self, name: str, *, status: Collection[str] | None = None
    ) -> list[CandidateRecord]:
        """Returns the candidates of a study by trial number, all or those with one of the statuses."""
        with self._database.read() as connection:
            return reading.read_candidates(connection, name, status=status)

    def candidate(self, name: str, trial: int) -> CandidateRecord:
        """Returns a candidate; raises `UsageError` if the study has no such trial."""
        with self._database.read() as connection:
            return reading.read_candidate(connection, name, trial)

    def add_progress(self, name: str, reports: Sequence[Progress]) -> None:
        """Stores what candidates report after an epoch; a candidate that is trained again overwrites."""
        if not reports:
            return
        with self._database.write() as connection:
            writing.upsert_progress(connection, name, reports)
            writing.touch_run(connection, name, this_process())

    def progress(self, name: str, trial: int | None = None) -> list[Progress]:
        """Returns the reports of a study or of one trial, by trial number and epoch."""
        with self._database.read() as connection:
            return reading.read_progress(connection, name, trial)

    def finish(
        self,
        name: str,
        trial: int,
        outcome: Outcome,
        *,
        values: Sequence[float] | None,
        violations: Sequence[float] = (),
        versions: Mapping[str, str],
    ) -> None:
        """Stores how a candidate ended, then tells Optuna; does nothing that was done before.

        Args:
            name: The study.
            trial: The candidate's trial number.
            outcome: How its training ended.
            values: One number per objective if it is complete, else None.
            violations: One number per constraint, at most 0 where it is met; all of the study's candidates should
                have the same constraints.
            versions: Versions of the libraries that computed it.

        Raises:
            ValueError: If a complete candidate has no value, or a NaN, for one of the objectives.
        """
        record = self.study(name)
        named = _named_values(record.objectives, outcome, values)
        with self._database.write() as connection:
            writing.write_outcome(
                connection,
                name,
                trial,
                outcome,
                values=named,
                violations=violations,
                versions=versions,
            )
            writing.touch_run(connection, name, this_process())
        self._tell(name, self.candidate(name, trial))

    def replay_tells(self, name: str) -> list[int]:
        """Tells Optuna what our tables call finished and Optuna still calls running; returns these trials."""
        running = self._trials.running(self._optuna_study(name))
        if not running:
            return []
        late = [
            record
            for record in self.candidates(name, status=("complete", "failed", "stopped"))
            if record.trial in running
        ]
        for record in late:
            self._tell(name, record)
        return [record.trial for record in late]

    def refresh_front(self, name: str) -> list[FrontMember]:
        """Computes the Pareto front of the complete and feasible candidates, stores and returns it."""
        record = self.study(name)
        with self._database.write() as connection:
            writing.rewrite_front(connection, record)
        return self.front(name)

    def front(self, name: str) -> list[FrontMember]:
        """Returns the stored front, by activated parameters (else by the second objective), ascending."""
        with self._database.read() as connection:
            return reading.read_front(connection, name)

    def spent(self, name: str) -> Spent:
        """Returns what a study has used so far."""
        with self._database.read() as connection:
            return reading.read_spent(connection, name)

    # Runs

    def begin_run(self, name: str) -> None:
        """Makes this process the one that runs the study.

        Raises:
            UsageError: If another process that is alive is running it.
        """
        self.study(name)
        with self._database.write() as connection:
            writing.claim_run(connection, name, this_process())

    def heartbeat(self, name: str) -> None:
        """Says that this process still runs the study; cheap enough to be called after every step."""
        now = time.monotonic()
        if now < self._heartbeat_due.get(name, 0.0):
            return
        self._heartbeat_due[name] = now + HEARTBEAT_SECONDS
        with self._database.write() as connection:
            writing.touch_run(connection, name, this_process())

    def end_run(self, name: str, state: Literal["finished", "interrupted"]) -> None:
        """Says that this process stopped working on the study; nothing if another has taken it over."""
        with self._database.write() as connection:
            reading.require_study(connection, name)
            writing.release_run(connection, name, this_process(), state)

    def request_stop(self, name: str) -> None:
        """Asks whoever runs the study to end after the current step."""
        self._update(name, is_stop_requested=True)

    def stop_requested(self, name: str) -> bool:
        """Says whether someone asked the study to end."""
        with self._database.read() as connection:
            return reading.read_stop(connection, name)

    def clear_stop(self, name: str) -> None:
        """Forgets a request to end."""
        self._update(name, is_stop_requested=False)

    def _update(self, name: str, **values: Any) -> None:
        with self._database.write() as connection:
            reading.require_study(connection, name)
            writing.update_study(connection, name, **values)

    def _optuna_study(self, name: str) -> optuna.Study:
        with self._database.read() as connection:
            objectives, maximise = reading.read_goals(connection, name)
            is_empty = not reading.read_numbers(connection, name)
        return self._trials.study(name, objectives, maximise, create=is_empty)

    def _tell(self, name: str, record: CandidateRecord) -> None:
        if record.outcome is None:
            return
        values = None if record.values is None else list(record.values.values())
        self._trials.tell(
            self._optuna_study(name), record.trial, record.outcome, values, record.violations
        )

    def _delete_files(self, folder: Path) -> None:
        """Deletes one folder directly inside `self.folder`, following no links."""
        if folder.parent != self.folder:
            raise StorageError(f"{folder} is not a folder of this database; nothing was deleted")
        try:
            if folder.is_symlink() or folder.is_file():
                folder.unlink()
            elif folder.is_dir():
                shutil.rmtree(folder)
        except OSError as error:
            raise StorageError(
                f"the files in {folder} cannot be deleted ({error.strerror}); delete the study again"
            ) from error


def _named_values(
    objectives: Sequence[str], outcome: Outcome, values: Sequence[float] | None
) -> dict[str, float] | None:
    if outcome.status != "complete":
        return None
    if values is None or len(values) != len(objectives) or any(map(math.isnan, values)):
        raise ValueError(
            f"a complete candidate needs a number for each of {objectives}, got {values}"
        )
    return {name: float(value) for name, value in zip(objectives, values, strict=True)}
