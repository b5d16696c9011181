"""Optuna's studies in our database, through its own storage on our connections: made, annotated, deleted."""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy import exc

from dynamoe_search.errors import StorageError, UsageError
from dynamoe_search.store.database import Database
from dynamoe_search.store.problems import is_locked, translated

OURS = "dynamoe_search"
"""User attribute that marks the Optuna studies of this program."""

TIMES = f"{OURS}:times:"
"""User attributes, one for each worker, that say what its time went into."""

NOTES = "notes"
"""User attribute with what is worth knowing of a study, one sentence each."""

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


class OptunaStudies:
    """Optuna's studies in our database.

    Args:
        database: The open database; Optuna uses its connections.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._storage: RDBStorage | None = None
        self._studies: dict[str, optuna.Study] = {}

    @property
    def storage(self) -> RDBStorage:
        """Optuna's storage, made at its first use, because reading our tables does not need it."""
        if self._storage is None:
            with self.guarded():
                self._storage = _open_storage(self.database)
        return self._storage

    def exists(self, name: str) -> bool:
        """Says whether Optuna has a study of this name, ours or not."""
        storage = self.storage
        with self.guarded():
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
        with self.guarded():
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

    def keep_times(self, study: optuna.Study, worker: str, times: Mapping[str, float]) -> None:
        """Keeps with a study what a worker's time went into."""
        with self.guarded(study.study_name):
            study.set_user_attr(f"{TIMES}{worker}", dict(times))

    def times(self, name: str) -> list[dict[str, float]]:
        """Returns what the time of every worker on a study went into; nothing if Optuna has no such study."""
        if not self.exists(name):
            return []
        with self.guarded(name):
            study_id = self.storage.get_study_id_from_name(name)
            found = self.storage.get_study_user_attrs(study_id)
        return [own for key, own in found.items() if key.startswith(TIMES)]

    def annotate(self, study: optuna.Study, notes: Sequence[str]) -> None:
        """Stores notes on a study where Optuna's tools show them."""
        with self.guarded(study.study_name):
            study.set_user_attr(NOTES, list(notes))

    def notes(self, study: optuna.Study) -> tuple[str, ...]:
        """Returns the notes on a study."""
        with self.guarded(study.study_name):
            found = study.user_attrs.get(NOTES, ())
        return tuple(map(str, found)) if isinstance(found, list) else ()

    def frozen(self, name: str) -> list[FrozenTrial] | None:
        """Returns all trials as Optuna has them, by number; None if Optuna has no such study."""
        if not self.exists(name):
            return None
        storage = self.storage
        with self.guarded(name):
            return storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False)

    def delete(self, name: str) -> None:
        """Deletes Optuna's study with its trials, if it is there."""
        self._studies.pop(name, None)
        storage = self.storage
        with self.guarded():
            try:
                storage.delete_study(storage.get_study_id_from_name(name))
            except KeyError:
                return

    def forgotten(self, name: str) -> StorageError:
        """Forgets a study that is not there, or not all of it, and returns the error for it."""
        self._studies.pop(name, None)
        return self.lost(name)

    def lost(self, name: str) -> StorageError:
        """Returns the error for a study whose part in Optuna's tables is gone."""
        return StorageError(
            f"another program deleted Optuna's part of the study {name!r} in the database "
            f"{self.database.name}; delete the study here too, or restore a copy of the database"
        )

    def close(self) -> None:
        """Lets go of Optuna's sessions."""
        self._studies.clear()
        if self._storage is not None:
            self._storage.remove_session()

    @contextmanager
    def guarded(self, name: str | None = None) -> Iterator[None]:
        """Keeps Optuna quiet and its errors ours; a KeyError of Optuna means that the study is not there."""
        try:
            with translated(self.database.url), quiet_optuna():
                yield
        except KeyError as error:
            if name is None:
                raise
            raise self.forgotten(name) from error


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
