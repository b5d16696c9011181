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
    device_name,
    duration,
    finite,
    handed_logs,
    log_target,
)
from dynamoe_search.cli.waiting import check_files, opened, waiting_for
from dynamoe_search.cli.words import say, seconds
from dynamoe_search.errors import InputError, StoppedError, UsageError
from dynamoe_search.wording import counted

if TYPE_CHECKING:  # loads Optuna
    from dynamoe_search.store import Store

_WAIT_SECONDS = 2.0
_MOST_WORKERS = 1024  # of one command, on a cluster
_MOST_HERE, _MOST_PER_CORE = 16, 4  # of this machine: a slip of the finger would bring it to a halt


def device_names(text: str | None) -> str | None:
    """Returns the text if it names devices.

    Raises:
        DeviceError: It names something else.
        UsageError: `auto`, which is all of them, stands beside others.
    """
    names = [device_name(name.strip()) for name in (text or "auto").split(",")]
    if "auto" in names and len(names) > 1:
        raise UsageError(f"--devices auto takes every device, so it stands alone, got {text}")
    return text


Number = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        max=_MOST_WORKERS,
        help="Train with this many processes. Default: one per device, or no more than this one.",
        show_default=False,
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(
        "--devices",
        metavar="DEVICES",
        help="The workers' devices: auto (all CUDA devices, else the CPU), or a list such as cuda:0,cuda:1 with one "
        "worker each; with more --workers they take them in turn.",
        show_default=False,
        callback=device_names,
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
        callback=finite,
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

    def on(self, device: str) -> "AskedTeam":
        """Returns the team for a new study on a device.

        Raises:
            UsageError: Its workers were given others.
        """
        if device == "auto" or self.engine == "ray":
            return self
        if self.devices is not None:
            raise UsageError(
                f"--device {device} and --devices {self.devices} are both given; name the workers' devices with "
                "--devices alone"
            )
        return self if self.workers is None else self._replace(devices=device)

    def check(self, *, quiet: bool = False) -> None:
        """Returns if the options go together, and somebody answers at the address of the cluster; loads no torch.

        Raises:
            UsageError: They do not, or nobody does.
        """
        if self.engine == "ray":
            self._check_ray(quiet)
            return
        if self.ray_address is not None or self.gpus_per_worker is not None:
            raise UsageError("--ray-address and --gpus-per-worker need --engine ray")
        self._check_number()
        if self.devices in (None, "auto"):
            return
        names = [name.strip() for name in str(self.devices).split(",")]
        if "cpu" in names and set(names) != {"cpu"}:
            raise UsageError(
                f"--devices {self.devices} has the CPU beside CUDA devices, and a study is trained on one kind of them"
            )
        num_devices = len(names)
        if self.workers is not None and self.workers < num_devices:
            raise UsageError(
                f"--workers {self.workers} is too few for {num_devices} devices; name fewer devices, or ask for "
                "more workers"
            )

    def _check_number(self) -> None:
        cores = os.cpu_count() or 1
        most = max(_MOST_HERE, _MOST_PER_CORE * cores)
        if max(self.workers or 1, len((self.devices or "").split(","))) > most:
            raise UsageError(
                f"more than {most} workers are too many for this machine, which has {counted(cores, 'CPU core')}; "
                "ask for fewer, or start some on other machines with the command worker"
            )

    def _check_ray(self, quiet: bool) -> None:
        from dynamoe_search.clusters.addresses import AUTO, check_reachable, require_ray

        if self.devices is not None:
            raise UsageError(
                "--devices is for this machine; with --engine ray use --gpus-per-worker"
            )
        require_ray()
        address = self.ray_address or AUTO
        with waiting_for(f"the Ray cluster at {address}", quiet=quiet):
            check_reachable(address)

    @property
    def has_files_here(self) -> bool:
        """Whether this machine is one of those that must reach the study's files."""
        from dynamoe_search.clusters.addresses import AUTO, is_of_a_node

        return self.engine == "local" or is_of_a_node(self.ray_address or AUTO)


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

    try:
        with (
            stop_on_signals("the study goes on where the last checkpoint is") as flag,
            _store_of(study, storage, wait, flag, quiet=quiet or as_json) as store,
        ):
            check_files(store, is_for_new=False, quiet=quiet or as_json)

            from dynamoe_search.cli.logs import logging_to
            from dynamoe_search.cli.progress import watching
            from dynamoe_search.search import Limits, run_study

            with (
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
        raise StoppedError(f"{study}: {error}", exit_code=flag.exit_code) from None
    if as_json:
        typer.echo(json.dumps({"reason": summary.reason, "seconds": summary.seconds}))
    else:
        say(f"{study}: this worker ends ({summary.reason}) after {seconds(summary.seconds)}")
    if summary.reason in ("interrupt", "stop"):
        raise typer.Exit(flag.exit_code)


@contextmanager
def _store_of(
    study: str,
    storage: str | None,
    wait: float | None,
    should_stop: Callable[[], bool],
    *,
    quiet: bool,
) -> Iterator["Store"]:
    """Yields the open database once the study is in it."""
    deadline = time.monotonic() + (wait or 0.0)
    with ExitStack() as found:
        with waiting_for(f"the study {study!r} to be there", quiet=quiet or not wait):
            while True:
                try:
                    with ExitStack() as tried:
                        store = tried.enter_context(
                            opened(storage, create=False, quiet=quiet or bool(wait))
                        )
                        store.study(study)
                        found.push(tried.pop_all())
                    break
                except InputError:
                    if should_stop() or time.monotonic() > deadline:
                        raise
                time.sleep(_WAIT_SECONDS)
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
