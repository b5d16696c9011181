"""Clusters in which something is wrong: a sentence that says which machine and what to do; with real processes."""

import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from benchmarks.faults.machine import FAKETIME
from dynamoe_search.store import Store
from dynamoe_search.store.database import CONNECT_SECONDS
from tests.cli.conftest import STUDY, Run
from tests.postgres import url_of

ROOT = Path(__file__).parents[2]
HOST = platform.node()
MACHINE = """
import importlib.metadata, os, platform
platform.node = lambda: os.environ["TEST_HOST"]
real = importlib.metadata.version
importlib.metadata.version = lambda name: os.environ.get("TEST_" + name.upper()) or real(name)
"""
"""Loaded by Python before the program: another machine, perhaps with another torch."""


@pytest.fixture
def with_password(postgres: str) -> Iterator[str]:
    """URL of a user whose password the server wants to have; `{}` stands for it."""
    rules = Path(postgres) / "pg_hba.conf"
    before = rules.read_text()
    engine = sa.create_engine(url_of(postgres, "postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE ROLE careful LOGIN PASSWORD 'right-one'")
        rules.write_text(f"local all careful scram-sha-256\n{before}")
        connection.exec_driver_sql("SELECT pg_reload_conf()")
        yield url_of(postgres, "postgres").replace("postgres:@", "careful:{}@", 1)
        rules.write_text(before)
        connection.exec_driver_sql("SELECT pg_reload_conf()")
        connection.exec_driver_sql("DROP ROLE careful")
    engine.dispose()


def refused(cli: Run, url: str) -> str:
    done = cli("list", "--storage", url)
    assert (done.exit_code, done.stdout) == (2, "")
    assert len(done.stderr.strip().splitlines()) == 1
    return str(done.stderr)


def test_wrong_password(cli: Run, with_password: str) -> None:
    deadline = time.monotonic() + 20
    while "refuses the user or the password; correct" not in (
        said := refused(cli, with_password.format("wrong-one"))
    ):
        assert time.monotonic() < deadline, said  # the server has to read its rules again
    assert "wrong-one" not in said
    assert f"asked by {HOST}" in said
    assert "PGPASSWORD or ~/.pgpass" in said
    assert "has no studies" in refused(cli, with_password.format("right-one"))


def test_unknown_database_and_user(cli: Run, postgres: str) -> None:
    said = refused(cli, url_of(postgres, "nosuch"))
    assert "is not there; make it with createdb" in said
    assert f"asked by {HOST}" in said
    stranger = url_of(postgres, "postgres").replace("postgres:@", "stranger:@", 1)
    assert "has no such user; correct the URL" in refused(cli, stranger)


def test_no_server(cli: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    said = refused(cli, f"postgresql+psycopg://me:secret@127.0.0.1:{port}/studies")
    assert "nobody listens there; check host and port" in said
    assert "secret" not in said
    assert "its host is not known here" in refused(cli, "postgresql+psycopg://me@no.invalid/x")


def test_server_that_says_nothing(cli: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg://me@127.0.0.1:{silent.getsockname()[1]}/x"
        start = time.monotonic()
        said = refused(cli, f"{url}?connect_timeout=2")
        assert "does not answer; check that this machine" in said
        assert time.monotonic() - start < CONNECT_SECONDS


class Machine:
    """A machine of the cluster.

    Args:
        name: What it calls itself.
        folder: With its own `sitecustomize`.
        environment: More of it.
    """

    def __init__(self, name: str, folder: Path, **environment: str) -> None:
        (folder / "sitecustomize.py").write_text(MACHINE)
        self.environment = {
            **os.environ,
            "TEST_HOST": name,
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            **environment,
        }

    def start(self, *words: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), *(str(one) for one in words)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def refused(self, *words: object) -> str:
        """Runs a command that must end with one sentence."""
        process = self.start(*words)
        out, said = process.communicate(timeout=240)
        assert (process.returncode, out) == (2, ""), said
        assert "Traceback" not in said
        return said


def wait(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_machines_that_do_not_fit_are_refused_and_clocks_have_no_say(
    postgres_store_url: str, tmp_path: Path
) -> None:
    study = tmp_path / "study.toml"
    study.write_text(
        STUDY.replace("trials = 6", "trials = 500").replace("epochs = 2", "epochs = 9")
    )
    where = ("--storage", postgres_store_url)
    shared, wrong = str(tmp_path / "shared"), str(tmp_path / "not-mounted")
    files, clocks = {"DYNAMOE_SEARCH_FILES": shared}, [{}, {}]
    if FAKETIME.exists():
        clocks = [{"LD_PRELOAD": str(FAKETIME), "FAKETIME": days} for days in ("-1d", "+1d")]
    first = Machine("alpha", tmp_path, **files, **clocks[0]).start(
        "run", study, "--threads", 1, "--device", "cpu", "--quiet", *where
    )
    started = [first]
    try:
        with Store.open(postgres_store_url) as store:
            wait(lambda: bool(store.studies()) and bool(store.legs("tiny")), first)
            elsewhere = Machine("beta", tmp_path, DYNAMOE_SEARCH_FILES=wrong)
            said = elsewhere.refused("worker", "tiny", *where)
            assert f"the files of the study 'tiny' are in {shared}/" in said
            assert "on alpha, and beta looks in" in said
            assert f"DYNAMOE_SEARCH_FILES is {wrong}" in said
            assert not Path(wrong).exists()
            older = Machine("beta", tmp_path, **files, TEST_TORCH="1.9.9")
            said = older.refused("worker", "tiny", *where)
            assert f"by process {first.pid} on alpha, and beta has torch 1.9.9" in said
            assert "install the same versions on both" in said
            gamma = Machine("gamma", tmp_path, **files, **clocks[1])
            started.append(gamma.start("worker", "tiny", "--quiet", *where))
            wait(lambda: len({leg.worker for leg in store.legs("tiny")}) == 2, started[1])
            assert {one.host for one in store.workers("tiny") if one.is_alive} == {"alpha", "gamma"}
            store.request_stop("tiny")
            for process in started:
                said = process.communicate(timeout=240)[1]
                assert process.returncode == 1, said  # stopped, with a checkpoint
                assert "does not work on" not in said  # nobody was taken for dead
    finally:
        for process in started:
            process.kill()
            process.communicate()
