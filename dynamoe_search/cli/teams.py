"""Who works on a study beside this process: workers of this machine, or on the machines of a Ray cluster."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from dynamoe_search.cli.crew import AskedTeam
from dynamoe_search.cli.options import FILES_VARIABLE, LOGS_VARIABLE, STORAGE_VARIABLE
from dynamoe_search.cli.waiting import waiting_for
from dynamoe_search.clusters.addresses import AUTO, OWN
from dynamoe_search.clusters.orders import Order
from dynamoe_search.credentials import needed_by
from dynamoe_search.errors import UsageError
from dynamoe_search.search import (
    Crew,
    CrewEnd,
    RayCluster,
    devices_of,
    ray_cluster,
    stored_device,
    threads_of_each,
)
from dynamoe_search.store import Store

_HIDDEN = (STORAGE_VARIABLE, LOGS_VARIABLE, FILES_VARIABLE, "PGPASSWORD")
_HANDED = ("DYNAMOE_SEARCH_", "PG", "PYTHONPATH")


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What workers are to do.

    Attributes:
        store: The open database.
        study: Name of the study in it.
        environment: What the workers get beside the environment; may hold passwords.
        arguments: Further options of the command `worker`.
        timeout_seconds: How long they may work.
        should_stop: Asked twice a second; the workers then write a checkpoint and leave.
        on_news: Told in one sentence what happened to a worker.
        on_poll: Told twice a second how many are at work, and how many wait for room.
    """

    store: Store
    study: str
    environment: Mapping[str, str] = field(repr=False)
    arguments: Sequence[str]
    timeout_seconds: float | None
    should_stop: Callable[[], bool]
    on_news: Callable[[str], None]
    on_poll: Callable[[int, int], None]


