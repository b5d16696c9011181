"""A worker waits for a database that is locked or out of reach; everybody else is told at once."""

import contextlib
import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dynamoe_search.errors import StorageError
from dynamoe_search.records import Ended
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store, patience, runs
from dynamoe_search.store.trials import Addition
from tests.store.builders import (
    DISTRIBUTIONS,
    SETTINGS,
    add,
    candidate,
    complete,
    leg_of,
    params,
    report,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.mkdir()
    return path


@pytest.fixture
def opened(folder: Path, tiny_spec: Callable[..., StudySpec]) -> Iterator[Store]:
    """A store whose connections give up waiting for a lock after a tenth of a second."""
    with Store.open(f"sqlite:///{folder / 'studies.db'}", busy_timeout_seconds=0.1) as store:
        store.create_study(tiny_spec(), source="x", settings=SETTINGS)
        add(store, "tiny", 0)
        yield store


@contextlib.contextmanager
def later(act: Callable[[], object], seconds: float = 1.0) -> Iterator[None]:
    timer = threading.Timer(seconds, act)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def do_everything(store: Store) -> None:
    """Uses every kind of access: ours and Optuna's, reading and writing."""
    worker = store.join("tiny")
    store.set_trials("tiny", 9)
    trial = add(store, "tiny", 1)
    leg = leg_of(store, "tiny", worker, [trial])
    store.add_progress("tiny", [report(1, 1)])
    ended = [Ended(trial=trial, outcome=complete(1, 0.5, 5.0), values=(0.5, 5.0))]
    store.close_leg("tiny", worker, leg.number, ended=ended, stood=[], versions={})
    assert [one.trial for one in store.refresh_front("tiny")] == [trial]
    assert store.zombies("tiny") == []


def test_worker_waits_for_a_lock(
    opened: Store, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened.join("tiny")
    lock = sqlite3.connect(folder / "studies.db", isolation_level=None, check_same_thread=False)
    with contextlib.closing(lock):
        lock.execute("begin immediate")
        with later(lambda: lock.execute("rollback")), caplog.at_level(logging.WARNING):
            began = time.monotonic()
            do_everything(opened)
            assert time.monotonic() - began > 0.8
    assert caplog.text.count("is locked by another program") == 1  # at most once a minute
    assert "trying again for up to 10 minutes" in caplog.text
    assert {one.level for one in opened.check()} == {"ok"}


def test_lock_between_our_rows_and_optunas(opened: Store, folder: Path) -> None:
    worker = opened.join("tiny")
    leg = leg_of(opened, "tiny", worker, [0])
    lock = sqlite3.connect(folder / "studies.db", isolation_level=None, check_same_thread=False)
    tell = opened._tell
    waiting = []

    def locked_tell(*arguments: Any) -> None:
        if not waiting:
            lock.execute("begin immediate")
            waiting.append(threading.Timer(0.7, lambda: lock.execute("rollback")))
            waiting[0].start()
        tell(*arguments)

    opened._tell = locked_tell  # type: ignore[method-assign]
    with contextlib.closing(lock):
        ended = [Ended(trial=0, outcome=complete(0, 0.5, 5.0), values=(0.5, 5.0))]
        opened.close_leg("tiny", worker, leg.number, ended=ended, stood=[], versions={})
        waiting[0].join()
    assert opened.zombies("tiny") == opened.replay_tells("tiny") == []


def test_patience_ends(opened: Store, folder: Path) -> None:
    opened.join("tiny")
    opened._database.patience.seconds = 0.5
    lock = sqlite3.connect(folder / "studies.db", isolation_level=None)
    with contextlib.closing(lock):
        lock.execute("begin immediate")
        began = time.monotonic()
        with pytest.raises(StorageError, match="is locked by another program"):
            opened.set_trials("tiny", 9)
        assert time.monotonic() - began > 0.5
        lock.execute("rollback")
    opened.set_trials("tiny", 9)


def test_worker_waits_for_a_folder_that_was_away(opened: Store, folder: Path) -> None:
    opened.join("tiny")
    away = folder.with_name("away")
    folder.rename(away)
    with later(lambda: away.rename(folder)):
        do_everything(opened)
    assert {one.level for one in opened.check()} == {"ok"}


def test_batch_that_is_tried_again_leaves_no_trials_behind(opened: Store, folder: Path) -> None:
    opened.join("tiny")
    path, away = folder / "studies.db", folder / "away.db"
    additions = [
        Addition(
            candidate=candidate(ordinal),
            params=params(ordinal),
            distributions=DISTRIBUTIONS,
            cohort=0,
            sampler_state={},
        )
        for ordinal in range(1, 60)
    ]

    def move() -> None:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            while connection.execute("select count(*) from trials").fetchone() < (9,):
                time.sleep(0.001)
            path.rename(away)
        time.sleep(0.5)
        away.rename(path)

    mover = threading.Thread(target=move)
    mover.start()
    trials = opened.add_candidates("tiny", additions)
    mover.join()
    assert trials == list(range(1, 60))
    assert len(opened.storage_for_optuna().get_all_trials(1)) == 60
    assert opened.zombies("tiny") == []


def test_database_that_is_gone_is_not_made_again(opened: Store, folder: Path) -> None:
    path = folder / "studies.db"
    path.rename(folder / "elsewhere.db")
    for use in (
        opened.studies,
        lambda: opened.set_trials("tiny", 9),
        lambda: add(opened, "tiny", 1),
    ):
        with pytest.raises(StorageError, match="is gone: it was moved, removed or unmounted"):
            use()
    assert not path.exists()
    (folder / "elsewhere.db").rename(path)
    assert len(opened.candidates("tiny")) == 1


def test_another_file_in_its_place_is_not_used(opened: Store, folder: Path) -> None:
    path, away = folder / "studies.db", folder.with_name("away")
    folder.rename(away)
    folder.mkdir()
    for make in (path.touch, lambda: Store.open(f"sqlite:///{path}").close()):
        make()
        before = path.read_bytes()
        with pytest.raises(StorageError, match="is gone"):
            add(opened, "tiny", 1)
        with pytest.raises(StorageError, match="is gone"):
            opened.studies()
        assert path.read_bytes() == before
    shutil.rmtree(folder)
    away.rename(folder)
    assert [one.name for one in opened.studies()] == ["tiny"]


def test_copy_of_the_database_in_its_place_is_used(opened: Store, folder: Path) -> None:
    path = folder / "studies.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    before = path.stat().st_ino
    shutil.copy(path, folder / "copy.db")
    (folder / "copy.db").replace(path)
    assert path.stat().st_ino != before
    do_everything(opened)
    assert len(opened.candidates("tiny")) == 2


def test_closing_does_not_wait(folder: Path, tiny_spec: Callable[..., StudySpec]) -> None:
    store = Store.open(f"sqlite:///{folder / 'studies.db'}", busy_timeout_seconds=0.1)
    store.create_study(tiny_spec(), source="x", settings=SETTINGS)
    store.join("tiny")
    shutil.rmtree(folder)
    began = time.monotonic()
    store.close()
    assert time.monotonic() - began < 5
    assert patience.PATIENCE_SECONDS == 600


def test_signs_of_life_go_on_after_the_database_was_away(
    opened: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "HEARTBEAT_SECONDS", 0.1)
    opened.join("tiny")
    away = folder.with_name("away")
    folder.rename(away)
    time.sleep(0.5)
    away.rename(folder)
    beats, deadline = opened.workers("tiny")[0].beats, time.monotonic() + 30
    while opened.workers("tiny")[0].beats == beats:
        assert time.monotonic() < deadline
        time.sleep(0.05)
