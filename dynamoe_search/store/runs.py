"""Whether the process that works on a study is still alive."""

import os
import platform
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

HEARTBEAT_SECONDS = 10.0
"""A running study says at most this often that it is alive."""
SILENCE_SECONDS = 60.0
"""A process of another machine that was silent for longer counts as dead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Runner:
    """The process that works on a study.

    `mark` tells a process from a later one with the same number; empty where the system does not say.
    """

    host: str
    pid: int
    mark: str


@lru_cache(maxsize=8)
def _runner_of(pid: int) -> Runner:
    return Runner(host=platform.node() or "unknown", pid=pid, mark=_mark(pid) or "")


def this_process() -> Runner:
    """Returns the process that asks."""
    return _runner_of(os.getpid())


def is_alive(runner: Runner, heartbeat_at: str | None) -> bool:
    """Says whether a runner still works, as far as this machine can know.

    Args:
        runner: The process.
        heartbeat_at: When it last said so, as stored.
    """
    here = this_process()
    if runner == here:
        return True
    if runner.host != here.host or sys.platform == "win32":
        return _age_seconds(heartbeat_at) < SILENCE_SECONDS
    mark = _mark(runner.pid)
    if mark is not None:
        return mark == runner.mark or not runner.mark
    try:
        os.kill(runner.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it exists and belongs to someone else
    return not Path("/proc/self/stat").exists()


def _age_seconds(heartbeat_at: str | None) -> float:
    if heartbeat_at is None:
        return float("inf")
    return (datetime.now(UTC) - datetime.fromisoformat(heartbeat_at)).total_seconds()


def _mark(pid: int) -> str | None:
    """Returns boot and start time of a living process on Linux, None elsewhere, for the dead and for zombies."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{_boot()}:{fields[19]}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
