"""Ctrl-C, SIGTERM and `stop` on a real process: it ends after the current step, and resume goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.processes import ended, start, wait_for_line

ROOT = Path(__file__).parents[2]


@pytest.fixture
def running(study_file: Path, storage_url: str) -> Iterator["subprocess.Popen[str]"]:
    """A search that takes much longer than the test, in its own process."""
    process = start(
        *("run", study_file, "--storage", storage_url, "--trials", "500"),
        *("--device", "cpu", "--set", "search.pruner.kind=pareto"),
        stdout=subprocess.PIPE,
    )
    with ended(process):
        wait_for_line(process, "leg 1")
        yield process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_after_the_step_and_resume_goes_on(
    number: signal.Signals, running: "subprocess.Popen[str]", cli: Run, storage_url: str
) -> None:
    running.send_signal(number)
    stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 128 + number
    assert "complete, 0 failed" in stdout  # how far it came is a result, however it ended
    assert f"stopped; go on with: dynamoe-search resume tiny --storage {storage_url}" in stderr
    assert "Traceback" not in stderr
    (row,) = json.loads(cli("list", "--json", "--storage", storage_url).stdout)
    assert row["state"] == "interrupted"
    asked = row["complete"] + row["running"] + row["paused"]
    result = cli("resume", "tiny", "--trials", asked, "--storage", storage_url)
    assert result.exit_code == 0, result.output
    (row,) = json.loads(cli("list", "--json", "--storage", storage_url).stdout)
    assert (row["state"], row["complete"] + row["stopped"]) == ("finished", asked)


def test_second_signal_ends_at_once(running: "subprocess.Popen[str]") -> None:
    running.send_signal(signal.SIGSTOP)  # both signals are there before a step can end
    running.send_signal(signal.SIGINT)
    running.send_signal(signal.SIGTERM)
    running.send_signal(signal.SIGCONT)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "stopped at once; go on with: dynamoe-search resume tiny" in stderr


def test_stop_from_another_terminal(
    running: "subprocess.Popen[str]", cli: Run, storage_url: str
) -> None:
    refused = cli("delete", "tiny", "--yes", "--storage", storage_url)
    assert refused.exit_code == 2
    shared = cli("resume", "tiny", "--timeout", "3s", "--storage", storage_url)
    assert shared.exit_code == 0, shared.output
    status = json.loads(cli("status", "tiny", "--json", "--storage", storage_url).stdout)
    assert [one["pid"] for one in status["workers"]] == [running.pid]
    started = time.monotonic()
    result = cli("stop", "tiny", "--storage", storage_url)
    assert result.exit_code == 0
    assert "stops after its current step" in result.stdout
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "go on with: dynamoe-search resume tiny" in stderr
    assert time.monotonic() - started < 60


def test_the_three_ways_to_start_are_the_same(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ways = (
        [sys.executable, str(ROOT / "cli.py")],
        [sys.executable, "-m", "dynamoe_search"],
        [sys.executable, "-c", "from dynamoe_search.__main__ import main; main()"],
    )
    pages = {
        subprocess.run(
            [*way, "--help"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for way in ways
    }
    assert len(pages) == 1
    assert "dynamoe-search" in pages.pop()
