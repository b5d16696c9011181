"""Databases that cannot be used: one clear sentence each, no password, no traceback of a library."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa

from dynamoe_search.errors import StorageError
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store, default_url, masked
from dynamoe_search.store.problems import problem
from dynamoe_search.store.tables import SCHEMA_VERSION
from tests.store.builders import SETTINGS, add_complete


def refuses(url: str | None, *parts: str, create: bool = True) -> str:
    with pytest.raises(StorageError) as caught:
        Store.open(url, create=create, busy_timeout_seconds=0.2)
    message = str(caught.value)
    for part in parts:
        assert part in message
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


@contextlib.contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


@pytest.mark.parametrize(
    "text", ["", "studies.db", "sqlite:/x.db", "://", "sqlite", "postgresql://me@host:port/x"]
)
def test_text_that_is_no_url(text: str) -> None:
    refuses(text, "is not a database URL", "sqlite:///studies.db")


def test_unknown_kind_of_database() -> None:
    refuses("redis://localhost", "unknown kind of database (redis)")
    refuses("sqlite+nothing:///x.db", "unknown kind of database (sqlite+nothing)")


def test_driver_that_is_not_installed() -> None:
    try:
        sa.make_url("mysql://localhost/x").get_dialect().import_dbapi()
    except ImportError:
        refuses("mysql://me:secret@localhost/x", "needs the Python package", "***")
    else:
        pytest.skip("the driver of MySQL is installed here")


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x.db?uri=true", "sqlite:///a\0b"]
)
def test_database_that_is_no_lasting_file(url: str) -> None:
    refuses(url, "is not a file that lasts")


def test_missing_folder(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/no/such/x.db"
    refuses(url, str(tmp_path / "no/such"), "does not exist")
    (tmp_path / "no").touch()
    refuses(f"sqlite:///{tmp_path}/no/x.db", "is not a folder")


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    refuses(f"sqlite:///{tmp_path}", str(tmp_path), "is a folder")


def test_special_file() -> None:
    refuses("sqlite:////dev/null", "not an ordinary file")


def test_name_that_is_too_long(tmp_path: Path) -> None:
    refuses(f"sqlite:///{tmp_path}/{'x' * 300}.db", "cannot be opened")


def test_missing_database_is_not_made_by_reading(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    refuses(f"sqlite:///{path}", "there is no database", str(path), create=False)
    assert not path.exists()


def test_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_text("[study]\nname = 'not a database'\n" * 100)
    before = path.read_bytes()
    refuses(f"sqlite:///{path}", str(path), "is not a SQLite database")
    assert path.read_bytes() == before


def test_damaged_database(storage_url: str, tiny_spec: Callable[..., StudySpec]) -> None:
    with Store.open(storage_url) as store:
        store.create_study(tiny_spec(), source="x", settings=SETTINGS)
        for ordinal in range(5):
            add_complete(store, "tiny", ordinal, 0.5, ordinal)
    path = Path(storage_url.removeprefix("sqlite:///"))
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StorageError, match="is damaged"):
        use_everything(storage_url)


def use_everything(url: str) -> None:
    with Store.open(url, busy_timeout_seconds=0.2) as store:
        store.studies()
        store.candidates("tiny")


def test_newer_tables(storage_url: str) -> None:
    Store.open(storage_url).close()
    with connected(Path(storage_url.removeprefix("sqlite:///"))) as connection:
        connection.execute("update dynamoe_schema set version = ?", (SCHEMA_VERSION + 6,))
    refuses(storage_url, "newer dynamoe-search", "upgrade")
    with connected(Path(storage_url.removeprefix("sqlite:///"))) as connection:
        connection.execute("update dynamoe_schema set version = 0")
    refuses(storage_url, "unknown version 0")


def test_tables_of_another_version_of_optuna(storage_url: str) -> None:
    with Store.open(storage_url) as store:
        store.storage_for_optuna()
    with connected(Path(storage_url.removeprefix("sqlite:///"))) as connection:
        connection.execute("update alembic_version set version_num = 'v99.0.0.a'")
    with (
        Store.open(storage_url) as store,
        pytest.raises(StorageError, match="another version of Optuna"),
    ):
        store.storage_for_optuna()


def test_tables_that_someone_dropped(storage_url: str) -> None:
    Store.open(storage_url).close()
    with connected(Path(storage_url.removeprefix("sqlite:///"))) as connection:
        connection.execute("drop table dynamoe_front")
    with Store.open(storage_url) as store, pytest.raises(StorageError, match="lacks a table"):
        store.studies()


def test_database_of_optuna_alone(storage_url: str) -> None:
    storage = optuna.storages.RDBStorage(storage_url)
    storage.engine.dispose()
    refuses(storage_url, "has no studies of dynamoe-search", create=False)
    with Store.open(storage_url) as store:
        assert store.studies() == []


@pytest.mark.parametrize("create", [True, False])
def test_database_of_another_program_is_left_as_it_is(create: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with connected(path) as connection:
        connection.execute("create table notes (id integer primary key, words text)")
    before = path.read_bytes()
    refuses(f"sqlite:///{path}", "another program", "the table notes", "--storage", create=create)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_database_of_ours_with_another_table_in_it(storage_url: str) -> None:
    Store.open(storage_url).close()
    with connected(Path(storage_url.removeprefix("sqlite:///"))) as connection:
        connection.execute("create table a_note (words text)")
    Store.open(storage_url, create=False).close()


def test_database_that_another_program_locks(
    storage_url: str, tiny_spec: Callable[..., StudySpec]
) -> None:
    with (
        Store.open(storage_url, busy_timeout_seconds=0.2) as store,
        connected(Path(storage_url.removeprefix("sqlite:///"))) as connection,
    ):
        store.create_study(tiny_spec(), source="x", settings=SETTINGS)
        connection.execute("begin immediate")
        with pytest.raises(StorageError, match="is locked by another program"):
            store.request_stop("tiny")
        assert store.study("tiny").name == "tiny"  # reading needs no lock
        connection.execute("rollback")
        store.request_stop("tiny")


READ_ONLY = """
import os, sys
from dynamoe_search.errors import StorageError
from dynamoe_search.store import Store
os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
try:
    Store.open("sqlite:///" + sys.argv[1])
