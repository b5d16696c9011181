"""Ctrl-C and SIGTERM while the database is locked, away, or another worker plans: the process leaves in seconds."""

import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from dynamoe_search.store import Store
from tests.cli.conftest import Run
from tests.cli.processes import ended, start, wait_for_line

ROOT = Path(__file__).parents[2]
LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
sys.stdin.readline()
connection.execute("begin exclusive")
print("locked", flush=True)
sys.stdin.readline()
connection.execute("rollback")
"""
SECONDS = 20.0  # it takes about 4; the rest is for a busy machine


def check_it_leaves(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    asked = time.monotonic()
    process.send_signal(number)
    _, words = process.communicate(timeout=60)
    assert time.monotonic() - asked < SECONDS
    assert process.returncode == 128 + number, words
    assert "stopped; go on with: dynamoe-search resume tiny" in words
    assert "Traceback" not in words
    assert "error" not in words


def values(url: str) -> list[tuple[object, ...]]:
    with Store.open(url, create=False) as store:
        return [(one.trial, one.candidate, one.values) for one in store.candidates("tiny")]


def finish(cli: Run, url: str) -> None:
    result = cli("resume", "tiny", "--storage", url, "--quiet")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_locked(
    number: signal.Signals, study_file: Path, tmp_path: Path, cli: Run, searched: str
) -> None:
    file = tmp_path / "mine" / "studies.db"
    file.parent.mkdir()
    url = f"sqlite:///{file}"
    run = start("run", study_file, "--storage", url, "--device", "cpu")
    with ended(run):
        wait_for_line(run, "tiny")
        locker = subprocess.Popen(
            [sys.executable, "-c", LOCK, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert locker.stdin is not None
        assert locker.stdout is not None
        with ended(locker):
            wait_for_line(run, "leg 1")
            locker.stdin.write("lock\n")
            locker.stdin.flush()
            assert locker.stdout.readline() == "locked\n"
            time.sleep(3)  # by then it waits: an epoch takes much less
            assert run.poll() is None
            check_it_leaves(run, number)
            assert list(file.parent.rglob("legs/*/epoch-*.json")), "no checkpoint was written"
            locker.communicate("free\n")
    finish(cli, url)
    assert values(url) == values(searched)


def test_moved_away(study_file: Path, tmp_path: Path, cli: Run, searched: str) -> None:
    folder, away = tmp_path / "mine", tmp_path / "away"
    folder.mkdir()
    url = f"sqlite:///{folder / 'studies.db'}"
    run = start("run", study_file, "--storage", url, "--device", "cpu")
    with ended(run):
        wait_for_line(run, "leg 1")
        folder.rename(away)
        time.sleep(2)
        assert run.poll() is None
        check_it_leaves(run, signal.SIGTERM)
        assert not folder.exists()
        away.rename(folder)
    finish(cli, url)
    assert values(url) == values(searched)


def test_while_another_worker_plans(study_file: Path, tmp_path: Path, cli: Run) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    prepared = cli("run", study_file, "--storage", url, "--trials", 500, "--timeout", "1s")
    assert prepared.exit_code == 0, prepared.output
    with closing(Store.open(url)) as store:
        worker = store.join("tiny")
        with store.planning("tiny", worker):
            run = start("resume", "tiny", "--storage", url)
            with ended(run):
                wait_for_line(run, "tiny")
                time.sleep(1)
                assert run.poll() is None
                check_it_leaves(run, signal.SIGTERM)
        assert [one.id for one in store.workers("tiny") if one.is_alive] == [worker]
