"""Hands: processes that train parts of a pack beside this one, each on one core.

Most operations of a small network are short, and between them is Python, of which one process runs one thread at a
time. So threads that share a pack wait for each other, and processes do not. What a hand is told is a function of this
package and its arguments; large ones go through files that both map into memory.
"""

import atexit
import contextlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from dynamoe_search.training.hand import unpacked
from dynamoe_search.training.large import Large, read, write

logger = logging.getLogger(__name__)

_LEAVE_SECONDS = 60.0  # to come to the end of a step or an evaluation, and to write a checkpoint
_MOST_LOSSES = 3  # after which this process goes on alone
_BEAT_SECONDS = 1.0
_START = "import sys; from dynamoe_search.training.hand import main; main(int(sys.argv[1]), *sys.argv[2:])"

Tell = Callable[[str, Any], None]


class HandLostError(RuntimeError):
    """A hand is gone, killed or crashed."""


class Hand:
    """One such process.

    Attributes:
        is_ready: Whether it has come up.
        is_busy: Whether it has an order that it has not brought to an end.
        result: Of its last order, from when it has ended.
    """

    def __init__(self, shared: str) -> None:
        if not sys.executable or getattr(sys, "frozen", False):
            raise OSError("there is no Python to start")
        self._folder = tempfile.mkdtemp(prefix="dynamoe-hand-")
        ours, its = socket.socketpair()
        try:
            with ours, its:
                self._process = self._start(its.fileno(), shared)
                self.line: Connection[Any, Any] = Connection(ours.detach())
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self.is_ready = self.is_busy = False
        self._is_told = False  # to stop or drop
        self._orders = 0
        self._beat_at = 0.0
        self.result: Any = None

    def _start(self, number: int, shared: str) -> "subprocess.Popen[bytes]":
        paths = [path or str(Path.cwd()) for path in sys.path if isinstance(path, str)]
        return subprocess.Popen(  # noqa: S603
            # -P: not from the present folder, unless this process does so
            [sys.executable, "-P", "-c", _START, str(number), self._folder, shared],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # what goes wrong is told on the line
            pass_fds=[number],
            start_new_session=True,  # Ctrl-C is for the process that runs the study
            env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )

    def begin(self, function: Callable[..., Any], *arguments: object) -> None:
        """Has it call a function of a module with a `hand.Line` and arguments, all of which can be pickled.

        Raises:
            HandLostError: It is gone, or there is no room for the arguments.
        """
        assert not self.is_busy
        self._orders += 1
        self.result, self._is_told = None, False
        level = logging.getLogger("dynamoe_search").getEffectiveLevel()
        path = str(Path(self._folder) / f"order-{self._orders}")
        try:
            given = write(arguments, path)
        except (OSError, RuntimeError) as error:  # torch's own writer raises the second
            raise HandLostError(f"a part of a pack cannot be handed on: {error}") from error
        self.is_busy = True
        self._send((level, function, given, f"result-{self._orders}"))

    @property
    def has_ended(self) -> bool:
        """Whether its order has come to an end and its result is waiting."""
        return self.result is not None

    def listen(self, tell: Tell) -> None:
        """Hears what it has said.

        Args:
            tell: Called with name and value of what it reports.

        Raises:
            HandLostError: It is gone.
            Exception: Whatever its function raised.
        """
        while self._has_said():
            self._hear(tell)
        if self.is_busy and not self._is_told and time.monotonic() > self._beat_at:
            self._beat_at = time.monotonic() + _BEAT_SECONDS
            self._send("beat")

    def _has_said(self) -> bool:
        try:
            return self.line.poll()
        except (OSError, EOFError):
            return True

    def _hear(self, tell: Tell) -> None:
        try:
            kind, *said = self.line.recv()
        except (OSError, EOFError) as error:
            raise self._lost() from error
        match kind:
            case "ready":
                self.is_ready = True
            case "log":
                logging.getLogger(said[0].name).handle(said[0])
            case "told":
                tell(*said)
            case "ended":
                self.result = self._read(said[0])
            case "left":
                self.is_busy = False
            case "raised":
                self.is_busy = False
                raise unpacked(said[0])
            case "unable":
                self.is_busy = False
                raise HandLostError(f"a part of a pack cannot be handed on: {said[0]}")

    def _read(self, large: Large) -> Any:
        try:
            result = read(large)
            Path(large.path).unlink()  # what is mapped stays
        except (OSError, RuntimeError) as error:
            self.is_busy = False
            self.close()
            raise HandLostError(f"the result of a part of a pack is gone: {error}") from error
        return result

    def _lost(self) -> HandLostError:
        self.is_busy = False
        self.close()
        _pool.losses += 1
        return HandLostError(
            f"a process that trained a part of the pack is gone (exit code {self._process.returncode})"
        )

    def _send(self, what: object) -> None:
        try:
            self.line.send(what)
        except OSError as error:
            raise self._lost() from error

    def release(self) -> Any:
        """Returns the result of an order that has ended."""
        result, self.result = self.result, None
        self._send("release")
        while self.is_busy:
            self._hear(ignore)
        return result

    def tell_to_leave(self, how: Literal["stop", "drop"]) -> None:
        """Tells it to leave its order, if it has one; `await_leave` waits until it has."""
        if self.is_busy and not self._is_told:
            self._is_told = True
            with contextlib.suppress(HandLostError):
                self._send(how)

    def await_leave(self) -> None:
        """Waits until it has left its order; if it does not, it is killed."""
        end = time.monotonic() + _LEAVE_SECONDS
        try:
            while self.is_busy and self.line.poll(max(0.0, end - time.monotonic())):
                self._hear(ignore)
        except Exception as error:  # noqa: BLE001 - why it left does not matter any more
            logger.debug("a process left its part of a pack: %s", error)
        finally:
            self.result = None
            if self.is_busy:  # it does not answer, or nobody wants to wait for it
                self.is_busy = False
                self.close()

    @property
    def is_alive(self) -> bool:
        """Whether it can be given an order."""
        return not self.line.closed and self._process.poll() is None

    def close(self) -> None:
        """Ends it."""
        self.line.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def ignore(name: str, value: object) -> None:
    """Hears nothing of what is reported."""
    del name, value


