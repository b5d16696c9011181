"""Optuna's side of a study in the same database: one trial per candidate, told when the candidate is finished."""

import time
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import exc

from dynamoe_search.errors import StorageError, UsageError
from dynamoe_search.records import Candidate
from dynamoe_search.store import optuna_rows
from dynamoe_search.store.database import Database
from dynamoe_search.store.optuna_rows import End, KnownIds
from dynamoe_search.store.problems import is_locked, translated
from dynamoe_search.store.texts import counts_to_text

OURS = "dynamoe_search"
"""User attribute that marks the Optuna studies of this program."""

TIMES = f"{OURS}:times:"
"""User attributes, one for each worker, that say what its time went into."""

NOTES = "notes"
"""User attribute with what is worth knowing of a study, one sentence each."""

_FINISHED = optuna.exceptions.UpdateFinishedTrialError
_ATTEMPTS = 20


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keeps Optuna's log lines and its warnings about experimental features off the terminal, below the `with`."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.ERROR))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


@dataclass(frozen=True, kw_only=True, slots=True)
class Addition:
    """A candidate that will be trained.

    Attributes:
        candidate: What will be trained.
        params: Values of Optuna's parameters; plain numbers, strings and booleans.
        distributions: Their distributions.
        cohort: Which cohort the candidate belongs to, from 0.
        sampler_state: What the search needs to go on from here, as JSON can hold it.
    """

    candidate: Candidate
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    cohort: int
    sampler_state: Mapping[str, Any] = field(default_factory=dict)


