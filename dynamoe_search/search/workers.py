"""Several processes of this machine that work on one study, each with a device of its own.

A worker is the program itself (`dynamoe-search worker STUDY`), so what holds for several `resume`s of one study holds
here too: they share the work through the database, and a dead one's candidates are taken over. This module only starts
them, starts those again that were killed or lost their device, and ends them all.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from dynamoe_search.credentials import Mask, secrets_in
from dynamoe_search.errors import DeviceLostError
from dynamoe_search.search.events import EndReason
from dynamoe_search.search.machine import default_threads, resolve_device

MOST_RESTARTS = 3
"""How often a worker that was killed, or whose device failed, is started again."""
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 60.0
_END_SECONDS = 20.0  # if this process fails, which is no reason to lose what the workers did since their checkpoints
_LEAST_SECONDS = 1.0
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def devices_of(text: str | None, number: int | None) -> list[str]:
    """Returns the device of every worker.

    Args:
        text: `auto` (every CUDA device, else the CPU) or devices such as `cuda:0,cuda:1`; None is `auto` if there are
            CUDA devices, else `cpu`.
        number: How many workers; None is one per device. They take the devices in turn.

    Raises:
        DeviceError: A device is not here.
    """
    if text is None or text == "auto":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        found = [f"cuda:{index}" for index in range(count)] or ["cpu"]
    else:
        found = [resolve_device(name.strip()) for name in text.split(",")]
    if number is None:
        return found
    return [found[index % len(found)] for index in range(number)]


def stored_device(devices: Sequence[str]) -> str:
    """Returns the device that a study of these workers stores: each sees its own one only, which is then the first."""
    return "cuda:0" if devices[0].startswith("cuda") else devices[0]


def seeing(environment: Mapping[str, str], device: str) -> dict[str, str]:
    """Returns the environment of a worker in which its own CUDA device is the only one.

    Args:
        environment: Of this process; if it sees some CUDA devices only, the device is counted among those.
        device: `cpu` or `cuda:N`.
    """
    own = dict(environment)
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        visible = [one.strip() for one in own.get(_VISIBLE, "").split(",") if one.strip()]
        own[_VISIBLE] = visible[index] if visible else str(index)
    return own


def threads_of_each(devices: Sequence[str]) -> int:
    """Returns how many CPU threads each worker may have so that together they use those that torch would use."""
    return max(1, default_threads() // len(devices))


def _may_go_on(code: int) -> bool:
    """Tells whether another process can go on where one ended with this code, as nothing was wrong with the study."""
    return code < 0 or code == DeviceLostError.exit_code


@dataclass(kw_only=True, slots=True)
class _Worker:
    number: int
    device: str
    log: Path
    process: subprocess.Popen[str] | None = None
    restarts: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CrewEnd:
    """How the workers ended.

    Attributes:
        reason: Why; None if none of them said so.
        failures: One sentence for every worker that did not end well.
        codes: Their exit codes, in the same order; of one that was killed, the signal's number below zero.
    """

    reason: EndReason | None
    failures: tuple[str, ...]
    codes: tuple[int, ...] = ()


class Crew:
    """The workers of one study on this machine.

    Args:
        name: The study, which exists.
        devices: One per worker.
        logs: Folder for what the workers say, one file each.
        environment: Of the workers, with the database's URL, which may hold a password and so must not be an argument.
        arguments: Further options of the command `worker`.
        timeout_seconds: How long they may work; who is started again has what is left of it.
        on_news: Told in one sentence what happened to a worker.
    """

    def __init__(
        self,
        name: str,
        devices: Sequence[str],
        *,
        logs: Path,
        environment: Mapping[str, str],
        arguments: Sequence[str] = (),
        timeout_seconds: float | None = None,
        on_news: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._name, self._arguments, self._on_news = name, tuple(arguments), on_news
        self._environment = dict(environment)
        self._timeout_seconds = timeout_seconds
        self._start_at = time.monotonic()
        self._kill_at = float("inf")  # once they have been told to leave
        self._failures: list[str] = []
        self._reasons: set[str] = set()
        self._codes: list[int] = []
        logs.mkdir(parents=True, exist_ok=True)
        self._workers = [
            _Worker(number=number, device=device, log=logs / f"worker-{number}.log")
            for number, device in enumerate(devices, start=1)
        ]

    def run(
        self, should_stop: Callable[[], bool], on_poll: Callable[[int], None] = lambda _: None
    ) -> CrewEnd:
        """Starts the workers and returns when all have ended.

        Args:
            should_stop: Asked twice a second; the workers then write a checkpoint and leave.
            on_poll: Told twice a second how many are at work.
        """
        is_stopping = False
        self._start_at = time.monotonic()
        try:
            for worker in self._workers:
                self._start(worker)
            while alive := self._living(may_restart=not is_stopping):
                if should_stop() and not is_stopping:
                    is_stopping = True
                    self._tell_to_leave(_GRACE_SECONDS)
                if time.monotonic() > self._kill_at:
                    break
                on_poll(alive)
                time.sleep(_POLL_SECONDS)
        finally:
            self._end()
        found = next((one for one in get_args(EndReason) if one in self._reasons), None)
        return CrewEnd(
            reason="interrupt" if is_stopping else found,
            failures=tuple(self._failures),
            codes=tuple(self._codes),
        )

    def _start(self, worker: _Worker) -> None:
        command = [sys.executable, "-m", "dynamoe_search", "worker", self._name, "--json"]
        command += ["--parent", str(os.getpid()), *self._arguments]
        if self._timeout_seconds is not None:
            left = self._timeout_seconds - (time.monotonic() - self._start_at)
            left = left if worker.restarts else self._timeout_seconds
            command += ["--timeout", f"{max(left, _LEAST_SECONDS):.3f}"]
        with worker.log.open("ab") as log:
            worker.process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=seeing(self._environment, worker.device),
                text=True,
                start_new_session=True,  # Ctrl-C is for this process, which tells them
            )

    def _living(self, *, may_restart: bool) -> int:
        """Returns how many are at work, after starting those again that were killed."""
        alive = 0
        for worker in self._workers:
            code = None if worker.process is None else worker.process.poll()
            if worker.process is None:
                continue
            if code is None:
                alive += 1
            elif _may_go_on(code) and may_restart and worker.restarts < MOST_RESTARTS:
                worker.process.communicate()
                worker.restarts += 1
                how = f"was killed (signal {-code})" if code < 0 else f"lost {worker.device}"
                self._on_news(f"worker {worker.number} {how}; started again")
                self._start(worker)
                alive += 1
            else:
                self._collect(worker, worker.process, code)
                worker.process = None
        return alive

    def _collect(self, worker: _Worker, process: subprocess.Popen[str], code: int) -> None:
        """Keeps what a worker that ended has to say."""
        said = process.communicate()[0]
        with suppress(ValueError, KeyError, TypeError, IndexError):
            self._reasons.add(str(json.loads(said.strip().splitlines()[-1])["reason"]))
            return
        self._codes.append(code)
        how = f"was killed (signal {-code})" if code < 0 else f"ended with status {code}"
        words = _error_in(said) or worker.log.read_text(errors="replace").strip()
        lines = Mask(secrets_in(self._environment))(words).splitlines() or ["it said nothing"]
        sentence = (
            f"worker {worker.number} on {worker.device} {how}: {lines[-1]} (see {worker.log})"
        )
        self._failures.append(sentence)
        self._on_news(sentence)

    def _signal(self, how: Literal["terminate", "kill"]) -> None:
        for worker in self._workers:
            if worker.process is not None and worker.process.poll() is None:
                getattr(worker.process, how)()

    def _tell_to_leave(self, seconds: float) -> None:
        """Asks for checkpoints, once: a second time would end the workers at once."""
        if self._kill_at == float("inf"):
            self._signal("terminate")
        self._kill_at = min(self._kill_at, time.monotonic() + seconds)

    def _end(self) -> None:
        """Leaves nobody behind, whatever happened; who still works may write a checkpoint first."""
        try:
            self._tell_to_leave(_END_SECONDS)
            while self._is_anybody_here() and time.monotonic() < self._kill_at:
                time.sleep(_POLL_SECONDS)
        finally:
            self._kill()

    def _is_anybody_here(self) -> bool:
        return any(one.process is not None and one.process.poll() is None for one in self._workers)

    def _kill(self) -> None:
        self._signal("kill")
        for worker in self._workers:
            if worker.process is not None:
                worker.process.communicate()


def _error_in(said: str) -> str:
    """Returns the error that a worker tells of on stdout: its log may be on a disk that is full, or of a run before."""
    with suppress(ValueError, KeyError, TypeError):
        return f"error: {json.loads(said)['error']}"
    return ""
