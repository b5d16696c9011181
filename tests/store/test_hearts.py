"""Signs of life: a busy process of another machine is heard, and one that was silent writes over nobody's work."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from dynamoe_search.errors import LeaseLostError
from dynamoe_search.store import Store, runs
from dynamoe_search.store.runs import Watcher
from tests.store.builders import add, leg_of, report
from tests.store.working import close

CONTEXT = multiprocessing.get_context("spawn")
SILENCE = 2.0


def train_for_long(url: str, folder: Path) -> None:
    """A worker of another machine, so to say, that computes for long and asks the database for nothing."""
    runs.HEARTBEAT_SECONDS = 0.3
    with closing(Store.open(url)) as store:
        worker = store.join("tiny")
        leg = leg_of(store, "tiny", worker, [0], end=1)
        with store._database.write() as connection:
            connection.exec_driver_sql("update dynamoe_workers set host = 'elsewhere'")
        (folder / "trains").touch()
        while not (folder / "report").exists():
            time.sleep(0.05)
        for act in (
            lambda: store.add_progress("tiny", [report(0, 1, accuracy=0.1)], leg),
            lambda: store.require_leg("tiny", leg),
            lambda: close(store, "tiny", worker, leg),
        ):
            try:
                act()
                said = "stored"
            except LeaseLostError:
                said = "lost"
            with (folder / "said").open("a") as file:
                file.write(f"{said}\n")


def wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def elsewhere(store: Store, folder: Path) -> Iterator["multiprocessing.context.SpawnProcess"]:
    add(store, "tiny", 0)
    process = CONTEXT.Process(target=train_for_long, args=(store.url, folder))
    process.start()
    try:
        wait((folder / "trains").exists)
        yield process
    finally:
        process.kill()
        process.join()


def observe(store: Store) -> Store:
    """Another observer, who takes a silence of seconds for death."""
    other = Store.open(store.url)
    other._watcher = Watcher(silence_seconds=SILENCE)
    return other


@pytest.mark.slow
@pytest.mark.usefixtures("study")
def test_worker_that_computes_for_long_is_heard(store: Store, tmp_path: Path) -> None:
    with elsewhere(store, tmp_path) as process, closing(observe(store)) as other:
        me = other.join("tiny")
        deadline = time.monotonic() + 2.5 * SILENCE
        while time.monotonic() < deadline:
            assert not other.take_leg("tiny", me, 0)
            time.sleep(0.1)
        (tmp_path / "report").touch()
        process.join()
        assert (tmp_path / "said").read_text().split() == ["stored", "stored", "stored"]


@pytest.mark.slow
@pytest.mark.usefixtures("study")
def test_worker_that_slept_writes_over_nobody(store: Store, tmp_path: Path) -> None:
    with elsewhere(store, tmp_path) as process, closing(observe(store)) as other:
        me = other.join("tiny")
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        wait(lambda: other.take_leg("tiny", me, 0))
        (leg,) = other.legs("tiny")
        other.add_progress("tiny", [report(0, 1, accuracy=0.9)], leg)
        (tmp_path / "report").touch()
        os.kill(process.pid, signal.SIGCONT)
        process.join()
        assert (tmp_path / "said").read_text().split() == ["lost", "lost", "lost"]
        assert [one.accuracy for one in other.progress("tiny")] == [0.9]
        close(other, "tiny", me, leg)


def test_leg_that_is_over_takes_no_reports(store: Store, study: str) -> None:
    add(store, study, 0)
    worker = store.join(study)
    leg = leg_of(store, study, worker, [0], end=1)
    store.add_progress(study, [report(0, 1)], leg)
    store.require_leg(study, leg)
    close(store, study, worker, leg)
    with pytest.raises(LeaseLostError):
        store.add_progress(study, [report(0, 1)], leg)
    with pytest.raises(LeaseLostError):
        store.require_leg(study, replace(leg, number=9))


def test_beats_are_counted_and_time_is_kept(
    store: Store, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "HEARTBEAT_SECONDS", 0.1)
    worker = store.join(study)
    store._leases[study]._began -= 60
    wait(lambda: store.workers(study)[0].beats >= 2)
    (found,) = store.workers(study)
    assert found.seconds == pytest.approx(60, abs=10)
    assert store.study(study).seconds_spent >= found.seconds
    store.leave(study, worker, "interrupted")
    beats = store.workers(study)[0].beats
    time.sleep(0.5)
    assert store.workers(study)[0].beats == beats
