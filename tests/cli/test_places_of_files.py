"""Where the files are to be is looked at before a study is made: that it lasts, answers, and can be written."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dynamoe_search.cli import waiting
from dynamoe_search.store import Store
from tests.cli.conftest import Run

FILES = "DYNAMOE_SEARCH_FILES"


def refused(cli: Run, *words: object) -> str:
    """Runs a command that must end with one sentence; returns all that it said."""
    result = cli(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sum(line.startswith("error: ") for line in result.stderr.splitlines()) == 1
    return str(result.stderr)


def no_study(url: str) -> bool:
    with Store.open(url) as store:
        return store.studies() == []


@contextmanager
def silent_server() -> Iterator[int]:
    """Yields a port where a call is taken and never answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("words", [("run", "digits"), ("resume", "x"), ("worker", "x"), ("list",)])
def test_memory_of_a_process_is_refused(
    words: tuple[str, ...], storage_url: str, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FILES, "memory://studies")
    said = refused(cli, *words, "--storage", storage_url)
    assert "memory://studies is the memory of one process, and gone when it ends" in said
    assert not Path(storage_url.removeprefix("sqlite:///")).exists()


def test_place_that_cannot_be_written_leaves_no_study(
    study_file: Path, storage_url: str, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FILES, str(study_file / "in-a-file"))
    said = refused(cli, "run", study_file, "--storage", storage_url)
    assert f"cannot write the files of the study in {study_file}/in-a-file" in said
    assert no_study(storage_url)


def test_nothing_is_left_of_the_look(storage_url: str) -> None:
    with Store.open(storage_url) as store:
        store.check_folder(is_for_new=False)
        assert not Path(str(store.folder)).exists()
        store.check_folder(is_for_new=True)
        assert list(Path(str(store.folder)).iterdir()) == []


def test_port_where_nobody_listens_leaves_no_study(
    study_file: Path, storage_url: str, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent_server() as port:
        pass
    monkeypatch.setenv(FILES, f"ftp://me:hunter2@127.0.0.1:{port}/x")
    said = refused(cli, "run", study_file, "--storage", storage_url)
    assert f"in ftp://me:***@127.0.0.1:{port}/x" in said
    assert "check that this machine reaches the storage" in said
    assert no_study(storage_url)


@pytest.mark.parametrize("word", ["run", "resume"])
def test_storage_that_says_nothing_is_told_of_and_given_up(
    word: str,
    study_file: Path,
    searched: str,
    storage_url: str,
    cli: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "NOTICE_SECONDS", 0.1)
    monkeypatch.setattr(waiting, "FILES_SECONDS", 1.0)
    url, what = (storage_url, study_file) if word == "run" else (searched, "tiny")
    with silent_server() as port:
        monkeypatch.setenv(FILES, f"ftp://me:hunter2@127.0.0.1:{port}/x")
        began = time.monotonic()
        said = refused(cli, word, what, "--storage", url)
    assert time.monotonic() - began < 10.0
    where = f"the files in ftp://me:***@127.0.0.1:{port}/x"
    assert f"waiting for {where}/" in said
    assert "cannot be reached: no answer within 1 seconds" in said
    assert word == "resume" or no_study(url)


def test_database_that_says_nothing_is_told_of(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "NOTICE_SECONDS", 0.1)
    with silent_server() as port:
        url = f"postgresql+psycopg://me:hunter2@127.0.0.1:{port}/x?connect_timeout=2"
        said = refused(cli, "resume", "tiny", "--storage", url)
        assert refused(cli, "resume", "tiny", "--quiet", "--storage", url).count("\n") == 1
    assert said.startswith(f"waiting for the database {url.replace('hunter2', '***')}\n")
    assert "does not answer" in said


def test_what_is_quick_is_not_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    with waiting.waiting_for("nothing"):
        pass
    with pytest.raises(KeyError), waiting.waiting_for("nothing"):
        raise KeyError
    assert capsys.readouterr().err == ""
    assert threading.active_count() <= before + 1
