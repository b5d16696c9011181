"""What stands for a worker on its node: an actor that runs the program as a process of its own.

Its code is sent to the nodes as it is, so it needs nothing there but Python and Ray. What it starts is the node's own
program: `python -m dynamoe_search worker STUDY`, which leaves by itself, with a checkpoint, if the actor is gone.
"""

import os
import platform
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TypedDict

import ray

_LAST_LINES = 20


class Ended(TypedDict):
    """How a worker ended: its exit code, stdout, and the last lines of stderr."""

    code: int
    said: str
    last_lines: list[str]


class WorkerHost:
    """Runs one worker: `begin`, then `end`, which returns when it has; `leave` may be called at any time.

    Args:
        study: Its name, for people who look at Ray's lists.
        number: Of the worker.
    """

    def __init__(self, study: str, number: int) -> None:
        self._name = f"dynamoe-search {study}, worker {number}"
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._is_leaving = False
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._listener: threading.Thread | None = None

    def __repr__(self) -> str:
        return self._name

    def node(self) -> tuple[str, str]:
        """Returns the name of the machine, and what Ray calls it."""
        return platform.node() or "unknown", str(ray.get_runtime_context().get_node_id())

    def begin(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: str,
        mask: Callable[[str], str],
    ) -> int | None:
        """Starts the worker and returns its process, None if it is to leave already.

        Args:
            arguments: Of the program.
            environment: Beside that of the node; may hold passwords.
            folder: Where to run it, if it is here.
            mask: Returns what the worker says without what nobody may read.
        """
        with self._lock:
            if self._is_leaving:
                return None
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "dynamoe_search", *arguments, "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | dict(environment),
                cwd=folder if Path(folder).is_dir() else None,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        assert self._process.stderr is not None
        self._listener = threading.Thread(
            target=_pass_on, args=(self._process.stderr, self._last_lines, mask), daemon=True
        )
        self._listener.start()
        return self._process.pid

    def end(self) -> Ended:
        """Returns how the worker ended, once it has."""
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._listener is not None
        said = self._process.stdout.read()
        code = self._process.wait()
        self._listener.join(timeout=5.0)  # a grandchild may hold the pipe
        return Ended(code=code, said=said, last_lines=list(self._last_lines))

    def leave(self, seconds: float) -> None:
        """Asks the worker for a checkpoint and ends it, after some time at the latest."""
        with self._lock:
            self._is_leaving = True
            process = self._process
        if process is None:
            return
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.kill()


def _pass_on(stream: IO[str], last_lines: "deque[str]", mask: Callable[[str], str]) -> None:
    """Writes what a worker says to the actor's own log, which Ray keeps, and remembers the last of it."""
    for line in map(mask, stream):
        sys.stderr.write(line)
        sys.stderr.flush()
        if line.strip():
            last_lines.append(line.strip())
