"""Databases of older versions are upgraded after a backup copy; a failure on the way changes nothing."""

import contextlib
import gzip
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from dynamoe_search.errors import StorageError
from dynamoe_search.records import Stood
from dynamoe_search.store import Store, migrations
from dynamoe_search.store.runs import boot, started, this_process
from dynamoe_search.store.tables import SCHEMA_VERSION, metadata
from tests.store.builders import leg_of, report

DATA = Path(__file__).parent / "data"
"""Dumps written by each version: the study `finished`, and `interrupted`, killed in the middle of its training.

That of version 1 was in its second cohort; those of later ones in a leg of trials 1, 3 and 5, with 0, 2 and 4 paused.
The first program of version 3 lacked a column and an index that the last one had.
"""
OLD = ("1", "2", "3-first", "3", "4")
NOBODY = 2**22 + 5
"""No process has this number."""


@contextlib.contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def rows(path: Path) -> list[str]:
    with connected(path) as connection:
        return list(connection.iterdump())


def make(path: Path, version: str = "1") -> None:
    dump = (DATA / f"version{version}.sql.gz").read_bytes()
    with connected(path) as connection:
        connection.executescript(gzip.decompress(dump).decode())
        if version != "1":
            connection.execute(
                "update dynamoe_workers set host = ?, pid = ?", (this_process().host, NOBODY)
            )


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "studies.db"
    make(path)
    return path


@pytest.fixture
def second(tmp_path: Path) -> Path:
    path = tmp_path / "studies.db"
    make(path, "2")
    return path


@pytest.mark.parametrize("version", OLD)
def test_old_database_is_upgraded_after_a_copy(
    version: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = tmp_path / "studies.db"
    make(old, version)
    before = rows(old)
    with caplog.at_level(logging.WARNING), Store.open(f"sqlite:///{old}", create=False) as store:
        assert [(one.name, one.state) for one in store.studies()] == [
            ("finished", "finished"),
            ("interrupted", "interrupted"),
        ]
    copy = old.with_name(f"studies.db.v{version[0]}-backup")
    assert str(copy) in caplog.text
    assert rows(copy) == before
    assert not list(old.parent.glob("*.partial"))
    caplog.clear()
    with Store.open(f"sqlite:///{old}") as store:
        assert store.check() == [
            one for one in store.check() if one.level == "ok" or "interrupted" in one.what
        ]
    assert caplog.text == ""
    assert len(list(old.parent.glob("*-backup*"))) == 1


@pytest.mark.parametrize("version", OLD)
def test_upgraded_tables_are_those_of_a_new_database(version: str, tmp_path: Path) -> None:
    old = tmp_path / "studies.db"
    make(old, version)
    Store.open(f"sqlite:///{old}").close()
    fresh = tmp_path / "fresh.db"
    Store.open(f"sqlite:///{fresh}").close()
    for table in metadata.tables:
        columns = []
        for path in (old, fresh):
            with connected(path) as connection:
                found = connection.execute(
                    'select name, type, "notnull", dflt_value, pk from pragma_table_info(?)',
                    (table,),
                )
                columns.append(sorted(found.fetchall()))
        assert columns[0] == columns[1]
    with connected(old) as connection:
        found = connection.execute("select version, database_id from dynamoe_schema").fetchone()
        assert found == (SCHEMA_VERSION, None)
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        assert connection.execute("pragma foreign_key_check").fetchall() == []


@pytest.mark.parametrize("version", OLD)
def test_results_stay_what_they_were(version: str, tmp_path: Path) -> None:
    old = tmp_path / "studies.db"
    make(old, version)
    with connected(old) as connection:
        query = (
            "select study_name, trial_number, values_json from dynamoe_evaluations order by 1, 2"
        )
        values = connection.execute(query).fetchall()
        query = (
            "select study_name, trial_number, place, values_json from dynamoe_front order by 1, 2"
        )
        front = connection.execute(query).fetchall()
    with Store.open(f"sqlite:///{old}") as store:
        for name in ("finished", "interrupted"):
            stored = store.front(name)
            assert store.refresh_front(name) == stored
            theirs = optuna.load_study(study_name=name, storage=store.storage_for_optuna())
            for record in store.candidates(name, status=("complete", "stopped")):
                assert record.outcome is not None
                assert record.epochs == record.outcome.epochs
                assert list((record.values or {}).values()) == (
                    theirs.trials[record.trial].values or []
                )
    with connected(old) as connection:
        query = (
            "select study_name, trial_number, values_json from dynamoe_evaluations order by 1, 2"
        )
        assert connection.execute(query).fetchall() == values
        query = (
            "select study_name, trial_number, place, values_json from dynamoe_front order by 1, 2"
        )
        assert connection.execute(query).fetchall() == front


def test_interrupted_study_goes_on(old: Path) -> None:
    with Store.open(f"sqlite:///{old}") as store:
        name = "interrupted"
        assert store.zombies(name) == [3, 4, 5]
        assert len(store.progress(name)) == 60 + 60 + 1 + 1 + 4 + 4
        worker = store.join(name)
        assert store.zombies(name) == []
        waiting = store.standings(name, status=("running",))
        assert [(one.trial, one.epochs, one.checkpoint) for one in waiting] == [
            (3, 0, None),
            (4, 0, None),
            (5, 0, None),
        ]
        leg = leg_of(store, name, worker, [3, 4, 5], end=1)
        assert leg.pack_key == waiting[0].pack_key
        assert store.candidate(name, 3).candidate.pack_key == leg.pack_key
        store.add_progress(name, [report(ordinal, 1) for ordinal in (3, 4, 5)])
        store.close_leg(
            name,
            worker,
            leg.number,
            ended=[],
            stood=[Stood(trial=trial, epochs=1, checkpoint="x") for trial in (3, 4, 5)],
            versions={},
        )
        store.leave(name, worker, "interrupted")
        assert store.study(name).num_paused == 3
        assert store.zombies(name) == []


@pytest.mark.parametrize("version", OLD[1:])
def test_paused_candidates_and_open_legs_go_on(version: str, tmp_path: Path) -> None:
    name = "interrupted"
    path = tmp_path / "studies.db"
    make(path, version)
    with Store.open(f"sqlite:///{path}") as store:
        record = store.study(name)
        assert (record.purpose, record.parent, record.plan_json, record.exhausted_at) == (
            "search",
            None,
            None,
            None,
        )
        assert (record.num_paused, record.num_running) == (3, 3)
        for one in store.candidates(name):
            (standing,) = [s for s in store.standings(name) if s.trial == one.trial]
            assert standing.pack_key == one.candidate.pack_key
        (left,) = store.legs(name, state="open")
        assert left.trials == (1, 3, 5)
        worker = store.join(name)
        assert store.take_leg(name, worker, left.number)
        waiting = store.standings(name, status=("paused",))
        assert {one.pack_key for one in waiting} == {left.pack_key}
        leg = leg_of(store, name, worker, [0, 2, 4], end=200)
        assert (leg.trials, leg.pack_key) == ((0, 2, 4), left.pack_key)
        store.leave(name, worker, "interrupted")


def test_worker_of_version_2_is_not_disturbed(second: Path) -> None:
    me = this_process()
    with connected(second) as connection:
        connection.execute(
            "update dynamoe_workers set pid = ?, process_mark = ? where left_at is null",
            (me.pid, me.mark),
        )
    before = rows(second)
    with pytest.raises(StorageError, match="older version of this program is running the study"):
        Store.open(f"sqlite:///{second}")
    assert rows(second) == before
    with connected(second) as connection:  # of another machine it is silent for long enough
        connection.execute("update dynamoe_workers set host = 'elsewhere'")
    Store.open(f"sqlite:///{second}").close()


def test_second_copy_gets_another_name(old: Path) -> None:
    old.with_name("studies.db.v1-backup").write_text("mine")
    Store.open(f"sqlite:///{old}").close()
    assert old.with_name("studies.db.v1-backup").read_text() == "mine"
    assert old.with_name("studies.db.v1-backup-2").is_file()


def test_failure_in_the_middle_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows(old)
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "from_text", lambda *_: {}["no such thing"])
        with pytest.raises(KeyError):
            Store.open(f"sqlite:///{old}")
    assert rows(old) == before
    with Store.open(f"sqlite:///{old}") as store:
        assert len(store.candidates("finished")) == 4


