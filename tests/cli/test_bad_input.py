"""Whatever is wrong with what the user gives: one sentence, exit code 2, no trace, nothing on stdout."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import STUDY, Run

Arguments = tuple[object, ...]


def changed(folder: Path, old: str, new: str) -> Path:
    assert old in STUDY
    path = folder / "bad.toml"
    path.write_text(STUDY.replace(old, new))
    return path


def binary(folder: Path) -> Path:
    path = folder / "bad.toml"
    path.write_bytes(b"\x89PNG\xff\xfe\0")
    return path


def huge(folder: Path) -> Path:
    path = folder / "bad.toml"
    path.write_text("# x\n" * 300_000)
    return path


def text_as_database(folder: Path) -> str:
    path = folder / "notes.txt"
    path.write_text("these are notes and no database at all\n" * 50)
    return f"sqlite:///{path}"


def other_database(folder: Path) -> str:
    with sqlite3.connect(folder / "other.db") as connection:
        connection.execute("CREATE TABLE things (name TEXT)")
    connection.close()
    return f"sqlite:///{folder / 'other.db'}"


def broken_npz(folder: Path) -> Path:
    path = folder / "data.npz"
    path.write_bytes(b"PK\x03\x04 not an archive")
    return path


def npz_without_labels(folder: Path) -> Path:
    path = folder / "data.npz"
    np.savez(path, x=np.zeros((8, 4, 4), dtype=np.float32))
    return path


def from_npz(path: Path) -> Arguments:
    return ("--set", "data.name=npz", "--set", f"data.path={str(path)!r}")


FILES: dict[str, tuple[Callable[[Path], Arguments], str]] = {
    "unknown preset": (lambda _: ("digitz",), "did you mean digits?"),
    "missing file": (lambda folder: (folder / "no.toml",), "there is no file"),
    "folder": (lambda folder: (folder,), "is a folder"),
    "binary file": (lambda folder: (binary(folder),), "not UTF-8"),
    "huge file": (lambda folder: (huge(folder),), "is larger than"),
    "syntax": (lambda folder: (changed(folder, "trials = 6", "trials 6"),), "line 5"),
    "unknown key": (
        lambda folder: (changed(folder, "trials = 6", "trails = 6"),),
        "study.trails: got 6; there is no such key; did you mean trials?",
    ),
    "unknown section": (
        lambda folder: (changed(folder, "[router]", "[ruoter]"),),
        "did you mean router?",
    ),
    "no name": (lambda folder: (changed(folder, 'name = "tiny"', ""),), "study.name: got nothing"),
    "wrong type": (
        lambda folder: (changed(folder, "trials = 6", 'trials = "6"'),),
        'study.trials: got "6"; must be a whole number',
    ),
    "unknown word": (
        lambda folder: (changed(folder, '"top-any"', '"topany"'),),
        "did you mean top-any?",
    ),
    "out of bounds": (
        lambda folder: (changed(folder, "d_model = 8", "d_model = 6"),),
        "a multiple of 4, which 6 is not",
    ),
    "empty range": (
        lambda folder: (changed(folder, "low = 1e-3", "low = 1"),),
        "the range is empty",
    ),
    "empty choice": (lambda folder: (changed(folder, "k = [1, 2]", "k = []"),), "at least 1 entry"),
    "conflict": (
        lambda folder: (changed(folder, "min_experts = 1", "min_experts = 3"),),
        "must be at most the smallest schedule.max_experts (2)",
    ),
    "set without value": (lambda _: ("digits", "--set", "router.k"), "section.key=value"),
    "set to nonsense": (
        lambda _: ("digits", "--set", "train.epochs=many"),
        'train.epochs: got "many" (from --set)',
    ),
    "missing data": (
        lambda folder: ("digits", *from_npz(folder / "no.npz")),
        "no.npz",
    ),
    "broken data": (lambda folder: ("digits", *from_npz(broken_npz(folder))), "data.npz"),
    "data without labels": (
        lambda folder: ("digits", *from_npz(npz_without_labels(folder))),
        "data.npz",
    ),
    "data without path": (lambda _: ("digits", "--set", "data.name=npz"), "needs the path"),
    "code that is not trusted": (
        lambda _: ("digits", "--set", 'model.backbone="package.module:Class"'),
        "--trust-code",
    ),
}


def is_one_sentence(stderr: str) -> bool:
    lines = stderr.splitlines()
    return len(lines) == 1 and lines[0].startswith("error: ") and len(lines[0]) < 600


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize("kind", FILES)
def test_bad_study_file(
    kind: str, command: str, cli: Run, tmp_path: Path, storage_url: str
) -> None:
    make, words = FILES[kind]
    storage = ("--storage", storage_url) if command == "run" else ()
    result = cli(command, *make(tmp_path), *storage)
    assert result.exit_code == 2, result.output
    assert is_one_sentence(result.stderr), result.stderr
    assert words in result.stderr
    assert result.stdout == ""


OPTIONS: dict[str, tuple[str, str]] = {
    "unknown command": ("rum digits", "Did you mean 'run'"),
    "unknown option": ("run digits --trails 3", "No such option"),
    "missing argument": ("run", "Missing argument"),
    "too many arguments": ("list all", "unexpected extra argument"),
    "no trials": (
        "run digits --trials 0",
        "error: --trials must be a whole number of at least 1, got '0' (see dynamoe-search run",
    ),
    "trials in words": ("run digits --trials many", "--trials must be a whole number of at least"),
    "no epochs": ("run digits --epochs 0", "--epochs must be a whole number of at least 1"),
    "time in words": ("run digits --timeout soon", "error: --timeout: 'soon' is no length of time"),
    "time without unit": ("run digits --timeout 1h30", "without a unit"),
    "no time": ("run digits --timeout 0", "longer than nothing"),
    "bad name": ("run digits --name a/b", "study.name"),
    "unknown device": ("run digits --device tpu --storage {new}", "device"),
    "device that is not here": ("run digits --device cuda:99 --storage {new}", "cuda:99"),
    "storage is no URL": ("run digits --storage here", "not a database URL"),
    "unknown kind of database": ("list --storage oracl://x/y", "unknown kind of database"),
    "storage in no folder": ("run digits --storage sqlite:////no/such/x.db", "does not exist"),
    "storage is a text": ("list --storage {text}", "not a SQLite database"),
    "storage of another program": ("list --storage {other}", "belongs to another program"),
    "run into another program": ("run {file} --storage {other}", "belongs to another program"),
    "storage that is not there": ("front tiny --storage {new}", "there is no database"),
    "name that is taken": ("run {file} --storage {searched}", "resume"),
    "no threads": ("run digits --threads 0", "--threads must be a whole number from 1 to 1,024"),
    "fewer trials than are done": (
        "resume tiny --trials 2 --storage {searched}",
        "has 6 finished trials already",
    ),
    "resume of nothing": ("resume tinny --storage {searched}", "tiny"),
    "status of nothing": ("status nothing --storage {searched}", "nothing"),
    "front of nothing": ("front nothing --storage {searched}", "nothing"),
    "stop of nothing": ("stop nothing --storage {searched}", "nothing"),
    "delete of nothing": ("delete nothing --yes --storage {searched}", "nothing"),
    "trial that is not there": ("show tiny 999 --storage {searched}", "999"),
    "trial in words": (
        "show tiny best --storage {searched}",
        "TRIAL must be a whole number, got 'best'",
    ),
    "export of nothing": ("export tiny 999 --out {folder}/out --storage {searched}", "999"),
    "export without a folder": ("export tiny 1 --storage {searched}", "--out"),
    "bound without number": ("front tiny --at-most accuracy --storage {searched}", "=NUMBER"),
    "bound in words": ("front tiny --at-most accuracy=high --storage {searched}", "is no number"),
    "unknown measure": ("front tiny --at-least speed=1 --storage {searched}", "was not measured"),
    "two formats": ("front tiny --json --csv --storage {searched}", "choose one"),
    "schedule upside down": ("schedules --min-experts 9 --max-experts 2", "min_experts"),
    "total without match": ("schedules --total 9", "--match total"),
    "training of a range": ("train {file}", "fix them"),
    "more epochs than a database keeps": (
        "run digits --epochs 99999999999999999999 --storage {new}",
        "--epochs must be at most 1,000,000,000, got 99999999999999999999",
    ),
    "a trial that no database keeps": (
        "show tiny 99999999999999999999 --storage {searched}",
        "TRIAL must be at most 1,000,000,000",
    ),
    "half a GPU too many": (
        "run digits --gpus-per-worker 1.5",
        "--gpus-per-worker must be a number from 0 to 1, got '1.5'",
    ),
    "layers beyond the range": (
        "schedules --layers 65",
        "--layers must be a whole number from 1 to 64, got '65'",
    ),
    "a seed that is none": ("sample x --seed -1", "--seed must be a whole number from 0 to 4,294"),
    "preset that is not there": ("presets cifar", "did you mean cifar10?"),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_bad_option(kind: str, cli: Run, tmp_path: Path, study_file: Path, searched: str) -> None:
    line, words = OPTIONS[kind]
    places = {
        "folder": tmp_path,
        "file": study_file,
        "new": f"sqlite:///{tmp_path / 'new.db'}",
        "text": text_as_database(tmp_path),
        "other": other_database(tmp_path),
        "searched": searched,
    }
    result = cli(*(word.format(**places) for word in line.split()))
    assert result.exit_code == 2, result.output
    assert is_one_sentence(result.stderr), result.stderr
    assert words in result.stderr
    if "--json" not in line:
        assert result.stdout == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_read_only_database(cli: Run, tmp_path: Path, storage_url: str) -> None:
    assert cli("delete", "x", "--yes", "--storage", storage_url).exit_code == 2
    path = tmp_path / "studies.db"
    path.touch(mode=0o400)
    result = cli("run", "digits", "--storage", storage_url)
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


def test_every_problem_of_a_file_has_its_line(cli: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('[study]\nname = "a/b"\ntrials = 0\n[router]\nkind = "topk"\n')
    result = cli("check", path)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"error: {path}: ") for line in lines)


def test_problems_as_json(cli: Run, tmp_path: Path) -> None:
    import json

    path = tmp_path / "bad.toml"
    path.write_text('[study]\nname = "a"\ntrials = 0\n')
    result = cli("check", path, "--json")
    assert result.exit_code == 2
    (problem,) = json.loads(result.stdout)["problems"]
    assert problem == {"path": "study.trials", "got": "0", "allowed": "must be at least 1"}


def test_debug_shows_the_trace_before_or_behind_the_command(cli: Run) -> None:
    for arguments in (("--debug", "presets", "x"), ("presets", "x", "--debug")):
        result = cli(*arguments)
        assert result.exit_code == 2
        assert "Traceback" in result.stderr
        assert result.stderr.splitlines()[-1].startswith("error: there is no preset")


def test_storage_of_files_whose_package_is_missing(
    cli: Run, study_file: Path, storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMOE_SEARCH_FILES", "abfs://bucket/x?key=sesame")
    done = cli("run", study_file, "--storage", storage_url)
    assert done.exit_code == 2
    assert (
        "DYNAMOE_SEARCH_FILES=abfs://bucket/x?key=*** needs the Python package adlfs" in done.stderr
    )
    assert "install it with: pip install adlfs" in done.stderr
    assert "sesame" not in done.output
    assert "no studies" in cli("list", "--storage", storage_url).stdout
