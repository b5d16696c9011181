"""What ends a run: limits in trials and epochs, a time limit, and people who ask for it."""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from dynamoe_search.errors import StoppedError, UsageError
from dynamoe_search.records import StudyRecord
from dynamoe_search.search.events import EndReason
from dynamoe_search.store import Store
from dynamoe_search.wording import counted

_STOP_POLL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How far a run goes; whichever limit is reached first ends it.

    Attributes:
        trials: Candidates of the study, earlier runs included; None keeps what the study asks for.
        timeout_seconds: Wall time of this run.
        epochs: Candidate-epochs of the study, earlier runs included; the last legs are cut so that
            it is met exactly. None keeps the study's budget, if it has one.
        study_seconds: Wall time of the study, earlier runs and other workers included. None keeps
            the study's budget, if it has one.
    """

    trials: int | None = None
    timeout_seconds: float | None = None
    epochs: int | None = None
    study_seconds: float | None = None


def check_limits(store: Store, name: str, limits: Limits) -> None:
    """Raises `UsageError` if a study is asked for less than it has done already, or for what it cannot do."""
    record = store.study(name)
    if record.purpose != "search":
        _check_designed(record, limits)
    num_finished = record.num_complete + record.num_failed + record.num_stopped
    if limits.trials is not None and limits.trials < num_finished:
        raise UsageError(
            f"the study {name!r} has {counted(num_finished, 'finished trial')} already, "
            f"which is more than {limits.trials}; ask for {num_finished} or more"
        )
    epochs = store.spent(name).epochs
    if limits.epochs is not None and limits.epochs < epochs:
        raise UsageError(
            f"the study {name!r} has trained {counted(epochs, 'epoch')} already, which is more than {limits.epochs:,}; "
            f"allow {epochs:,} or more"
        )
    seconds, budget = record.seconds_spent, limits.study_seconds
    if budget is not None and budget < seconds and budget != record.max_seconds:
        raise UsageError(
            f"the study {name!r} has taken {seconds:.0f} s already, which is more than {budget:.0f} s; "
            f"allow {math.ceil(seconds)} s or more"
        )


def _check_designed(record: StudyRecord, limits: Limits) -> None:
    """A designed study has its candidates from the start, and no space to propose others from."""
    if limits.trials not in (None, record.trials):
        raise UsageError(
            f"the study {record.name!r} was made by {record.purpose} and has its {counted(record.trials, 'trial')}; "
            f"for more, call {record.purpose} on {record.parent!r} again"
        )
    known = (record.num_complete, record.num_failed, record.num_stopped)
    if sum(known) + record.num_running + record.num_paused < record.trials:
        raise UsageError(
            f"the study {record.name!r} was not made to its end; call {record.purpose} on "
            f"{record.parent!r} again, with the same options"
        )


def set_limits(store: Store, name: str, limits: Limits) -> None:
    """Stores with a study how far it shall go, for all who work on it.

    Raises:
        UsageError: That is less than it has done already.
    """
    check_limits(store, name, limits)
    if limits.trials is not None:
        store.set_trials(name, limits.trials)
    if limits.epochs is not None:
        store.set_max_epochs(name, limits.epochs)
    if limits.study_seconds is not None:
        store.set_time_budget(name, limits.study_seconds)


class Stopper:
    """Asks everybody who may end a run, and remembers who did.

    The database is asked at most once a second, since this is called after every training step.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        timeout_seconds: float | None,
        should_stop: Callable[[], bool],
    ) -> None:
        self.reason: EndReason | None = None
        self._store, self._name = store, name
        self._should_stop = should_stop
        self._start = time.monotonic()
        self._timeout_seconds = timeout_seconds
        self._study_seconds = float("inf")  # when the study's time is up, by this run's clock
        self._poll_at = self._start

    @property
    def seconds(self) -> float:
        """Wall time since the run began."""
        return time.monotonic() - self._start

    def asks_now(self) -> bool:
        """Tells whether to stop, with a look into the database."""
        self._poll_at = time.monotonic()
        return self()

    def __call__(self) -> bool:
        """Tells whether to stop; cheap enough to be asked after every training step."""
        if not self.asks_here() and time.monotonic() >= self._poll_at:
            with suppress(StoppedError):  # it was waited for in vain, until `asks_here` said so
                self.reason = self._reason_there()
        return self.reason is not None

    def asks_here(self) -> bool:
        """Tells whether to stop, without a look into the database."""
        if self.reason is not None:
            return True
        if self._should_stop():
            self.reason = "interrupt"
        elif self._timeout_seconds is not None and self.seconds >= self._timeout_seconds:
            self.reason = "timeout"
        elif self.seconds >= self._study_seconds:
            self.reason = "time-budget"
        return self.reason is not None

    def _reason_there(self) -> EndReason | None:
        self._poll_at = time.monotonic() + _STOP_POLL_SECONDS
        is_asked, self._study_seconds = self._store.orders(self._name)
        if self.seconds >= self._study_seconds:
            return "time-budget"
        return "stop" if is_asked else None