except StorageError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_cannot_be_written(what: str) -> None:
    user = 65534 if os.geteuid() == 0 else os.geteuid()  # root may write everything
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "x.db"
        Store.open(f"sqlite:///{path}").close()
        path.chmod(0o444 if what == "file" else 0o666)
        folder.chmod(0o777 if what == "file" else 0o555)
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(path), str(user)],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        folder.chmod(0o777)
    assert done.stderr == ""
    assert "cannot be written" in done.stdout
    assert str(path) in done.stdout


def test_passwords_are_never_shown() -> None:
    for text in (
        "postgresql://me:se:cr@et@host/x",
        "unknown://me:secret@host/x",
        "postgresql+psycopg://me:secret@host/x?password=secret&sslmode=require",
        "sqlite://me:secret@host/x.db",
        "postgresql://me:secret@host:port/x",
    ):
        assert "cret" not in masked(text)
        with pytest.raises(StorageError) as caught:
            Store.open(text)
        assert "secret" not in str(caught.value)
        assert "cr@et" not in str(caught.value)
        assert "host" in str(caught.value)
    url = sa.make_url("postgresql://me:hidden@host/x")
    assert "hidden" not in str(problem(url, OSError("connection of me:hidden refused")))


@pytest.mark.parametrize("name", ["with space.db", "ü-{x}%41+#.db", "plain"])
def test_any_file_name_works_and_the_shown_url_opens_it_again(tmp_path: Path, name: str) -> None:
    url = sa.URL.create("sqlite", database=str(tmp_path / name))
    with Store.open(url.render_as_string(hide_password=False)) as store:
        store.storage_for_optuna()
        shown = store.url
        assert store.folder == tmp_path / f"{name}.files"
    assert (tmp_path / name).is_file()
    assert sa.make_url(shown).database == str(tmp_path / name)


def test_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Store.open("sqlite:///x.db") as store:
        monkeypatch.chdir("/")
        store.storage_for_optuna()
        assert store.studies() == []
        assert store.folder == tmp_path / "x.db.files"
    assert (tmp_path / "x.db").is_file()


def test_default_is_the_environment_then_the_user_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DYNAMOE_SEARCH_STORAGE", raising=False)
    refuses(None, "there is no database", create=False)
    with Store.open() as store:
        assert store.studies() == []
    assert default_url().startswith("sqlite:///")
    assert default_url().endswith("studies.db")
    monkeypatch.setenv("DYNAMOE_SEARCH_STORAGE", f"sqlite:///{tmp_path}/mine.db")
    Store.open().close()
    assert (tmp_path / "mine.db").is_file()


def test_connections_wait_and_log_ahead(storage_url: str) -> None:
    with Store.open(storage_url) as store:
        for engine in (store.storage_for_optuna().engine, store._database.engine):
            with engine.connect() as connection:
                found = [
                    connection.exec_driver_sql(f"pragma {name}").scalar()
                    for name in ("journal_mode", "busy_timeout", "foreign_keys")
                ]
            assert found == ["wal", 1000, 1]


def test_importing_the_store_imports_no_torch_and_says_nothing() -> None:
    code = (
        "import sys, warnings, logging; before = list(warnings.filters)\n"
        "import dynamoe_search.store\n"
        "assert 'torch' not in sys.modules\n"
        "import optuna; assert optuna.logging.get_verbosity() == logging.INFO\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
