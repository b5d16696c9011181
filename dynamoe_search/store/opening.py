"""Opening and closing the database, and what all methods of `Store` stand on."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage

from dynamoe_search.credentials import masked
from dynamoe_search.places import AnyPath
from dynamoe_search.store import candidate_rows, folders, reading, tells, workers
from dynamoe_search.store.database import BUSY_TIMEOUT_SECONDS, Database
from dynamoe_search.store.fronts import KnownFront
from dynamoe_search.store.hearts import Heart
from dynamoe_search.store.ledgers import Ledger
from dynamoe_search.store.optuna_studies import OptunaStudies
from dynamoe_search.store.runs import Lease, Watcher
from dynamoe_search.store.trials import Trials

Result = TypeVar("Result")


class OpenStore:
    """An open database, our side and Optuna's, with the leases of this process; a context manager."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._optuna = OptunaStudies(database)
        self._trials = Trials(self._optuna)
        self._watcher = Watcher()
        self._leases: dict[str, Lease] = {}
        self._hearts: dict[str, Heart] = {}  # by study, as the leases
        self._ledgers: defaultdict[str, Ledger] = defaultdict(Ledger)  # by study
        self._fronts: defaultdict[str, KnownFront] = defaultdict(KnownFront)  # by study
        self._clean: set[str] = set()  # studies of which no trial is without a candidate

    @classmethod
    def open(
        cls,
        url: str | None = None,
        *,
        create: bool = True,
        busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
    ) -> Self:
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

    @contextmanager
    def giving_up(self, should_stop: Callable[[], bool]) -> Iterator[None]:
        """Below the `with`, no wait for the database goes on once `should_stop` returns true.

        Whatever waits raises `StoppedError` then. `should_stop` must not ask the database.
        """
        patience = self._database.patience
        before, patience.should_stop = patience.should_stop, should_stop
        try:
            yield
        finally:
            patience.should_stop = before

    def close(self) -> None:
        """Closes all connections."""
        self._optuna.close()
        self._database.close()

    @property
    def url(self) -> str:
        """The database's URL for people to read: passwords are shown as `***`."""
        return masked(self._database.url.render_as_string(hide_password=True))

    @property
    def folder(self) -> AnyPath:
        """Where the files of all studies are; it need not exist."""
        return self._database.folder

    @property
    def may_share_folder(self) -> bool:
        """Whether files of another database may be in that folder, see `Database.may_share_folder`."""
        return self._database.may_share_folder

    def check_folder(self, *, is_for_new: bool) -> None:
        """Returns if the place of all studies' files answers, and can be written if a new study is to have its there.

        Raises:
            StorageError: It does not, or cannot; the message names this machine.
        """
        if is_for_new:
            folders.check_writable(self.folder, may_make=True)
        else:
            folders.check_answers(self.folder)

    def storage_for_optuna(self) -> RDBStorage:
        """Returns Optuna's storage of the same database, on the same connections."""
        return self._optuna.storage

    def at_one_moment(self, read: Callable[[], Result]) -> Result:
        """Returns what `read` returns; all that it asks of this store is as of one moment, and in one transaction.

        Args:
            read: Asks and writes nothing; it may be called again as a whole.
        """
        return self._database.at_one_moment(read)

    def _query(self, name: str, body: Callable[[sa.Connection], Result]) -> Result:
        """Reads something of a study; raises `UsageError` if there is none."""

        def read(connection: sa.Connection) -> Result:
            found = body(connection)
            if not found:
                reading.require_study(connection, name)
            return found

        return self._database.query(read)

    def _beat(self, connection: sa.Connection, name: str) -> None:
        """Gives a sign of life within a transaction that writes."""
        if (lease := self._leases.get(name)) is not None:
            lease.beaten()
            workers.beat(connection, name, lease.worker, lease.seconds)

    def patiently(self, act: Callable[[], Result]) -> Result:
        """Returns what `act` returns; what it reads or writes on remote storage is waited for as the database is.

        Args:
            act: Something that may be done again as a whole.

        Raises:
            StorageError: The storage cannot be used, or was out of reach for too long.
            StoppedError: It was out of reach, and somebody asked to stop.
        """
        return self._patiently(act)

    def _patiently(self, act: Callable[[], Result]) -> Result:
        return self._database.patience.call(act)

    def _optuna_study(self, name: str) -> optuna.Study:
        """Returns Optuna's side of a study, made anew if it is missing and no candidate is ours yet."""

        def read(connection: sa.Connection) -> tuple[tuple[str, ...], tuple[bool, ...], bool]:
            goals = reading.read_goals(connection, name)
            return *goals, not candidate_rows.has_candidates(connection, name)

        objectives, maximise, is_empty = self._database.query(read)
        return self._patiently(
            lambda: self._optuna.study(name, objectives, maximise, create=is_empty)
        )

    def _tell(self, name: str, trials: Sequence[int]) -> None:
        """Tells Optuna how candidates ended; nothing of those that did not yet."""
        if not trials:
            return
        if self._trials.are_known:
            self._database.transact(
                lambda found: self._trials.finish(found, name, tells.read_ends(found, name, trials))
            )
            return
        ends = self._database.query(lambda found: tells.read_ends(found, name, trials))
        study = self._optuna_study(name)
        ids = self._patiently(lambda: self._trials.ids(study, trials))
        for one in ends:
            if one.number not in ids:
                raise self._optuna.lost(name)
            self._patiently(partial(self._trials.tell, study, ids[one.number], one))