class Trials:
    """Optuna's studies and trials in our database.

    Args:
        database: The open database; Optuna uses its connections.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._storage: RDBStorage | None = None
        self._studies: dict[str, optuna.Study] = {}
        self._ids: defaultdict[str, KnownIds] = defaultdict(KnownIds)  # by study

    @cached_property
    def are_known(self) -> bool:
        """Whether Optuna's rows can be written with ours; otherwise its storage is asked, trial by trial."""
        storage = self.storage
        with self._guarded():
            return optuna_rows.is_known(storage)

    @property
    def storage(self) -> RDBStorage:
        """Optuna's storage, made at its first use, because reading our tables does not need it."""
        if self._storage is None:
            with self._guarded():
                self._storage = _open_storage(self._database)
        return self._storage

    def exists(self, name: str) -> bool:
        """Says whether Optuna has a study of this name, ours or not."""
        storage = self.storage
        with self._guarded():
            try:
                storage.get_study_id_from_name(name)
            except KeyError:
                return False
            return True

    def known(self, name: str) -> optuna.Study | None:
        """Returns Optuna's study if it was returned before, without asking whether it is still there."""
        return self._studies.get(name)

    def study(
        self, name: str, objectives: Sequence[str], maximise: Sequence[bool], *, create: bool
    ) -> optuna.Study:
        """Returns Optuna's study.

        Args:
            name: The study.
            objectives: Names of the values.
            maximise: Which of them are maximised.
            create: Make it if it is missing; false for a study with trials, which somebody else must have deleted.
        """
        if name in self._studies:
            return self._studies[name]
        if not create and not self.exists(name):
            raise self.lost(name)
        storage = self.storage
        with self._guarded():
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                directions=["maximize" if upwards else "minimize" for upwards in maximise],
                sampler=optuna.samplers.RandomSampler(),  # never asked; search brings its own
                load_if_exists=True,
            )
            if study.metric_names != list(objectives):
                study.set_metric_names(list(objectives))
                study.set_user_attr(OURS, {"objectives": list(objectives)})
        self._studies[name] = study
        return study

    def insert(
        self, connection: sa.Connection, name: str, additions: Sequence["Addition"]
    ) -> list[int]:
        """Adds running trials within a transaction, if Optuna's tables are known; returns their numbers."""
        new = [_new_trial(one) for one in additions]
        numbers = optuna_rows.insert_trials(connection, name, new)
        if numbers is None:
            raise self._forgotten(name)
        return numbers

    def finish(self, connection: sa.Connection, name: str, ends: Collection[End]) -> None:
        """Ends trials within a transaction, if Optuna's tables are known; those that are over stay as they are."""
        if not optuna_rows.finish_trials(connection, name, self._ids[name], ends):
            raise self._forgotten(name)

    def add(
        self, study: optuna.Study, additions: Sequence["Addition"], left: Collection[int]
    ) -> list[int]:
        """Returns the numbers of the running trials of candidates, each added by Optuna's storage on its own.

        Args:
            study: Optuna's study.
            additions: What will be trained.
            left: Numbers of the running trials that a crash left behind; one that is meant is taken.
        """
        with self._guarded(study.study_name):
            storage = self.storage
            study_id = storage.get_study_id_from_name(study.study_name)
            ids = [
                storage.get_trial_id_from_study_id_trial_number(study_id, number)
                for number in sorted(left)
            ]
            found = {trial_id: storage.get_trial(trial_id) for trial_id in ids}
            return self._numbers_of(
                [self._trial_of(study, study_id, one, found) for one in additions]
            )

    def _numbers_of(self, trial_ids: Sequence[int]) -> list[int]:
        """Returns the numbers of trials; Optuna would read them whole."""
        here = optuna_rows.trials.c
        query = sa.select(here.trial_id, here.number).where(here.trial_id.in_(sorted(trial_ids)))
        with self._database.read() as connection:
            numbers = {row.trial_id: row.number for row in connection.execute(query)}
        return [numbers[trial_id] for trial_id in trial_ids]

    def _trial_of(
        self, study: optuna.Study, study_id: int, one: Addition, left: Mapping[int, FrozenTrial]
    ) -> int:
        """Returns Optuna's id of a running trial: of one that a crash left behind, or of a new one."""
        found: int | None = None
        for trial_id, trial in left.items():
            if trial.user_attrs.get("ordinal") != one.candidate.ordinal or found is not None:
                continue
            if trial.params == dict(one.params):
                found = trial_id
            else:
                self.discard(study, trial.number)
        if found is not None:
            return found
        return self.storage.create_new_trial(study_id, _new_trial(one))

    def keep_times(self, study: optuna.Study, worker: str, times: Mapping[str, float]) -> None:
        """Keeps with a study what a worker's time went into."""
        with self._guarded(study.study_name):
            study.set_user_attr(f"{TIMES}{worker}", dict(times))

    def times(self, name: str) -> list[dict[str, float]]:
        """Returns what the time of every worker on a study went into; nothing if Optuna has no such study."""
        if not self.exists(name):
            return []
        with self._guarded(name):
            study_id = self.storage.get_study_id_from_name(name)
            found = self.storage.get_study_user_attrs(study_id)
        return [own for key, own in found.items() if key.startswith(TIMES)]

    def ids(self, study: optuna.Study, numbers: Collection[int]) -> dict[int, int]:
        """Returns Optuna's ids of trials by number; Optuna looks for one at a time, among all."""
        here = optuna_rows.trials.c
        with self._guarded(study.study_name):
            study_id = self.storage.get_study_id_from_name(study.study_name)
            query = sa.select(here.number, here.trial_id).where(
                here.study_id == study_id, here.number.in_(sorted(numbers))
            )
            with self._database.read() as connection:
                return {row.number: row.trial_id for row in connection.execute(query)}

    def tell(self, study: optuna.Study, trial_id: int, end: End) -> None:
        """Has Optuna's storage finish a trial; does nothing if it is finished already.

        Args:
            study: Optuna's study.
            trial_id: Optuna's id of the trial.
            end: How it ended.
        """
        values = None if end.values is None else list(end.values)
        with (
            self._guarded(study.study_name),
            suppress(_FINISHED),  # by another process, or by this one before
        ):
            self._describe(trial_id, end)
            self.storage.set_trial_state_values(trial_id, end.state, values)

    def _describe(self, trial_id: int, end: End) -> None:
        """Stores what Optuna's samplers and the dashboard read beside the values."""
        for key, value in end.system_attrs.items():
            self.storage.set_trial_system_attr(trial_id, key, value)
        for key, value in end.user_attrs.items():
            self.storage.set_trial_user_attr(trial_id, key, value)

    def annotate(self, study: optuna.Study, notes: Sequence[str]) -> None:
        """Stores notes on a study where Optuna's tools show them."""
        with self._guarded(study.study_name):
            study.set_user_attr(NOTES, list(notes))

    def notes(self, study: optuna.Study) -> tuple[str, ...]:
        """Returns the notes on a study."""
        with self._guarded(study.study_name):
            found = study.user_attrs.get(NOTES, ())
        return tuple(map(str, found)) if isinstance(found, list) else ()

    def discard(self, study: optuna.Study, number: int) -> None:
        """Fails a trial that no candidate belongs to."""
        with self._guarded(study.study_name), suppress(_FINISHED):
            study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def fail(self, connection: sa.Connection, trial_ids: Collection[int]) -> None:
        """Fails running trials within a transaction of ours; those that another program made stay."""
        optuna_rows.fail_trials(connection, trial_ids, mark="ordinal")

    def running(self, study: optuna.Study) -> frozenset[int]:
        """Returns the numbers of the trials that Optuna calls running."""
        with self._guarded(study.study_name):
            return self._running(self.storage.get_study_id_from_name(study.study_name))

    def _running(self, study_id: int) -> frozenset[int]:
        """Asks for numbers alone: Optuna would read these trials with all their parameters and attributes."""
        here = optuna_rows.trials.c
        query = sa.select(here.number).where(
            here.study_id == study_id, here.state == TrialState.RUNNING
        )
        with self._database.read() as connection:
            return frozenset(connection.execute(query).scalars())

    def frozen(self, name: str) -> list[FrozenTrial] | None:
        """Returns all trials as Optuna has them, by number; None if Optuna has no such study."""
        if not self.exists(name):
            return None
        storage = self.storage
        with self._guarded(name):
            return storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False)

    def delete(self, name: str) -> None:
        """Deletes Optuna's study with its trials, if it is there."""
        self._studies.pop(name, None)
        self._ids.pop(name, None)
        storage = self.storage
        with self._guarded():
            try:
                storage.delete_study(storage.get_study_id_from_name(name))
            except KeyError:
                return

    def _forgotten(self, name: str) -> StorageError:
        """Forgets a study that is not there, or not all of it, and returns the error for it."""
        self._studies.pop(name, None)
        return self.lost(name)

    def lost(self, name: str) -> StorageError:
        """Returns the error for a study whose part in Optuna's tables is gone."""
        return StorageError(
            f"another program deleted Optuna's part of the study {name!r} in the database "
            f"{self._database.name}; delete the study here too, or restore a copy of the database"
        )

    def close(self) -> None:
        """Lets go of Optuna's sessions."""
        self._studies.clear()
        if self._storage is not None:
            self._storage.remove_session()

    @contextmanager
    def _guarded(self, name: str | None = None) -> Iterator[None]:
        """Keeps Optuna quiet and its errors ours; a KeyError of Optuna means that the study is not there."""
        try:
            with translated(self._database.url), quiet_optuna():
                yield
        except KeyError as error:
            if name is None:
                raise
            raise self._forgotten(name) from error


