"""Commands and options for several processes and several databases: worker, copy, --workers, --devices."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from dynamoe_search.cli.options import (
    AsJson,
    Logs,
    Quiet,
    Storage,
    Study,
    Timeout,
    TrustCode,
    duration,
    handed_logs,
    log_target,
)
from dynamoe_search.cli.words import say, seconds
from dynamoe_search.errors import InputError, StoppedError

if TYPE_CHECKING:  # loads Optuna
    from dynamoe_search.store import Store

_WAIT_SECONDS = 2.0

Number = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Train with this many processes. Default: one per device, or no more than this one.",
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
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option("--engine", help="Where the workers are: on this machine, or on a Ray cluster."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="ADDRESS",
        help="The Ray cluster: auto (that of this machine), HOST:PORT, ray://HOST:PORT, or local (this machine, "
        "for this run). Default: auto.",
        show_default=False,
    ),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-worker",
        min=0.0,
        max=1.0,
        help="What Ray sets aside for a worker, e.g. 0.5. Default: 1, or 0 for a study on the CPU.",
        show_default=False,
    ),
]


class AskedTeam(NamedTuple):
    """What the options say about the workers of a study."""

    engine: Literal["local", "ray"]
    workers: int | None
    devices: str | None
    ray_address: str | None
    gpus_per_worker: float | None


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
    handed = [] if parent is None else handed_logs(os.environ)
    targets = [log_target(text) for text in [*(logs or ()), *handed]]

    from dynamoe_search.cli.interrupts import stop_on_signals
    from dynamoe_search.cli.logs import logging_to
    from dynamoe_search.cli.progress import watching
    from dynamoe_search.search import Limits, run_study

    try:
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
                has_own_device=parent is not None,
            )
    except StoppedError as error:
        say(f"{study}: {error}", err=True)
        raise typer.Exit(1) from None
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
