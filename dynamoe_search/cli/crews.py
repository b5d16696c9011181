"""Several worker processes under one command, with one progress."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from dynamoe_search.cli import screens
from dynamoe_search.cli.logs import catch_up
from dynamoe_search.cli.options import LOGS_VARIABLE, STORAGE_VARIABLE
from dynamoe_search.cli.teams import Team, Work
from dynamoe_search.cli.words import printable, say
from dynamoe_search.errors import StoppedError, UsageError
from dynamoe_search.search import Limits, StudySummary, set_limits, summarise
from dynamoe_search.store import PassingError, Store, default_url

_LINE_SECONDS = 10.0


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
    """Runs a stored study by the workers of a team and returns where it stands then.

    Raises:
        UsageError: No worker ended well; the message says what they said.
    """
    start = time.monotonic()
    set_limits(store, study, limits)
    handed = {
        STORAGE_VARIABLE: storage or default_url(),
        LOGS_VARIABLE: json.dumps([f"{kind}={place}" for kind, place in logs]),
    }
    catch_up(store, study, logs)
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
        raise UsageError("; ".join(end.failures) or "the workers ended without a word")
    return summarise(store, study, end.reason, time.monotonic() - start)


class _View:
    """What the database says of a study, as a line every now and then, or kept up to date on a terminal."""

    def __init__(self, store: Store, study: str, *, is_live: bool, is_quiet: bool) -> None:
        self._store, self._study = store, study
        self._is_live, self._is_quiet = is_live, is_quiet
        self._next = 0.0
        self._line = "starting"
        self._done = 0.0
        self._is_away = False

    def say(self, news: str) -> None:
        """Prints what happened to a worker."""
        say(news, err=True)

    def poll(self, alive: int, waiting: int = 0) -> None:
        """Looks into the database, at most once a second; one that is away for a while is told of once."""
        if self._is_quiet or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + (1.0 if self._is_live else _LINE_SECONDS)
        try:
            record = self._store.study(self._study)
        except StoppedError:  # the crew is about to be told
            return
        except PassingError as error:
            if not self._is_away:
                self.say(f"{error}; the workers wait for it")
            self._is_away = True
            return
        self._is_away = False
        finished = record.num_complete + record.num_failed + record.num_stopped
        self._done = (finished + record.num_paused) / max(1, record.trials)
        self._line = (
            f"{finished}/{record.trials} trials done, {record.num_failed} failed, {record.num_paused} paused, "
            f"{record.num_front} on the front, {alive} workers"
            + (f" ({waiting} wait for room)" if waiting else "")
        )
        if not self._is_live:
            say(self._line, err=True)

    def __rich__(self) -> RenderableType:
        """Returns the display; rich asks for it several times a second."""
        return Group(
            Text(printable(self._study), "bold"),
            ProgressBar(total=1.0, completed=min(1.0, self._done), width=60),
            Text(self._line),
        )


@contextmanager
def _watching(store: Store, study: str, quiet: bool) -> Iterator[_View]:
    is_live = sys.stderr.isatty() and not quiet
    view = _View(store, study, is_live=is_live, is_quiet=quiet)
    if not is_live:
        yield view
        return
    with Live(view, console=screens.console(to_stderr=True), transient=True):
        yield view