def _new_trial(one: Addition) -> FrozenTrial:
    candidate = one.candidate
    return optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=dict(one.params),
        distributions=dict(one.distributions),
        user_attrs={
            "ordinal": candidate.ordinal,
            "cohort": one.cohort,
            "reference": candidate.reference,
            "router": candidate.router.kind,
            "schedule": candidate.schedule.shape,
            "experts_per_layer": counts_to_text(candidate.experts_per_layer),
        },
    )


def _open_storage(database: Database) -> RDBStorage:
    """Returns Optuna's storage on our connections.

    Two processes that open a new database at once both make Optuna's tables; whoever comes second tries again.
    """
    text = database.url.render_as_string(hide_password=False)
    template = text.replace("{", "{{").replace("}", "}}")  # Optuna formats the URL
    attempt = 0
    while True:
        attempt += 1
        try:
            return RDBStorage(template, engine_kwargs={"pool": database.engine.pool})
        except RuntimeError as error:
            raise StorageError(
                f"the database {database.name} was written by another version of Optuna: {error}"
            ) from error
        except (
            exc.OperationalError,
            exc.IntegrityError,
            exc.ProgrammingError,
            optuna.exceptions.StorageInternalError,
            AssertionError,
        ) as error:
            if attempt == _ATTEMPTS or is_locked(error):
                raise
            time.sleep(0.05 * attempt)


def taken(name: str) -> UsageError:
    """Returns the error for a name that an Optuna study of another program has."""
    return UsageError(
        f"the database has an Optuna study {name!r} that this program did not make; "
        "choose another name with --name"
    )
