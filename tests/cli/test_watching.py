"""`watch`: pictures of any size, and the program on a real terminal beside a study that others work on."""

import io
import os
import pty
import re
import select
import signal
import sqlite3
import struct
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import replace
from fcntl import ioctl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from dynamoe_search.cli.frames import frame, thinned
from dynamoe_search.cli.pace import done, is_over, rung_rows, seconds_left
from dynamoe_search.records import Leg, Spent
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Happening, OpenLeg, Overview, Store
from tests.cli.conftest import Run
from tests.store.builders import SETTINGS, add, add_complete, report

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(searched: str) -> Overview:
    with Store.open(searched) as store:
        return store.overview("tiny")


def drawn(view: Overview, width: int, height: int, note: str = "") -> list[str]:
    screen = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    screen.print(frame(view, width=width, height=height, rate=2.0, note=note))
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue().splitlines()


def busy(view: Overview, num_legs: int, num_trials: int) -> Overview:
    """The study as if much of it were in training, and as if its names were not kind to terminals."""
    legs = tuple(
        OpenLeg(
            leg=Leg(
                number=place,
                trials=tuple(range(num_trials)),
                start=1,
                end=2,
                pack_key="a",
                worker="w",
            ),
            epoch=1,
            best_accuracy=0.5,
        )
        for place in range(num_legs)
    )
    told = Happening(
        at="2026-11-22T04:00:00.000+00:00",
        kind="failed",
        number=3,
        message="a long\x1b[31m line\n" + "ä漢" * 200,
    )
    record = replace(view.record, name="x\x1b]0;y\x07" * 30, state="running")
    return replace(view, record=record, legs=legs, happenings=(told, *view.happenings))


class TestFrame:
    def test_says_what_is_stored(self, finished: Overview) -> None:
        text = "\n".join(drawn(finished, 100, 40))
        assert text.startswith("tiny  finished\n")
        assert "6 of 6 candidates complete" in text
        assert "accuracy (up) against activated_params" in text
        assert f"front, {len(finished.front)} member" in text
        assert "nobody: no worker is there" in text
        assert "stopped working" in text

    @given(
        width=st.integers(30, 260),
        height=st.integers(24, 90),
        num_legs=st.integers(0, 9),
        num_trials=st.integers(1, 40),
    )
    def test_fits_any_terminal(
        self, finished: Overview, width: int, height: int, num_legs: int, num_trials: int
    ) -> None:
        lines = drawn(busy(finished, num_legs, num_trials), width, height, "waiting: " * 50)
        assert max(map(cell_len, lines)) <= width
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", "".join(lines))
        if width >= 76:
            assert len(lines) < height

    def test_candidates_that_ended_together_share_a_line(self, finished: Overview) -> None:
        at = "2026-11-22T04:00:00.000+00:00"
        ends = [Happening(at=at, kind="stopped", number=trial) for trial in (4, 2, 3)]
        text = "\n".join(drawn(replace(finished, happenings=(*ends,)), 80, 24))
        assert "trials 2 3 4 pruned" in text


class TestPace:
    def test_rungs(self, finished: Overview) -> None:
        spec = finished.record.spec_json.replace('"kind":"none"', '"kind":"pareto"')
        view = replace(
            finished,
            record=replace(finished.record, spec_json=spec),
            standing={
                ("paused", 1): 5,
                ("stopped", 1): 3,
                ("running", 0): 2,
                ("running", 1): 1,
                ("failed", 1): 7,
                ("complete", 2): 4,
            },
            may_go_on={1: 2},
        )
        assert rung_rows(view) == [(1, 13, 5, 2, 3, 3)]
        assert rung_rows(finished) == []

    def test_end_and_share(self, finished: Overview) -> None:
        assert is_over(finished)
        assert done(finished) == 1.0
        half = replace(
            finished,
            record=replace(finished.record, state="running"),
            spent=Spent(epochs=6, seconds=1.0, complete=3, failed=0, running=3),
        )
        assert not is_over(half)
        assert done(half) == 0.5
        assert seconds_left(half, 2.0) == 3.0
        assert seconds_left(half, None) is None
        idle = replace(half, record=replace(half.record, state="interrupted"))
        assert not is_over(idle)
        assert is_over(replace(idle, record=replace(idle.record, max_epochs=6)))
        assert is_over(replace(idle, record=replace(idle.record, max_seconds=0.0)))

    def test_thinned_keeps_both_ends(self) -> None:
        assert thinned(range(10), 4) == [0, 3, 6, 9]
        assert thinned([1, 2], 6) == [1, 2]
        assert thinned([], 6) == []


