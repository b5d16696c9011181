"""A place for one small study: its database and files in a folder of its own, and what can be done to them."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks.faults import victims
from benchmarks.faults.small_studies import NAME, SmallStudy, done_twice, facts


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a process of the real program ended.

    Attributes:
        code: Its exit code, or minus the signal that killed it.
        words: What it said on stderr.
    """

    code: int
    words: str

    @property
    def last(self) -> str:
        """The last line of what it said."""
        lines = self.words.strip().splitlines()
        return lines[-1] if lines else ""


@dataclass(kw_only=True, slots=True)
class Row:
    """What came of one fault.

    Attributes:
        fault: What was done.
        ended: What the program did, in words.
        problems: What should have been otherwise.
        skipped: Why it was not tried, None if it was.
    """

    fault: str
    ended: str = ""
    problems: list[str] = field(default_factory=list)
    skipped: str | None = None


class Site:
    """One study in a folder.

    Args:
        folder: Exists already, and is empty.
        study: Which.
        expected: Facts of the same study that nothing happened to, None to compare nothing.
        is_forked: Run the command in a forked process instead of a new one, which is quicker.
    """

    def __init__(
        self,
        folder: Path,
        study: SmallStudy,
        expected: dict[str, Any] | None,
        *,
        is_forked: bool = False,
    ) -> None:
        self._is_forked = is_forked
        self.folder, self.study, self.expected = folder, study, expected
        self.file = folder / "studies.db"
        self.url = f"sqlite:///{self.file}"

    def create(self) -> None:
        """Makes the study."""
        assert victims.wait(victims.fork(lambda: self.study.create(self.url))) == 0

    def kill_at(self, group: str, place: str, number: int) -> None:
        """Runs the study until a point is reached for so many times, and kills the process there.

        Args:
            group: See `victims.POINTS`.
            place: Likewise.
            number: How many times.
        """

        def run() -> None:
            victims.POINTS[group][place](victims.Counter(number))
            self.study.run(self.url, 0.0)

        assert victims.wait(victims.fork(run)) == -signal.SIGKILL

    def start(self, *, environment: Mapping[str, str] | None = None) -> "Running":
        """Starts the command `resume`, and returns its process.

        Args:
            environment: More variables, for which it has to be a new process.
        """
        if self._is_forked and environment is None:
            return self._forked(lambda: None)
        words = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `Running.wait`
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "dynamoe_search", *self._resume],
            stdout=subprocess.DEVNULL,
            stderr=words,
            env={**os.environ, **(environment or {})},
        )
        return Running(process, words)

    def resume(self) -> Ended:
        """Runs the command `resume` to its end."""
        return self.start().wait()

    def resume_with(self, prepare: Callable[[], None]) -> Ended:
        """Runs the command in a forked process in which something is done first, such as setting a trap."""
        return self._forked(prepare).wait()

    @property
    def _resume(self) -> list[str]:
        return ["resume", NAME, "--storage", self.url, "--quiet"]

    def _forked(self, prepare: Callable[[], None]) -> "Running":
        words = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `Running.wait`
        child = victims.fork(lambda: self._command(words.fileno(), prepare))
        return Running(_Forked(child), words)

    def _command(self, words: int, prepare: Callable[[], None]) -> None:
        from dynamoe_search.cli.app import main  # noqa: PLC0415 - reads the environment

        os.dup2(words, 2)
        with Path(os.devnull).open("w") as file:
            os.dup2(file.fileno(), 1)
        prepare()
        sys.argv = ["dynamoe-search", *self._resume]
        main()

    def count(self, query: str) -> int:
        """Returns the number that a query of the database gives."""
        with closing(sqlite3.connect(f"file:{self.file}?mode=ro", uri=True)) as connection:
            return int(connection.execute(query).fetchone()[0])

    def wait_for(self, query: str, at_least: int, running: "Running", seconds: float = 120) -> None:
        """Waits until a query gives a number, or the process has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and running.is_alive:
            with suppress(sqlite3.OperationalError):
                if self.count(query) >= at_least:
                    return
            time.sleep(0.02)

    def found(self) -> dict[str, Any]:
        """Returns the facts of the study as it is now."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "facts.json"
            child = victims.fork(lambda: _write(path, facts(self.url)))
            assert victims.wait(child) == 0
            found: dict[str, Any] = json.loads(path.read_text())
            return found

    def differing(self) -> list[str]:
        """Returns what differs from the study that nothing happened to, and what was done twice."""
        found, expected = self.found(), self.expected
        problems = done_twice(found)
        if expected is None:
            return problems
        names = [name for name in found if found[name] != expected.get(name)]
        return problems + [f"differs in {name}" for name in names]


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


class _Forked:
    """A forked process, with what `Running` needs of `Popen`."""

    def __init__(self, child: int) -> None:
        self._child = child
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            found, status = os.waitpid(self._child, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if found else None
        return self._code

    def wait(self, timeout: float = float("inf")) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("resume", timeout)
            time.sleep(0.01)
        return code

    def kill(self) -> None:
        os.kill(self._child, signal.SIGKILL)


class Running:
    """A process of the program.

    Args:
        process: It.
        words: The file that its stderr goes to.
    """

    def __init__(self, process: Any, words: IO[str]) -> None:
        self.process, self._words = process, words

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def wait(self, seconds: float = 600) -> Ended:
        """Returns how it ended; kills it if it does not within some seconds."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            code = 124
        self._words.seek(0)
        words = self._words.read()
        self._words.close()
        return Ended(code=code, words=words)


def fill(folder: Path, leave_bytes: int = 0) -> None:
    """Fills the file system of a folder, but for some bytes."""
    size = max(0, shutil.disk_usage(folder).free - leave_bytes)
    with suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
        while size > 0:
            size -= file.write(bytes(min(size, 4096)))


def make_room(folder: Path) -> None:
    """Removes what `fill` wrote."""
    (folder / "ballast").unlink(missing_ok=True)


def mount(*words: str) -> bool:
    """Calls `mount`; returns whether it was allowed."""
    done = subprocess.run(["mount", *words], capture_output=True, check=False)  # noqa: S603, S607
    return done.returncode == 0


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[bool]:
    """Puts a small file system of its own at a folder; yields whether that was allowed."""
    is_there = mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield is_there
    finally:
        if is_there:
            unmount(folder)


def unmount(folder: Path) -> None:
    """Takes a file system away, even if files in it are open."""
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)  # noqa: S603, S607
