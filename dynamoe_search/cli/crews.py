"""Several worker processes under one command, with one progress."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from dynamoe_search.cli.logs import catch_up
from dynamoe_search.cli.options import LOGS_VARIABLE, STORAGE_VARIABLE
from dynamoe_search.cli.progress import LINE_SECONDS, LiveView, PlainView, watching
from dynamoe_search.cli.teams import Team, Work
from dynamoe_search.cli.words import say
from dynamoe_search.errors import DeviceLostError, DynamoeError, StoppedError, UsageError
from dynamoe_search.search import CrewEnd, Limits, StudySummary, set_limits, started, summarise
from dynamoe_search.store import PassingError, Store, default_url
from dynamoe_search.wording import counted

_LOOK_SECONDS = 1.0


def search(
    store: Store,
    study: str,
    storage: str | None,
    team: Team,
    limits: Limits,
    logs: Sequence[tuple[str, str]],
    *,
    should_stop: Callable[[], bool],
    trust_code: bool,
    quiet: bool,
) -> StudySummary:
    """Runs a stored study by the workers of a team, who are told of as a run of one process is, and returns its end.

    Raises:
        DeviceLostError: No worker ended well, and the device of one failed again and again.
        UsageError: No worker ended well, and all of them because of what they were given.
        DynamoeError: No worker ended well; the message says what they said.
    """
    start = time.monotonic()
    set_limits(store, study, limits)
    handed = {
        STORAGE_VARIABLE: storage or default_url(),
        LOGS_VARIABLE: json.dumps([f"{kind}={place}" for kind, place in logs]),
    }
    catch_up(store, study, logs)
    before = store.times(study)
    with _watching(store, study, quiet) as view:
        work = Work(
            store=store,
            study=study,
            environment=handed,
            arguments=["--trust-code"] if trust_code else [],
            timeout_seconds=limits.timeout_seconds,
            should_stop=should_stop,
            on_news=view.say,
            on_poll=view.poll,
        )
        end = team.run(work)
    catch_up(store, study, logs)  # of workers that were killed
    if end.reason is None:
        raise _error_of(end)
    summary = summarise(store, study, end.reason, time.monotonic() - start)
    times = {what: own - before.get(what, 0.0) for what, own in store.times(study).items()}
    return replace(summary, times=times)


def _error_of(end: CrewEnd) -> DynamoeError:
    """Returns what a crew ends with of which no worker ended well."""
    if DeviceLostError.exit_code in end.codes:
        kind: type[DynamoeError] = DeviceLostError
    elif set(end.codes) == {UsageError.exit_code}:
        kind = UsageError
    else:
        kind = DynamoeError
    return kind("; ".join(end.failures) or "the workers ended without a word")


class _View:
    """Gives a display of one process what the database says of a study that several train."""

    def __init__(self, store: Store, study: str, view: LiveView | PlainView | None) -> None:
        self._store, self._study, self._view = store, study, view
        self._next = 0.0
        self._is_away = False
        if view is not None:
            view(started(store, study))

    def say(self, news: str) -> None:
        """Prints what happened to a worker."""
        say(news, err=True)

    def poll(self, alive: int, waiting: int = 0) -> None:
        """Looks into the database, at most once a second; one that is away for a while is told of once."""
        if self._view is None or time.monotonic() < self._next:
            return
        is_plain = isinstance(self._view, PlainView)
        self._next = time.monotonic() + (LINE_SECONDS if is_plain else _LOOK_SECONDS)
        workers = counted(alive, "worker")
        workers += f" ({waiting} wait for room)" if waiting else ""
        try:
            record, spent = self._store.study(self._study), self._store.spent(self._study)
            front = self._store.front(self._study)
        except StoppedError:  # the crew is about to be told
            return
        except PassingError as error:
            if not self._is_away:
                self.say(f"{error}; the workers wait for it")
            self._is_away = True
            return
        self._is_away = False
        self._view.tally.look(record, spent, front, workers)
        if is_plain:
            say(f"{self._view.tally.line()}, {workers}", err=True)


@contextmanager
def _watching(store: Store, study: str, quiet: bool) -> Iterator[_View]:
    with watching(quiet) as view:
        yield _View(store, study, view if isinstance(view, LiveView | PlainView) else None)
