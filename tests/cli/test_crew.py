"""Several worker processes under one command: they share the work, and none outlives it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dynamoe_search.cli.crews import _error_of, _View
from dynamoe_search.cli.options import LOGS_VARIABLE, handed_logs
from dynamoe_search.cli.progress import LiveView
from dynamoe_search.records import Worker
from dynamoe_search.search import CrewEnd
from dynamoe_search.store import Store
from tests.cli.conftest import Run

ROOT = Path(__file__).parents[2]
LONG = ("--trials", "500", "--set", "search.pruner.kind=pareto", "--set", "train.epochs=9")


def at_work(url: str, number: int) -> list[Worker]:
    """Waits until so many workers are alive and something is in training."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if Path(url.removeprefix("sqlite:///")).exists():
            with Store.open(url) as store:
                if store.studies():
                    alive = [one for one in store.workers("tiny") if one.is_alive]
                    if len(alive) == number and store.legs("tiny"):
                        return alive
        time.sleep(0.2)
    raise AssertionError(f"there were never {number} workers")


@pytest.mark.slow
def test_two_workers_give_every_candidate_the_numbers_of_one(
    study_file: Path, storage_url: str, cli: Run, tmp_path: Path
) -> None:
    alone = f"sqlite:///{tmp_path / 'alone.db'}"
    for url, more in ((storage_url, ["--workers", "2"]), (alone, [])):
        options = ("--storage", url, "--threads", "1", "--set", "search.sampler=random")
        result = cli("run", study_file, *options, *more)
        assert result.exit_code == 0, result.output
        assert result.stderr.splitlines()[0] == "tiny: 6 trials of 2 epochs on cpu"
        assert len(re.findall("^worker time: .*train [0-9]+ %", result.stdout, re.M)) == 1
    with Store.open(storage_url) as store, Store.open(alone) as other:
        assert len(store.workers("tiny")) == 2
        both = [
            {
                one.candidate.design_hash: one.outcome and one.outcome.metrics
                for one in each.candidates("tiny")
            }
            for each in (store, other)
        ]
    assert both[0] == both[1]


@pytest.mark.slow
def test_killed_worker_is_started_again_and_ctrl_c_ends_all(
    study_file: Path, storage_url: str, command: Callable[..., "subprocess.Popen[str]"]
) -> None:
    process = command("run", study_file, "--storage", storage_url, "--workers", "2", *LONG)
    first, _ = at_work(storage_url, 2)
    os.kill(first.pid, signal.SIGKILL)
    while first.pid in {one.pid for one in at_work(storage_url, 2)}:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "was killed (signal 9); started again" in said
    assert f"go on with: dynamoe-search resume tiny --storage {storage_url}" in said
    with Store.open(storage_url) as store:
        workers = store.workers("tiny")
        assert len(workers) == 3
        assert not any(one.is_alive for one in workers)
        assert store.study("tiny").state == "interrupted"


@pytest.mark.slow
def test_workers_leave_when_their_parent_is_killed(
    study_file: Path, storage_url: str, command: Callable[..., "subprocess.Popen[str]"]
) -> None:
    process = command("run", study_file, "--storage", storage_url, "--workers", "2", *LONG)
    at_work(storage_url, 2)
    process.kill()
    deadline = time.monotonic() + 60
    with Store.open(storage_url) as store:
        while any(one.is_alive for one in store.workers("tiny")):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert store.study("tiny").state == "interrupted"


