"""Several worker processes under one command, and the command that each of them is."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from dynamoe_search.cli import screens
from dynamoe_search.cli.options import (
    STORAGE_VARIABLE,
    AsJson,
    Logs,
    Quiet,
    Storage,
    Study,
    Timeout,
    TrustCode,
    duration,
    log_target,
)
from dynamoe_search.cli.words import printable, say, seconds
from dynamoe_search.errors import InputError, UsageError

if TYPE_CHECKING:  # these load torch or Optuna
    from dynamoe_search.search import Limits, StudySummary
    from dynamoe_search.store import Store

_LINE_SECONDS = 10.0
_WAIT_SECONDS = 2.0

Number = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Train with this many processes on this machine. Default: one per device, or no more than this one.",
        show_default=False,
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(
        "--devices",
        metavar="DEVICES",
        help="The workers' devices: auto (all CUDA devices), or a list such as cuda:0,cuda:1.",
        show_default=False,
    ),
]


def worker(
    study: Study,
    timeout: Timeout = None,
    wait: Annotated[
        float | None,
        typer.Option(
            "--wait",
            metavar="TIME",
            parser=duration,
            help="Wait this long for the study to be there, e.g. 10m, if another machine is to start it.",
            show_default=False,
        ),
    ] = None,
    parent: Annotated[int | None, typer.Option("--parent", hidden=True)] = None,
    trust_code: TrustCode = False,
    storage: Storage = None,
    logs: Logs = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Work on a study that another process started, from any machine that reaches its database and files.

    Ends when nothing is left to do, on Ctrl-C or SIGTERM (with a checkpoint), or with the command stop.
    """
    targets = [log_target(text) for text in logs or ()]

    from dynamoe_search.cli.interrupts import stop_on_signals
    from dynamoe_search.cli.logs import logging_to
    from dynamoe_search.cli.progress import watching
    from dynamoe_search.search import Limits, run_study

    with (
        stop_on_signals("the study goes on where the last checkpoint is") as flag,
        _store_of(study, storage, wait, flag) as store,
        watching(quiet or as_json) as view,
        logging_to(store, study, targets, view, catch_up=parent is None) as on_event,
    ):
        summary = run_study(
            store,
            study,
            limits=Limits(timeout_seconds=timeout),
            on_event=on_event,
            should_stop=lambda: flag() or (parent is not None and os.getppid() != parent),
            trust_code=trust_code,
        )
    if as_json:
        typer.echo(json.dumps({"reason": summary.reason, "seconds": summary.seconds}))
    else:
        say(f"{study}: this worker ends ({summary.reason}) after {seconds(summary.seconds)}")
    if summary.reason in ("interrupt", "stop"):
        raise typer.Exit(1)


@contextmanager
def _store_of(
    study: str, storage: str | None, wait: float | None, should_stop: Callable[[], bool]
) -> Iterator["Store"]:
    """Yields the open database once the study is in it."""
    from dynamoe_search.store import Store

    deadline = time.monotonic() + (wait or 0.0)
    while True:
        try:
            with ExitStack() as opened:
                store = opened.enter_context(Store.open(storage, create=False))
                store.study(study)
                found = opened.pop_all()
            break
        except InputError:
            if should_stop() or time.monotonic() > deadline:
                raise
        time.sleep(_WAIT_SECONDS)
    with found:
        yield store


def search(
    store: "Store",
    study: str,
    storage: str | None,
    devices: Sequence[str],
    limits: "Limits",
    logs: Sequence[tuple[str, str]],
    *,
    should_stop: Callable[[], bool],
    trust_code: bool,
    quiet: bool,
) -> "StudySummary":
    """Runs a stored study with one process per device and returns where it stands then.

    Raises:
        UsageError: No worker ended well; the message says what they said.
    """
    from dynamoe_search.cli.logs import catch_up
    from dynamoe_search.search import Crew, set_limits, summarise
    from dynamoe_search.store import default_url

    start = time.monotonic()
    set_limits(store, study, limits)
    arguments = ["--trust-code"] if trust_code else []
    if limits.timeout_seconds is not None:
        arguments += ["--timeout", str(limits.timeout_seconds)]
    for kind, place in logs:
        arguments += ["--log", f"{kind}={place}"]
    catch_up(store, study, logs)
    with _watching(store, study, quiet) as view:
        crew = Crew(
            study,
            devices,
            logs=store.files_of(study) / "logs",
            environment=os.environ | {STORAGE_VARIABLE: storage or default_url()},
            arguments=arguments,
            on_news=view.say,
        )
        end = crew.run(should_stop, view.poll)
    catch_up(store, study, logs)  # of workers that were killed
    if end.reason is None:
        raise UsageError("; ".join(end.failures) or "the workers ended without a word")
    return summarise(store, study, end.reason, time.monotonic() - start)


class _View:
    """What the database says of a study, as a line every now and then, or kept up to date on a terminal."""

    def __init__(self, store: "Store", study: str, *, is_live: bool, is_quiet: bool) -> None:
        self._store, self._study = store, study
        self._is_live, self._is_quiet = is_live, is_quiet
        self._next = 0.0
        self._line = "starting"
        self._done = 0.0

    def say(self, news: str) -> None:
        """Prints what happened to a worker."""
        say(news, err=True)

    def poll(self, alive: int) -> None:
        """Looks into the database, at most once a second."""
        if self._is_quiet or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + (1.0 if self._is_live else _LINE_SECONDS)
        record = self._store.study(self._study)
        finished = record.num_complete + record.num_failed + record.num_stopped
        self._done = (finished + record.num_paused) / max(1, record.trials)
        self._line = (
            f"{finished}/{record.trials} trials done, {record.num_failed} failed, {record.num_paused} paused, "
            f"{record.num_front} on the front, {alive} workers"
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
def _watching(store: "Store", study: str, quiet: bool) -> Iterator[_View]:
    is_live = sys.stderr.isatty() and not quiet
    view = _View(store, study, is_live=is_live, is_quiet=quiet)
    if not is_live:
        yield view
        return
    with Live(view, console=screens.console(to_stderr=True), transient=True):
        yield view


def copy(
    study: Study,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="URL",
            help="The other database, e.g. postgresql+psycopg://user@host/studies or sqlite:///FILE.",
            show_default=False,
        ),
    ],
    storage: Storage = None,
) -> None:
    """Copy a study with everything that belongs to it to another database, where resume goes on with it."""
    from dynamoe_search.store import Store

    with Store.open(storage, create=False) as source:
        source.study(study)
        with Store.open(to) as target:
            names = source.copy_study(study, target)
            where = target.url
    say(f"copied {', '.join(names)} to {where}")


COMMANDS = {"worker": worker, "copy": copy}