def test_once(cli: Run, searched: str) -> None:
    for options in (["--once"], []):  # the output is no terminal
        result = cli("watch", "tiny", *options, "--storage", searched)
        assert result.exit_code == 0
        assert "6 of 6 candidates complete" in result.stdout


def test_a_missing_study_is_told_in_a_sentence(cli: Run, searched: str) -> None:
    result = cli("watch", "tino", "--storage", searched)
    assert result.exit_code == 2
    assert "did you mean 'tiny'" in result.stderr


class Terminal:
    """The program on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.text = ""
        self.pid, self._handle = pty.fork()
        if self.pid == 0:
            os.environ |= {"PYTHONPATH": str(ROOT), "TERM": "xterm", "NO_COLOR": "1"}
            os.execv(sys.executable, [sys.executable, str(ROOT / "cli.py"), *arguments])
        ioctl(self._handle, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def wait_for(self, words: str, seconds: float = 60.0) -> None:
        """Reads until the words are on the screen."""
        deadline = time.monotonic() + seconds
        while words not in self.text:
            assert time.monotonic() < deadline, self.text
            assert self._read(), self.text

    def end(self) -> int:
        """Reads until the process ends and returns its exit code."""
        while self._read():
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self._handle)
        return os.waitstatus_to_exitcode(status)

    def _read(self) -> bool:
        if not select.select([self._handle], [], [], 60.0)[0]:
            os.kill(self.pid, signal.SIGKILL)
            return False
        try:
            got = os.read(self._handle, 65536)
        except OSError:  # the other side is gone
            return False
        self.text += got.decode(errors="replace")
        return bool(got)

    def press_ctrl_c(self) -> None:
        os.write(self._handle, b"\x03")


@pytest.fixture
def waiting(storage_url: str, tiny_spec: Callable[..., StudySpec]) -> str:
    """A database with the study `tiny`, of which one candidate is done and on which nobody works."""
    with Store.open(storage_url) as store:
        store.create_study(tiny_spec(), source="tiny.toml", settings=SETTINGS)
        add_complete(store, "tiny", 0, 0.5, 10.0)
    return storage_url


def test_ends_with_the_study_and_leaves_the_last_picture(searched: str) -> None:
    terminal = Terminal("watch", "tiny", "--storage", searched)
    assert terminal.end() == 0
    assert "6 of 6 candidates complete" in terminal.text.rpartition("\x1b[?1049l")[2]


def test_follows_until_ctrl_c(waiting: str) -> None:
    terminal = Terminal("watch", "tiny", "--interval", "0.1", "--storage", waiting)
    terminal.wait_for("nobody works on it now")
    with Store.open(waiting) as store:
        add(store, "tiny", 1)
        worker = store.join("tiny")
        terminal.wait_for("running on cpu, 1 worker")
        store.add_progress("tiny", [report(1, 1, 0.5)])
        terminal.wait_for("4 epochs")
        store.leave("tiny", worker, "interrupted")
    terminal.press_ctrl_c()
    assert terminal.end() == 0
    assert "Traceback" not in terminal.text
    assert "\x1b[?1049l" in terminal.text  # the terminal is as it was


def test_waits_for_a_database_that_is_locked(waiting: str) -> None:
    path = waiting.removeprefix("sqlite:///")
    terminal = Terminal("watch", "tiny", "--interval", "0.1", "--storage", waiting)
    terminal.wait_for("candidates complete")
    away = Path(f"{path}.away")
    Path(path).rename(away)
    terminal.wait_for("waiting: the database")
    away.rename(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # a writer at work does not keep anybody from looking
    terminal.text = ""
    terminal.wait_for("nobody works on it now")
    assert "waiting" not in terminal.text[-2000:]
    other.close()
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.end() == 0