class _Pool:
    """The hands of this process."""

    def __init__(self) -> None:
        self.hands: list[Hand] = []
        self.losses = 0
        self._folder: str | None = None
        self._written: tuple[Any, Large] | None = None

    def start(self, number: int) -> bool:
        """Has so many started; returns whether they were."""
        if number < 1:
            return True
        if self.losses >= _MOST_LOSSES:
            return False
        for hand in self.hands:
            if not hand.is_alive:
                hand.close()
        self.hands = [hand for hand in self.hands if hand.is_alive]
        try:
            while len(self.hands) < number:
                self.hands.append(Hand(self.folder()))
        except OSError as error:
            self.losses = _MOST_LOSSES
            logger.info("one process trains everything, since no other can be started: %s", error)
        return len(self.hands) >= number

    def folder(self) -> str:
        """Returns a folder of this process alone."""
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="dynamoe-")
        return self._folder

    def written(self, value: object) -> Large:
        """Returns how hands read something large; it is written once as long as it is the same."""
        if self._written is not None and self._written[0] is value:
            return self._written[1]
        number = 0 if self._written is None else int(Path(self._written[1].path).stem) + 1
        if self._written is not None:
            Path(self._written[1].path).unlink(missing_ok=True)
            self._written = None
        path = Path(self.folder()) / f"{number}.pt"
        try:
            large = write(value, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._written = value, large
        return large

    def close(self) -> None:
        for hand in self.hands:
            hand.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self.hands, self._folder, self._written = [], None, None

    def forget(self) -> None:
        """Leaves everything to the process that this one was forked from."""
        for hand in self.hands:
            hand.line.close()
        self.hands, self._folder, self._written = [], None, None


_pool = _Pool()
atexit.register(_pool.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)


def prepare(number: int) -> None:
    """Has hands started, which takes a few seconds, without waiting for them."""
    _pool.start(number)


def are_ready(number: int) -> bool:
    """Tells whether so many hands have come up."""
    for hand in _pool.hands:
        if not hand.is_ready and hand.is_alive:
            with contextlib.suppress(HandLostError):
                hand.listen(ignore)
    return sum(hand.is_ready and hand.is_alive for hand in _pool.hands) >= number


def hands(number: int) -> list[Hand]:
    """Returns so many hands, or none if they cannot be started."""
    return _pool.hands[:number] if _pool.start(number) else []


def written(value: object) -> Large:
    """Writes something large that hands read with `large.read_once`, if it is not written.

    Raises:
        HandLostError: There is no room for it.
    """
    try:
        return _pool.written(value)
    except (OSError, RuntimeError) as error:  # torch's own writer raises the second
        _pool.losses = _MOST_LOSSES
        raise HandLostError(f"a part of a pack cannot be handed on: {error}") from error


def wait_for(some: Sequence[Hand], seconds: float) -> None:
    """Waits until one of them says something, but no longer than this."""
    wait([hand.line for hand in some if hand.is_busy and not hand.has_ended], seconds)
