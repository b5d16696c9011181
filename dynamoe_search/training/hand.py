"""A hand: a process beside the one that runs a study, which trains a part of a pack on one core.

It is started by `training.hands` and ends with the process that started it: then nobody is left at the other end of the
line. What is said on it, in turn:

    to the hand                    from the hand
                                   ready
    an order
    beat, again and again;         told (a report), log: any number; then raised, unable or left, which end the order,
    stop or drop, at any time      or ended
    release, stop or drop          left; if it was told to stop, what it has done is in a checkpoint

`stop` keeps what was done, `drop` does not. Who was told so is told nothing else before its order has come to its end.
A hand that hears nothing for a while waits: the other process was stopped, and may have lost what it works on.
"""

import logging
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from dynamoe_search.errors import DynamoeError
from dynamoe_search.training.large import read, write

SILENT_SECONDS = 10.0
"""Without a beat, after which a hand waits; well below the time after which a silent worker counts as dead."""

Told = tuple[type[BaseException], tuple[Any, ...], dict[str, Any]]


class DroppedError(DynamoeError):
    """Nobody wants what a hand is doing any more."""


class Line:
    """What a function that a hand calls may say and ask.

    Attributes:
        stops: Whether the hand was told to stop, and the function has asked.
        on_stop: Called if the hand is told to stop after the function has returned; it keeps what was done.
    """

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection
        self._heard_at = time.monotonic()
        self.stops = False
        self.on_stop: Callable[[], None] = lambda: None

    def tell(self, name: str, value: object) -> None:
        """Has the other process call its function of this name."""
        self._connection.send(("told", name, value))

    def should_stop(self) -> bool:
        """Tells whether to stop, and keep what was done; waits while the other process is silent.

        Raises:
            DroppedError: If nobody wants it, or nobody is there any more.
        """
        try:
            while self._connection.poll(None if self._is_silent() else 0):
                self._hear(self._connection.recv())
        except (EOFError, OSError) as error:
            raise DroppedError("the process that runs the study is gone") from error
        return self.stops

    def _is_silent(self) -> bool:
        return not self.stops and time.monotonic() - self._heard_at > SILENT_SECONDS

    def _hear(self, word: str) -> None:
        self._heard_at = time.monotonic()
        if word == "stop":
            self.stops = True
        elif word != "beat":
            raise DroppedError("what this process did is not wanted")

    def end(self) -> None:
        """Waits for the last word on what the function has returned, and keeps what was done if that is stop."""
        while not self.stops and (word := self._connection.recv()) != "release":
            if word == "drop":
                return
            if word == "stop":
                self.stops = True
                self.on_stop()


class _Logs(logging.Handler):
    def __init__(self, connection: "Connection[Any, Any]") -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        own = logging.makeLogRecord(vars(record) | {"msg": record.getMessage(), "args": None})
        own.exc_info = None
        try:
            self._connection.send(("log", own))
        except Exception:  # noqa: BLE001 - whatever keeps it from being told
            self.handleError(record)


def main(number: int, folder: str, shared: str) -> None:
    """Works until the process at the other end of the line is gone.

    Args:
        number: File descriptor of the line.
        folder: For what is too large for it; removed at the end.
        shared: What all hands read; removed too if the other process could not do so.
    """
    for one in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # the other process says when to stop
        signal.signal(one, signal.SIG_IGN)
    parent = os.getppid()
    connection: Connection[Any, Any] = Connection(number)
    root = logging.getLogger("dynamoe_search")
    root.addHandler(_Logs(connection))
    root.propagate = False
    try:
        connection.send(("ready",))
        while True:
            order = connection.recv()
            if not isinstance(
                order, str
            ):  # else it was on its way when the last order came to its end
                _work(connection, order, Path(folder))
    except (EOFError, OSError):
        pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if os.getppid() != parent:
            shutil.rmtree(shared, ignore_errors=True)


def _work(connection: "Connection[Any, Any]", order: Any, folder: Path) -> None:
    """Carries out one order: a log level, a function, its arguments behind a `Line`, a name for the result."""
    level, function, given, name = order
    logging.getLogger("dynamoe_search").setLevel(level)
    line = Line(connection)
    try:
        arguments = read(given)
        Path(given.path).unlink()  # what is mapped stays
    except Exception as error:  # noqa: BLE001 - whatever keeps it from being read
        connection.send(("unable", str(error)))
        return
    try:
        result = function(line, *arguments)
    except DroppedError:
        connection.send(("left",))
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, the other process is told
        connection.send(("raised", packed(error)))
        return
    try:
        written = write(result, folder / name)
    except Exception as error:  # noqa: BLE001 - a full disk, mostly
        connection.send(("unable", str(error)))
        return
    connection.send(("ended", written))
    line.end()
    connection.send(("left",))


def packed(error: Exception) -> Told:
    """Returns an error as something that another process can read, whatever its class asks for when it is made."""
    text = "".join(traceback.format_exception(error))
    told: Told = (type(error), error.args, vars(error) | {"__notes__": [text]})
    try:
        unpacked(told)
        ForkingPickler.dumps(told)
    except Exception:  # noqa: BLE001 - whatever keeps it from being pickled
        return RuntimeError, (text,), {}
    return told


def unpacked(told: Told) -> BaseException:
    """Returns the error of `packed`."""
    kind, arguments, state = told
    base = OSError if issubclass(kind, OSError) else Exception
    error: BaseException = base.__new__(kind, *arguments)
    error.args = arguments
    vars(error).update(state)
    return error
