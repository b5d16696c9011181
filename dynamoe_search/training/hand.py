"""A hand: a process beside the one that runs a study, which trains a part of a pack on one core.

It is started by `training.hands` and ends with the process that started it: then nobody is left at the other end of the
line. What is said on it, in turn:

    to the hand                 from the hand
                                ready
    an order
    stop or drop, at any time   told (a report), log: any number; then raised or left, which end the order, or ended
    release, stop or drop       left; if it was told to stop, what it has done is in a checkpoint

`stop` keeps what was done, `drop` does not. Who was told so is told nothing else before its order has come to its end.
"""

import logging
import pickle
import shutil
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from dynamoe_search.errors import DynamoeError


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
        self.stops = False
        self.on_stop: Callable[[], None] = lambda: None

    def tell(self, name: str, value: object) -> None:
        """Has the other process call its function of this name."""
        self._connection.send(("told", name, value))

    def should_stop(self) -> bool:
        """Tells whether to stop, and keep what was done.

        Raises:
            DroppedError: If nobody wants it, or nobody is there any more.
        """
        try:
            while self._connection.poll():
                if self._connection.recv() != "stop":
                    raise DroppedError("what this process did is not wanted")
                self.stops = True
        except (EOFError, OSError) as error:
            raise DroppedError("the process that runs the study is gone") from error
        return self.stops


class _Logs(logging.Handler):
    def __init__(self, connection: "Connection[Any, Any]") -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        own = logging.makeLogRecord(vars(record) | {"msg": record.getMessage(), "args": None})
        own.exc_info = None
        try:
            self._connection.send(("log", own))
        except (OSError, ValueError, TypeError, AttributeError, pickle.PicklingError):
            self.handleError(record)


def main(number: int, folder: str) -> None:
    """Works until the process at the other end of the line is gone.

    Args:
        number: File descriptor of the line.
        folder: For what is too large for it; removed at the end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process says when to stop
    connection: Connection[Any, Any] = Connection(number)
    root = logging.getLogger("dynamoe_search")
    root.addHandler(_Logs(connection))
    root.propagate = False
    try:
        connection.send(("ready",))
        while True:
            _work(connection, connection.recv(), Path(folder))
    except (EOFError, OSError, DroppedError):
        pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_kept: dict[
    str, Any
] = {}  # the last thing that was read of each name, which is large and needed again


def read(path: str) -> Any:
    """Returns what another process of this program has written; its tensors lie in the file."""
    return torch.load(path, mmap=True, weights_only=False)


def read_once(path: str) -> Any:
    """Returns the same again as long as nothing else was read in this way."""
    if path not in _kept:
        _kept.clear()
        _kept[path] = read(path)
    return _kept[path]


def _work(connection: "Connection[Any, Any]", order: Any, folder: Path) -> None:
    """Carries out one order: a log level, a function, the file of its arguments behind a `Line`, a name."""
    if order in (
        "stop",
        "drop",
        "release",
    ):  # it was on its way when the last order came to its end
        return
    level, function, path, name = order
    logging.getLogger("dynamoe_search").setLevel(level)
    line = Line(connection)
    try:
        arguments = read(path)
        Path(path).unlink()  # what is mapped stays
        result = function(line, *arguments)
        torch.save(result, folder / name)
        connection.send(("ended", str(folder / name)))
    except DroppedError:
        connection.send(("left",))
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, the other process is told
        connection.send(("raised", _portable(error)))
        return
    if not line.stops and connection.recv() == "stop":
        line.on_stop()
    connection.send(("left",))


def _portable(error: Exception) -> Exception:
    """Returns an error that another process can read."""
    try:
        own: Exception = pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:  # noqa: BLE001 - whatever keeps it from being pickled
        return RuntimeError("".join(traceback.format_exception(error)))
    return own