class Team(Protocol):
    """Workers that can be put to work on a study."""

    @property
    def is_near(self) -> bool:
        """Whether they work on this machine."""

    def device(self, asked: str) -> str:
        """Returns the device that a new study stores, given what the user asked for."""

    def threads(self) -> int | None:
        """Returns how many CPU threads each worker of a new study has; None for as many as torch would use."""

    def run(self, work: Work) -> CrewEnd:
        """Returns when all workers have ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NearTeam:
    """Processes of this machine.

    Attributes:
        devices: One per worker.
        is_near: Whether they work on this machine.
    """

    devices: Sequence[str]
    is_near: bool = True

    def device(self, asked: str) -> str:
        """Returns the device that a new study stores."""
        return stored_device(self.devices)

    def threads(self) -> int | None:
        """Returns how many CPU threads each worker of a new study has."""
        return threads_of_each(self.devices)

    def run(self, work: Work) -> CrewEnd:
        """Returns when all workers have ended."""
        crew = Crew(
            work.study,
            self.devices,
            logs=work.store.logs_of(work.study),
            environment=os.environ | dict(work.environment),
            arguments=work.arguments,
            timeout_seconds=work.timeout_seconds,
            on_news=work.on_news,
        )
        return crew.run(work.should_stop, lambda alive: work.on_poll(alive, 0))


@dataclass(frozen=True, kw_only=True, slots=True)
class RayTeam:
    """Processes on the machines of a Ray cluster.

    Attributes:
        cluster: The connection to it.
        workers: How many; None is one per GPU, or part of one.
        gpus: Of each worker; None is one for a study on GPUs, and none for one on the CPU.
        is_on_sqlite: Whether the database is a file of this machine.
        is_near: Whether they work on this machine.
    """

    cluster: RayCluster
    workers: int | None
    gpus: float | None
    is_on_sqlite: bool
    is_near: bool = False

    def device(self, asked: str) -> str:
        """Returns the device that a new study stores: the first that a worker sees, which is its own."""
        if asked == "auto":
            has_gpus = bool(self.cluster.has.gpus) if self.gpus is None else self.gpus > 0
            device = "cuda:0" if has_gpus else "cpu"
        else:
            device = {"cpu": "cpu", "cuda": "cuda:0"}.get(asked.partition(":")[0], "")
        if not device:
            raise UsageError(f"--device {asked!r} is none that Ray hands out; use cpu or cuda")
        self._gpus_for(device)
        return device

    def threads(self) -> int | None:
        """Returns how many CPU threads each worker of a new study has: one, or a GPU's share of the CPUs."""
        has = self.cluster.has
        return max(1, int(has.cpus / has.gpus)) if has.gpus and self.gpus != 0 else 1

    def run(self, work: Work) -> CrewEnd:
        """Returns when all workers have ended.

        Raises:
            UsageError: The options do not fit the study or the cluster.
        """
        settings = work.store.study(work.study).settings
        gpus = self._gpus_for(settings.device)
        order = Order(
            study=work.study,
            arguments=list(work.arguments),
            environment=_handed() | dict(work.environment),
            folder=str(Path.cwd()),
            workers=self.workers,
            cpus=1.0 if gpus else float(settings.num_threads),
            gpus=gpus,
            stays_here=self.is_on_sqlite,
            timeout_seconds=work.timeout_seconds,
        )
        bury = partial(work.store.bury, work.study)
        return self.cluster.run(order, work.should_stop, work.on_poll, work.on_news, bury)

    def _gpus_for(self, device: str) -> float:
        """Returns how many GPUs each worker of a study takes, after a look at all that must fit.

        Raises:
            UsageError: The options do not fit the study's device, or the database the cluster.
        """
        is_on_gpu = device.startswith("cuda")
        gpus = float(is_on_gpu) if self.gpus is None else self.gpus
        if is_on_gpu != (gpus > 0):
            raise UsageError(f"--gpus-per-worker {gpus:g} does not fit a study on {device}")
        if self.workers is None and not gpus:
            raise UsageError("without GPUs, say with --workers how many workers Ray is to place")
        has = self.cluster.has
        if self.is_on_sqlite and (has.nodes > 1 or not has.is_near):
            nodes = f"{has.nodes} nodes" if has.nodes > 1 else "its node on another machine"
            raise UsageError(
                f"the Ray cluster has {nodes}, which cannot share a SQLite file; name a PostgreSQL "
                "database with --storage (`copy STUDY --to URL` moves a study)"
            )
        return gpus


def _handed() -> dict[str, str]:
    """Returns what of this process's environment the workers need on other machines; it may hold passwords."""
    ours = {name: value for name, value in os.environ.items() if name.startswith(_HANDED)}
    return ours | _of_files()


def _of_files() -> dict[str, str]:
    """Returns the credentials of the storage where the files are."""
    return needed_by(os.environ.get(FILES_VARIABLE, ""), os.environ)


@contextmanager
def assembled(store: Store, asked: AskedTeam, *, quiet: bool = False) -> Iterator[Team | None]:
    """Yields who is to do the work; None if this process is to do it itself.

    Args:
        store: The open database.
        asked: What the options say, checked.
        quiet: Whether to say nothing of waiting for Ray.

    Raises:
        UsageError: The Ray cluster cannot be used.
        DeviceError: A device is not here.
    """
    engine, workers, devices, ray_address, gpus = asked
    if engine == "local":
        is_alone = workers is None and devices is None
        yield None if is_alone else NearTeam(devices=devices_of(devices, workers))
        return
    address = ray_address or AUTO
    what = "Ray to start" if address == OWN else f"the Ray cluster at {address}"
    with ExitStack() as stack:
        with waiting_for(what, quiet=quiet):
            cluster = stack.enter_context(ray_cluster(address, hidden=(*_HIDDEN, *_of_files())))
        is_on_sqlite = store.url.startswith("sqlite")
        yield RayTeam(cluster=cluster, workers=workers, gpus=gpus, is_on_sqlite=is_on_sqlite)