@pytest.mark.slow
def test_worker_waits_for_the_study_to_be_there(
    study_file: Path, storage_url: str, command: Callable[..., "subprocess.Popen[str]"], cli: Run
) -> None:
    early = command("worker", "tiny", "--wait", "2m", "--storage", storage_url, "--json")
    time.sleep(3)
    assert early.poll() is None
    assert cli("run", study_file, "--storage", storage_url, "--quiet").exit_code == 0
    said, _ = early.communicate(timeout=120)
    assert early.returncode == 0
    assert json.loads(said)["reason"] == "trials"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--workers", "0"), "--workers"),
        (("--workers", "1", "--devices", "cpu,cpu"), "--workers 1 is too few for 2 devices"),
        (("--devices", "gpu:7"), "unknown device 'gpu:7'"),
    ],
)
def test_wrong_options(
    options: tuple[str, ...], words: str, study_file: Path, storage_url: str, cli: Run
) -> None:
    result = cli("run", study_file, "--storage", storage_url, *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("codes", "code"),
    [((2, 2), 2), ((1,), 1), ((-9,), 1), ((2, 1), 1), ((2, -11), 1), ((1, 3), 3), ((), 1)],
)
def test_command_ends_with_what_its_workers_ended_with(codes: tuple[int, ...], code: int) -> None:
    error = _error_of(CrewEnd(reason=None, failures=("it said so",) * len(codes), codes=codes))
    assert error.exit_code == code
    assert str(error) == (
        "; ".join(["it said so"] * len(codes)) or "the workers ended without a word"
    )


def test_worker_of_a_study_that_is_not_there(storage_url: str, cli: Run) -> None:
    result = cli("worker", "nobody", "--storage", storage_url)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1


def test_database_that_is_away_for_a_while_is_told_of_once_and_ends_nothing(
    searched: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in Path(searched.removeprefix("sqlite:///")).parent.glob("studies.db"):
        shutil.copy(path, tmp_path)
    path = tmp_path / "studies.db"
    with Store.open(f"sqlite:///{path}") as store:
        display = LiveView()
        view = _View(store, "tiny", display)
        for round_ in (1, 2):
            path.rename(tmp_path / "away.db")
            for _ in range(2):
                view._next = 0.0
                view.poll(2)
            assert capsys.readouterr().err.count("the workers wait for it") == 1, round_
            (tmp_path / "away.db").rename(path)
            view._next = 0.0
            view.poll(2)
        assert "6/6 trials done" in display.tally.line()


def test_logs_of_workers_are_no_arguments(
    study_file: Path, storage_url: str, cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told.json"
    program = tmp_path / "program"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"json.dump([sys.argv, dict(os.environ)], open({str(told)!r}, 'w'))\n"
        """print('{"reason": "timeout"}')\n"""
    )
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    log = f"mlflow=sqlite:///{tmp_path}/secret.db"
    options = ("--storage", storage_url, "--workers", "1", "--quiet", "--log", log)
    result = cli("run", study_file, *options, "--timeout", "90s")
    assert result.exit_code == 0, result.output
    arguments, environment = json.loads(told.read_text())
    assert "secret" not in " ".join(arguments)
    assert arguments[arguments.index("--timeout") + 1] == "90.000"
    assert handed_logs(environment) == [log]
    assert LOGS_VARIABLE not in environment


@pytest.mark.slow
def test_what_workers_said_is_told_if_none_ends_well(
    study_file: Path, storage_url: str, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    data = study_file.with_name("own.npz")
    draw = np.random.default_rng(0)
    np.savez(data, x=draw.normal(size=(200, 4)).astype("f4"), y=draw.integers(0, 2, 200))
    options = ("--set", "data.name=npz", "--set", f"data.path={data}", "--storage", storage_url)
    result = cli("run", study_file, *options, "--quiet")
    assert result.exit_code == 0, result.output
    np.savez(data, x=draw.normal(size=(200, 4)).astype("f4"), y=draw.integers(0, 2, 200))
    more = ("--trials", "9", "--workers", "2", "--quiet", "--storage", storage_url)
    result = cli("resume", "tiny", *more)
    assert result.exit_code == 2
    last = result.stderr.strip().splitlines()[-1]
    for worker in (1, 2):  # in the order in which they ended
        assert f"worker {worker} on cpu ended with status 2: error: " in last
