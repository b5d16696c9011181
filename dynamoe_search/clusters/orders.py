"""What the program and the process that speaks to Ray say to each other: one JSON object per line."""

import json
from dataclasses import dataclass, field
from typing import IO, Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """What a Ray cluster has.

    Attributes:
        nodes: Machines that are alive.
        cpus: CPUs of all of them, as Ray counts them.
        gpus: GPUs of all of them.
        is_ours: Whether it was started for this run, on this machine.
        is_near: Whether this machine is one of its nodes.
    """

    nodes: int
    cpus: float
    gpus: float
    is_ours: bool
    is_near: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """Which workers are wanted.

    Attributes:
        study: Name of the study, for people who look at Ray's lists.
        arguments: Of this program, for each worker.
        environment: What the workers get beside the environment of their node; may hold passwords.
        folder: Where they run, on nodes that have it.
        workers: How many; None is one per GPU or part of one, as nodes come and go.
        cpus, gpus: What Ray sets aside for each.
        stays_here: Whether all of them must be on this machine.
        timeout_seconds: How long they may work, counted from now; None for no limit.
    """

    study: str
    arguments: list[str]
    environment: dict[str, str] = field(repr=False)
    folder: str
    workers: int | None
    cpus: float
    gpus: float
    stays_here: bool
    timeout_seconds: float | None


def send(stream: IO[str], kind: str, **values: Any) -> None:
    """Writes one message."""
    stream.write(json.dumps({"kind": kind, **values}) + "\n")
    stream.flush()


def told(line: str) -> tuple[str, dict[str, Any]]:
    """Returns kind and values of a message."""
    values = dict(json.loads(line))
    return str(values.pop("kind")), values
