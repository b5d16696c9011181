"""The methods of `Store` on studies as a whole: what they are asked for, who works on them, what came of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dynamoe_search.errors import UsageError
from dynamoe_search.places import AnyPath
from dynamoe_search.records import (
    FilesMark,
    FrontMember,
    Purpose,
    Spent,
    StudyRecord,
    StudySettings,
    Worker,
)
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import deletion, fronts, progress, reading, workers, writing
from dynamoe_search.store.addresses import user_folder
from dynamoe_search.store.opening import OpenStore
from dynamoe_search.store.optuna_studies import taken
from dynamoe_search.store.overview import Overview, read_overview
from dynamoe_search.store.texts import safe_name


class StudyMethods(OpenStore):
    """A part of `Store`."""

    def create_study(
        self,
        spec: StudySpec,
        *,
        source: str,
        settings: StudySettings,
        parent: str | None = None,
        purpose: Purpose = "search",
        plan_json: str | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Adds a study to Optuna's tables and to ours.

        Args:
            spec: The study file as run.
            source: The file or preset that it came from.
            settings: What is chosen once and may change a number.
            parent: The study whose designs it trains, if all of its candidates are given.
            purpose: What it is for.
            plan_json: What it was asked for, if all of its candidates are given.
            notes: What is worth knowing of it, for people; Optuna's tools show it.

        Raises:
            StorageError: If its files have no place.
            UsageError: If the name is taken.
        """
        name = spec.study.name
        self.files_of(name)  # before anything is stored
        self.require_free(name)
        origin = {"parent": parent, "purpose": purpose, "plan_json": plan_json}
        self._database.transact(
            lambda found: writing.insert_study(found, spec, source, settings, **origin)
        )
        study = self._optuna_study(name)
        if notes:
            self._patiently(lambda: self._optuna.annotate(study, notes))

    def require_free(self, name: str) -> None:
        """Returns if a new study may have this name.

        Raises:
            UsageError: There is one of this name, or an Optuna study of another program.
        """
        if self._database.query(lambda found: reading.has_study(found, name)):
            raise writing.exists_already(name)
        if self._patiently(lambda: self._optuna.exists(name)):
            raise taken(name)

    def study(self, name: str) -> StudyRecord:
        """Returns a study; the `UsageError` for a missing one names close matches."""
        return self._database.query(lambda found: reading.read_study(found, name, self._watcher))

    def studies(self) -> list[StudyRecord]:
        """Returns all studies, oldest first."""
        return self._database.query(lambda found: reading.read_studies(found, self._watcher))

    def set_trials(self, name: str, trials: int) -> None:
        """Changes how many candidates a study is asked for."""
        self._update(name, trials=trials)

    def set_exhausted(self, name: str, ordinal: int | None, *, worker: str | None = None) -> None:
        """Remembers how many designs a study had proposed when its space gave out; None if it has more.

        Args:
            name: The study.
            ordinal: How many.
            worker: Whose turn to plan it must be, if it was one who plans that found out.

        Raises:
            LeaseLostError: It is not the worker's turn; nothing is stored.
        """
        self._update(name, worker, exhausted_at=ordinal)

    def set_max_epochs(self, name: str, epochs: int) -> None:
        """Changes how many candidate-epochs a study may train in all."""
        self._update(name, max_epochs=epochs)

    def set_time_budget(self, name: str, seconds: float) -> None:
        """Changes how many seconds all workers together may work on a study."""
        self._update(name, max_seconds=seconds)

    def max_pack(self, name: str) -> int | None:
        """Returns how many candidates fit into memory together; None if all did so far."""
        return self._query(name, lambda found: reading.read_max_pack(found, name))

    def set_max_pack(self, name: str, candidates: int) -> None:
        """Remembers how many candidates fit into memory together."""
        self._update(name, max_pack=candidates)

    def children(self, name: str) -> list[str]:
        """Returns the names of the designed studies that were made from a study, oldest first."""
        return self._query(name, lambda found: reading.read_children(found, name))

    def workers(self, name: str) -> list[Worker]:
        """Returns who works on a study, or did, in the order in which they came."""
        return self._query(
            name, lambda found: workers.read_workers(found, self._watcher, name)[name]
        )

    def request_stop(self, name: str) -> None:
        """Asks all who work on the study to end after the current step."""
        self._database.query(lambda found: reading.require_study(found, name))
        self._database.transact(lambda found: writing.raise_stop_serial(found, name))

    def refresh_front(self, name: str) -> list[FrontMember]:
        """Brings the Pareto front of the complete and feasible candidates up to date, stores and returns it."""
        ledger, front = self._ledgers[name], self._fronts[name]

        return self._database.transact(
            lambda found: fronts.rewrite_front(found, name, ledger, front)
        )

    def front(self, name: str) -> list[FrontMember]:
        """Returns the stored front, by activated parameters (else by the second objective), ascending."""
        return self._database.query(lambda found: fronts.read_front(found, name))

    def notes(self, name: str) -> tuple[str, ...]:
        """Returns what was worth knowing of a study when it was created."""
        study = self._optuna_study(name)
        return self._patiently(lambda: self._optuna.notes(study))

    def spent(self, name: str) -> Spent:
        """Returns what a study has used so far."""
        return self._database.query(lambda found: progress.read_spent(found, name))

    def overview(self, name: str, num_happenings: int = 60) -> Overview:
        """Returns what a live view shows of a study, as of one moment; much quicker than `candidates`."""
        return self._database.query(
            lambda found: read_overview(found, name, self._watcher, num_happenings)
        )

    def delete_study(self, name: str) -> None:
        """Deletes a study everywhere: Optuna's tables, the folder with its files, our tables; first its children.

        A deletion that was cut short is finished by deleting again.

        Raises:
            UsageError: If there is no such study, or another process is running it or a child.
        """
        children = self.children(name)
        for one in (name, *children):
            deletion.refuse_live_workers(one, self.workers, self._watcher.silence_seconds)
        for child in children:
            self.delete_study(child)
        self._update(name, state="deleting")
        self._patiently(lambda: self._optuna.delete(name))
        self._trials.forget(name)
        deletion.delete_files(self.files_of(name), self.folder)
        deletion.delete_files(self.logs_of(name), self.logs_of(name).parent)
        self._database.transact(lambda found: writing.delete_rows(found, name))
        self._leases.pop(name, None)
        self._ledgers.pop(name, None)
        self._fronts.pop(name, None)
        self._clean.discard(name)

    def refuse_taken(self, name: str) -> None:
        """Raises `UsageError` if there is a study of that name, ours or another program's."""
        is_ours = self._database.query(lambda found: reading.has_study(found, name))
        if is_ours or self._patiently(lambda: self._optuna.exists(name)):
            raise UsageError(
                f"the database {self.url} has a study {name!r} already; delete that one first"
            )

    def files_of(self, name: str) -> AnyPath:
        """Returns the folder for the files of a study; any name is safe; it need not exist."""
        return self.folder / safe_name(name)

    def files_mark(self, name: str) -> FilesMark | None:
        """Returns what the first worker of a study wrote among its files; None if there was none yet."""
        return self._query(name, lambda found: reading.read_files_mark(found, name))

    def claim_files(self, name: str, mark: FilesMark) -> FilesMark:
        """Says where the files of a study are, if nobody said it before; returns what is stored then."""
        return self._database.transact(lambda found: writing.claim_files(found, name, mark))

    def logs_of(self, name: str) -> Path:
        """Returns the folder of this machine for what its worker processes say; it need not exist."""
        files = self.files_of(name)
        if isinstance(files, Path):
            return files / "logs"
        return user_folder() / "logs" / files.parent.name / files.name

    def _update(self, name: str, worker: str | None = None, **values: Any) -> None:
        def write(connection: sa.Connection) -> None:
            reading.require_study(connection, name)
            if worker is not None:
                workers.require_turn(connection, name, worker)
            writing.update_study(connection, name, **values)

        self._database.transact(write)