KILLED = """
import os, signal, sys
from dynamoe_search.store import Store, migrations
migrations.from_text = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
Store.open("sqlite:///" + sys.argv[1])
"""


def start(code: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_kill_in_the_middle_changes_nothing(old: Path) -> None:
    before = rows(old)
    process = start(KILLED, str(old))
    process.communicate()
    assert process.returncode == -9
    assert rows(old) == before
    with Store.open(f"sqlite:///{old}") as store:
        assert len(store.candidates("finished")) == 4
    assert rows(old.with_name("studies.db.v1-backup-2")) == before


OPEN = """
import sys
from dynamoe_search.store import Store
with Store.open("sqlite:///" + sys.argv[1]) as store:
    print(len(store.candidates("finished")), len(store.candidates("interrupted")))
"""


def test_of_processes_that_open_at_once_one_upgrades(old: Path) -> None:
    several = [start(OPEN, str(old)) for _ in range(3)]
    for process in several:
        output, problems = process.communicate()
        assert process.returncode == 0, problems
        assert output == "4 6\n"
    assert len(list(old.parent.glob("*.v1-backup*"))) == 1


def test_full_disk_leaves_the_old_database_usable(tmp_path: Path) -> None:
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder],
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        folder.rmdir()
        pytest.skip("this machine lets nobody mount a disk")
    try:
        path = folder / "studies.db"
        make(path)
        before = rows(path)
        with pytest.raises(StorageError, match=r"no backup copy can be.*nothing was changed"):
            Store.open(f"sqlite:///{path}")
        assert rows(path) == before
        assert not list(folder.glob("*backup*"))
        subprocess.run(["mount", "-o", "remount,size=4m", folder], check=True)
        with Store.open(f"sqlite:///{path}") as store:
            assert len(store.candidates("finished")) == 4
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


def test_older_program_at_work_is_not_disturbed(old: Path) -> None:
    me = this_process()
    mark = f"{boot()}:{started(me.pid)}"
    if not boot():
        pytest.skip("this system does not say when a process started")
    with connected(old) as connection:
        connection.execute(
            "update dynamoe_studies set host = ?, pid = ?, process_mark = ? where state = 'running'",
            (me.host, me.pid, mark),
        )
    before = rows(old)
    with pytest.raises(StorageError, match="older version of this program is running the study"):
        Store.open(f"sqlite:///{old}")
    assert rows(old) == before
    with connected(old) as connection:
        connection.execute("update dynamoe_studies set process_mark = 'x' where pid is not null")
    Store.open(f"sqlite:///{old}").close()
