"""What studies are called, and what a foreign database says, is data."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from benchmarks.faults.bad_study_files import NAMES
from dynamoe_search.store import Store
from dynamoe_search.store.garbage import find_garbage, remove_garbage
from tests.cli.conftest import invoke
from tests.store.builders import SETTINGS


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(name=st.text(max_size=300) | st.sampled_from(NAMES))
@example(name="../../../etc/passwd")
@example(name="/absolute")
@example(name="CON")
@example(name="ü" * 300)
def test_the_files_of_any_study_stay_in_the_folder_of_files(name: str, storage_url: str) -> None:
    with Store.open(storage_url) as store:
        files = store.files_of(name)
        assert files.resolve().parent == store.folder.resolve()
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,60}", files.name)
        assert store.files_of(name + "x") != files


@pytest.mark.parametrize(
    "name", ["../../x", "a/b", "~", "-x", "a'; DROP TABLE x; --", "\x1b[31m", "a" * 300]
)
def test_a_name_that_leads_elsewhere_is_refused(
    name: str, tmp_path: Path, storage_url: str
) -> None:
    result = invoke("run", "digits", f"--name={name}", "--storage", storage_url)
    assert result.exit_code == 2
    assert "study.name" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../../x", "a'; DROP TABLE dynamoe_studies; --", '"', "%", "\x1b]0;x\x07"]
)
@pytest.mark.parametrize(
    "command", ["status", "resume", "stop", "delete --yes", "front", "show {} 1"]
)
def test_names_in_commands_are_only_compared(
    name: str, command: str, storage_url: str, tiny_spec: Any
) -> None:
    with Store.open(storage_url) as store:
        store.create_study(tiny_spec(), source="x", settings=SETTINGS)
    words = [name if word == "{}" else word for word in command.split()]
    arguments = words if "{}" in command else [words[0], name, *words[1:]]
    result = invoke(*arguments, "--storage", storage_url)
    assert result.exit_code == 2
    assert result.stderr.replace("\n", "").isprintable()
    assert "tiny" in invoke("list", "--storage", storage_url).stdout


def test_files_that_are_links_are_not_followed(
    storage_url: str, tmp_path: Path, tiny_spec: Any
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept.partial").write_text("kept")
    with Store.open(storage_url) as store:
        store.create_study(tiny_spec(), source="x", settings=SETTINGS)
        files = store.files_of("tiny")
        files.mkdir(parents=True, exist_ok=True)
        (files / "link").symlink_to(outside)
        (files / "kept.partial").symlink_to(outside / "kept.partial")
        (store.folder / "stranger").symlink_to(outside)
        remove_garbage(store, find_garbage(store))
        assert not (store.folder / "stranger").exists()
        store.delete_study("tiny")
        assert not files.exists()
    assert (outside / "kept.partial").read_text() == "kept"


def hostile_database(url: str, tiny_spec: Any) -> str:
    """A database made by someone else: every free text in it holds what a terminal or rich would act on."""
    bad = "\x1b]0;owned\x07\x1b[2J\x9b31m[red]x[/red]\u202e"
    spec = tiny_spec(study={"name": "tiny", "description": bad})
    with Store.open(url) as store:
        store.create_study(spec, source=bad, settings=replace(SETTINGS, versions={bad: bad}))
    import sqlite3

    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    connection.execute("PRAGMA foreign_keys=OFF")
    tables = [
        row[0]
        for row in connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'dynamoe_%'")
        if row[0].startswith("dynamoe_")
    ]
    known = {row[1] for row in connection.execute("PRAGMA table_info(dynamoe_studies)")}
    for column in {"source", "state", "device", "host", "created_at", "updated_at"} & known:
        connection.execute(f"UPDATE dynamoe_studies SET {column} = ?", (bad,))
    for table in tables:
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        if "study_name" in columns:
            connection.execute(f"UPDATE {table} SET study_name = ?", (bad,))
    connection.execute("UPDATE studies SET study_name = ?", (bad,))
    connection.commit()
    connection.close()
    return bad


@pytest.mark.parametrize(
    "command",
    [
        "list",
        "list --json",
        "status {}",
        "status {} --json",
        "front {}",
        "stop {}",
        "show {} 0",
        "resume {} --timeout 1s",
    ],
)
def test_what_a_foreign_database_says_does_nothing_to_the_terminal(
    command: str, storage_url: str, tiny_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    bad = hostile_database(storage_url, tiny_spec)
    words = [bad if word == "{}" else word for word in command.split()]
    result = invoke(*words, "--storage", storage_url)
    for text in (result.stdout, result.stderr):
        assert text.replace("\n", "").isprintable(), text
    if command.startswith(("list", "status")):
        assert result.exit_code == 0, result.stderr
        assert "owned" in result.stdout
        assert "[red]x[/red]" in result.stdout
