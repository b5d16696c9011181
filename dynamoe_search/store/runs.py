"""Whether a process that works on a study is still alive. No clock that can be set is asked.

A process of this machine is looked up by its number and the moment that it started. Of another machine we see the
count of its signs of life: if that stands still for `SILENCE_SECONDS` of our own time, the process counts as dead.
"""

import hashlib
import os
import platform
import sys
import time
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dynamoe_search.records import Worker

HEARTBEAT_SECONDS = 10.0
"""A worker gives at most this often a sign of life."""
SILENCE_SECONDS = 60.0
"""A process of another machine that was silent for longer counts as dead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Runner:
    """A process.

    `mark` is `machine:boot:namespace:start`: it tells the process from a later one with the same number, also in
    another container of the machine; empty where the system does not say.
    """

    host: str
    pid: int
    mark: str


@lru_cache(maxsize=8)
def _runner_of(pid: int) -> Runner:
    start = started(pid)
    mark = "" if start is None else f"{_machine()}:{boot()}:{_namespace()}:{start}"
    return Runner(host=platform.node() or "unknown", pid=pid, mark=mark)


def this_process() -> Runner:
    """Returns the process that asks."""
    return _runner_of(os.getpid())


def runner_of(worker: Worker) -> Runner:
    """Returns the process of a worker."""
    return Runner(host=worker.host, pid=worker.pid, mark=worker.mark)


_held: set[str] = set()
"""Ids of this process as a worker, by all of its open databases."""


def is_given_up(worker: str, runner: Runner) -> bool:
    """Says whether a lease is one of this process that it no longer holds: it could not say so when it left."""
    return runner == this_process() and worker not in _held


class Lease:
    """What a process remembers of its work on a study, from now on until `end`.

    Args:
        worker: Its id.
        stop_serial: How often the study had been asked to stop when it began.
    """

    def __init__(self, worker: str, stop_serial: int) -> None:
        self.worker, self.stop_serial = worker, stop_serial
        self._pid = os.getpid()
        self._began = self._beaten_at = time.monotonic()
        _held.add(worker)

    @property
    def seconds(self) -> float:
        """Wall time since the process joined."""
        return time.monotonic() - self._began

    def is_due(self) -> bool:
        """Says whether it is time for a sign of life."""
        return time.monotonic() >= self._beaten_at + HEARTBEAT_SECONDS

    def beaten(self) -> None:
        """Notes a sign of life."""
        self._beaten_at = time.monotonic()

    def end(self) -> None:
        """Gives it up, also if the database does not know that yet."""
        _held.discard(self.worker)

    def is_of_this_process(self) -> bool:
        """Says whether this is the process that joined, and no copy of it."""
        return os.getpid() == self._pid


@dataclass(kw_only=True, slots=True)
class _Heard:
    beats: int
    at: float
    silent_seconds: float = 0.0


class Watcher:
    """Judges who is alive, with a memory of what was heard of the processes of other machines.

    Args:
        silence_seconds: How long a process of another machine must be silent to count as dead. Of the time between
            two looks at most a sixth of that counts, so that a database that was out of reach for a while, for
            everybody, kills nobody.
    """

    def __init__(self, silence_seconds: float = SILENCE_SECONDS) -> None:
        self.silence_seconds = silence_seconds
        self._heard: dict[Hashable, _Heard] = {}

    def is_alive(self, key: Hashable, runner: Runner, beats: int) -> bool:
        """Says whether a process still works, as far as can be known; in doubt it does.

        Args:
            key: Tells the worker from all others.
            runner: Its process.
            beats: Its count of signs of life, as stored.
        """
        found = lives_here(runner)
        return self._is_heard(key, beats) if found is None else found

    def _is_heard(self, key: Hashable, beats: int) -> bool:
        now = time.monotonic()
        heard = self._heard.get(key)
        if heard is None or heard.beats != beats:
            self._heard[key] = _Heard(beats=beats, at=now)
            return True
        heard.silent_seconds += min(now - heard.at, self.silence_seconds / 6)
        heard.at = now
        return heard.silent_seconds < self.silence_seconds


def lives_here(runner: Runner) -> bool | None:
    """Says whether a process of this machine is alive; None if it is of another machine or container."""
    here = this_process()
    if runner == here:
        return True
    if runner.host != here.host or sys.platform == "win32":
        return None
    if runner.mark and here.mark:
        return _is_marked(runner, here)
    try:
        os.kill(runner.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it exists and belongs to someone else
    return True


def _is_marked(runner: Runner, here: Runner) -> bool | None:
    machine, booted, namespace, start = runner.mark.split(":")
    own_machine, own_boot, own_namespace, _ = here.mark.split(":")
    if booted != own_boot and machine == own_machine and machine:
        return False  # this machine was started anew since
    if (machine, booted, namespace) != (own_machine, own_boot, own_namespace):
        return None
    return started(runner.pid) == start


def started(pid: int) -> str | None:
    """Returns when a living process started, on Linux; None elsewhere, for the dead and for zombies."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def boot() -> str:
    """Returns a name of the time since the machine was started; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _machine() -> str:
    try:
        name = Path("/etc/machine-id").read_bytes().strip()
    except OSError:
        return ""
    return hashlib.sha256(name).hexdigest()[:12] if name else ""


def _namespace() -> str:
    """Returns which numbering of processes this is: containers have their own."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return ""
