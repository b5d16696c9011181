"""Whatever comes from someone else is data: study files, names, databases, checkpoints, exported models, arrays."""

import ast
import io
import json
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from benchmarks.faults.bad_study_files import NAMES
from dynamoe_search.cli.options import check_folder
from dynamoe_search.data import load_data
from dynamoe_search.errors import DataError, UsageError
from dynamoe_search.records import Candidate, Outcome
from dynamoe_search.specs import DataSection
from dynamoe_search.store import Store
from dynamoe_search.store.garbage import find_garbage, remove_garbage
from dynamoe_search.training.durable_files import sha256
from dynamoe_search.training.export import (
    CARD,
    CONFIG,
    FORMAT,
    WEIGHTS,
    ExportedConfig,
    load_model,
    save_model,
)
from dynamoe_search.training.manifests import Manifest
from dynamoe_search.training.settings import DamagedError
from dynamoe_search.training.state_files import StateFolder
from dynamoe_search.training.states import CandidateState, circumstances
from tests.cli.conftest import STUDY, invoke
from tests.store.builders import SETTINGS
from tests.training.populations import SETTINGS as TRAIN
from tests.training.populations import candidate, digits

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "dynamoe_search").rglob("*.py"))
CODE_LOADERS = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle", "yaml"}
NAMED_LOADERS = {"eval", "exec", "compile", "__import__"}


class Bomb:
    """Runs a command of its maker when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.canary,))


# What the code does not contain


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Yields every call in a file with the last part of what is called."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            called = node.func
            yield (
                called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", ""),
                node,
            )


def keyword(call: ast.Call, name: str) -> object:
    values = [word.value for word in call.keywords if word.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


def unsafe(path: Path) -> Iterator[str]:
    """Yields every line that could run what a file says."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name.partition(".")[0] in CODE_LOADERS:
                yield f"{path}:{node.lineno} imports {name}"
    for name, call in calls(path):
        where = f"{path}:{call.lineno} {name}"
        owner = ast.unparse(call.func)
        if owner in NAMED_LOADERS:
            yield where
        if owner == "torch.load" and keyword(call, "weights_only") is not True:
            yield f"{where} without weights_only"
        if owner in ("np.load", "numpy.load") and keyword(call, "allow_pickle") is not False:
            yield f"{where} without allow_pickle=False"
        if keyword(call, "shell") is True or owner in ("os.system", "os.popen"):
            yield f"{where} starts a shell"


def test_nothing_in_the_package_runs_what_a_file_says() -> None:
    assert SOURCES
    assert not [line for path in SOURCES for line in unsafe(path)]


def test_the_search_for_unsafe_code_finds_it(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(
        "import pickle\nfrom joblib import load\nx = torch.load(f)\ny = np.load(f)\nz = eval(s)\n"
        "w = torch.load(f, weights_only=False)\nsubprocess.run(s, shell=True)\n"
    )
    assert len(list(unsafe(path))) == 7


def test_code_is_imported_by_name_in_one_place_only() -> None:
    found = {
        path.relative_to(ROOT / "dynamoe_search").as_posix()
        for path in SOURCES
        for name, _ in calls(path)
        if name == "import_module"
    }
    assert found <= {
        "__init__.py",  # this package's own modules
        "data/torchvision_compat.py",  # torchvision
        "moe/backbones/__init__.py",  # with --trust-code only
    }


def built_sql(path: Path) -> Iterator[str]:
    """Yields every statement of SQL that is not a constant text, but for names of our own tables and columns."""
    for name, call in calls(path):
        owner = ast.unparse(call.func)
        takes_sql = name in ("exec_driver_sql", "executescript", "executemany")
        takes_sql |= owner in ("sa.text", "sqlalchemy.text", "sql.text", "sa.literal_column")
        takes_sql |= name == "execute" and "cursor" in owner
        if takes_sql and not (call.args and is_constant(call.args[0], path)):
            yield f"{path}:{call.lineno} {ast.unparse(call)}"


def is_constant(sql: ast.expr, path: Path) -> bool:
    """Tells whether a statement holds no value; layouts are changed by statements that take no parameters."""
    if isinstance(sql, ast.Constant):
        return True
    if not isinstance(sql, ast.JoinedStr):
        return False
    if path.name == "migrations.py" and ast.unparse(sql).startswith(
        ("f'ALTER TABLE ", 'f"ALTER TABLE ')
    ):
        return True
    filled = [part.value for part in sql.values if isinstance(part, ast.FormattedValue)]
    return all(re.fullmatch(r"tables\.\w+\.name", ast.unparse(value)) for value in filled)


def test_no_sql_is_built_from_strings() -> None:
    assert not [line for path in SOURCES for line in built_sql(path)]


# What studies are called, and what a database says


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


# Exported models


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """An exported model that loads."""
    from dynamoe_search.moe.backbones import build_model

    design = candidate(0)
    folder = tmp_path / "model"
    config = ExportedConfig(
        format=FORMAT, study="s", trial=0, input_shape=(1, 8, 8), num_classes=10, candidate=design,
        outcome=outcome(design), data=DataSection(), mean=(0.0,), std=(1.0,), versions={},
    )  # fmt: skip
    save_model(folder, config, build_model(design, (1, 8, 8), 10).state_dict())
    load_model(folder)
    return folder


def outcome(design: Candidate) -> Outcome:
    return Outcome(
        ordinal=design.ordinal, status="complete", metrics={"accuracy": 0.5}, routing=(), epochs=1,
        seconds=1.0, device="cpu", pack_size=1,
    )  # fmt: skip


def with_config(folder: Path, **model: Any) -> None:
    path = folder / CONFIG
    config = json.loads(path.read_text())
    config["candidate"]["model"] |= model
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("form", ["pickle", "torch", "zip"])
def test_weights_that_are_a_pickle_are_refused(form: str, exported: Path, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", exported / WEIGHTS
    if form == "pickle":
        path.write_bytes(pickle.dumps(Bomb(canary)))
    elif form == "torch":
        torch.save(Bomb(canary), path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Bomb(canary)))
    with pytest.raises(UsageError, match="not a safetensors file"):
        load_model(exported)
    assert not canary.exists()


@pytest.mark.parametrize("backbone", ["os:system", "posix:system", "builtins:exec", "canary:Model"])
def test_a_config_that_names_code_is_refused(
    backbone: str, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "ran"
    (tmp_path / "canary.py").write_text(f"open({str(canary)!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with_config(exported, backbone=backbone)
    with pytest.raises(UsageError, match="trust-code"):
        load_model(exported)
    assert not canary.exists()


def test_a_study_file_that_names_code_is_refused(
    tmp_path: Path, storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary, path = tmp_path / "ran", tmp_path / "study.toml"
    (tmp_path / "canary.py").write_text(f"open({str(canary)!r}, 'w')\n")
    path.write_text(STUDY.replace("d_model = 8", 'backbone = "canary:Model"\nd_model = 8'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for command in ("check", "run", "train"):
        storage = ("--storage", storage_url) if command == "run" else ()
        result = invoke(command, path.name, *storage)
        assert result.exit_code == 2, result.output
        assert "canary" not in sys.modules
    assert not canary.exists()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"a":' * 100_000,
        "{}",
        "null",
        "1" * 10_000,
        '{"format": 1}',
        "\x00",
        "[1]" * 9,
    ],
)
def test_a_config_that_is_none_is_refused(text: str, exported: Path) -> None:
    (exported / CONFIG).write_text(text)
    with pytest.raises(UsageError, match="not the configuration of an exported model"):
        load_model(exported)


@pytest.mark.parametrize(
    "model",
    [
        {"d_model": -4},
        {"d_model": 32},
        {"d_expert": 10**12},
        {"d_expert": -1},
        {"backbone": "../x"},
    ],
)
def test_a_config_that_describes_no_model_is_refused(model: dict[str, Any], exported: Path) -> None:
    with_config(exported, **model)
    with pytest.raises(UsageError):
        load_model(exported)


# Checkpoints

HOSTILE_JSON = [
    "[" * 200_000,
    '{"content":' * 100_000,
    "null",
    '{"content": {"format": 2}}',
    '{"sha256": "../../x", "content": {"format": 2, "tensors": "/etc/passwd"}}',
    "1" * 10_000,
    "\ud800",
]


@pytest.fixture
def state() -> CandidateState:
    return CandidateState(
        candidate=candidate(0), epoch=1, batch=0, step=4, seconds=1.0, events=(),
        tensors={"w": torch.zeros(3)}, circumstances=circumstances(digits(), TRAIN),
    )  # fmt: skip


def load_state_of(folder: StateFolder) -> CandidateState:
    return folder.load(candidate(0), 1, None, digits(), TRAIN)


@pytest.mark.parametrize("text", HOSTILE_JSON)
def test_a_hostile_header_of_a_checkpoint_is_damage(
    text: str, state: CandidateState, tmp_path: Path
) -> None:
    folder = StateFolder(tmp_path / "states")
    folder.save(state)
    assert torch.equal(load_state_of(folder).tensors["w"], torch.zeros(3))
    (path,) = (tmp_path / "states" / "0").glob("*.safetensors")
    path.unlink()
    text = text.encode("utf-8", "replace").decode()
    save_file({"w": torch.zeros(3)}, path, {"state": text})
    path.rename(path.with_name(f"epoch-000001-{sha256(path)[:16]}.safetensors"))
    with pytest.raises(DamagedError):
        load_state_of(folder)


@pytest.mark.parametrize("text", HOSTILE_JSON)
def test_a_hostile_manifest_is_damage(text: str, tmp_path: Path) -> None:
    path = tmp_path / "epoch-000001-step-000000.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises((ValueError, RecursionError)):
        Manifest.read(path)


def test_a_checkpoint_that_is_a_pickle_is_damage(state: CandidateState, tmp_path: Path) -> None:
    canary, folder = tmp_path / "canary", StateFolder(tmp_path / "states")
    folder.save(state)
    (path,) = (tmp_path / "states" / "0").glob("*.safetensors")
    torch.save(Bomb(canary), path)
    path.rename(path.with_name(f"epoch-000001-{sha256(path)[:16]}.safetensors"))
    with pytest.raises(DamagedError):
        load_state_of(folder)
    assert not canary.exists()


def test_checkpoints_that_are_links_are_replaced_and_not_followed(
    state: CandidateState, tmp_path: Path
) -> None:
    folder, outside = StateFolder(tmp_path / "states"), tmp_path / "outside"
    folder.save(state)
    (path,) = (tmp_path / "states" / "0").glob("*.safetensors")
    path.rename(outside)
    path.symlink_to(outside)
    before = outside.read_bytes()
    folder.save(state)
    assert not path.is_symlink()
    path.unlink()
    path.symlink_to(outside)
    folder.prune(0, [])
    folder.remove(0)
    assert outside.read_bytes() == before


def test_a_folder_of_checkpoints_that_is_a_link_loses_nothing_of_others(
    state: CandidateState, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "letter.txt").write_text("mine")
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "0").symlink_to(outside)
    folder = StateFolder(tmp_path / "states")
    folder.save(state)
    folder.prune(0, [])
    folder.remove(0)
    assert (outside / "letter.txt").read_text() == "mine"


# Where a model is written


@pytest.mark.parametrize("content", ['{"model_type": "bert"}', "{}", "[", "[]", "[" * 100_000])
def test_the_model_of_another_program_is_not_overwritten(content: str, tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(content)
    (tmp_path / WEIGHTS).write_text("theirs")
    with pytest.raises(UsageError, match="no earlier export"):
        check_folder(tmp_path)


def test_an_earlier_export_may_be_overwritten(exported: Path) -> None:
    check_folder(exported)


@pytest.mark.parametrize("name", [CARD, WEIGHTS, CONFIG])
def test_nothing_is_written_through_a_link(name: str, exported: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    (exported / name).rename(target)
    (exported / name).symlink_to(target)
    with pytest.raises(UsageError, match="link"):
        check_folder(exported)


# Data


@pytest.mark.parametrize("part", ["x", "y"])
def test_arrays_of_objects_are_not_unpickled(part: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "data.npz"
    arrays: dict[str, Any] = {"x": np.zeros((64, 4, 4)), "y": np.arange(64) % 2}
    arrays[part] = np.array([Bomb(canary)] * 64, dtype=object)
    np.savez(path, **arrays, allow_pickle=True)
    with pytest.raises(DataError):
        load_data(DataSection(name="npz", path=str(path)))
    assert not canary.exists()


def test_a_pickle_called_npz_is_refused(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "data.npz"
    path.write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(DataError):
        load_data(DataSection(name="npz", path=str(path)))
    assert not canary.exists()


def test_an_array_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (2**40, 64, 64)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header.getvalue())
        archive.writestr("y.npy", header.getvalue())
    with pytest.raises(DataError):
        load_data(DataSection(name="npz", path=str(path)))


# Network and passwords

WATCHED = """
import sys
seen = []
names = ("socket.bind", "socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.__new__")
sys.addaudithook(lambda event, args: seen.append((event, str(args))) if event in names else None)
from dynamoe_search.cli.app import app
code = app(sys.argv[1:], standalone_mode=False)
assert not code, code
print("\\nseen:", seen)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["run {file} --storage {url} --quiet --device cpu", "list", "doctor", "check {file}"]
)
def test_nothing_listens_and_nothing_calls(command: str, tmp_path: Path, storage_url: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY.replace("trials = 6", "trials = 2").replace("epochs = 2", "epochs = 1"))
    words = command.format(file=path, url=storage_url).split()
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "seen: []"


URLS = [
    "postgresql+psycopg://user:{}@127.0.0.1:1/studies",
    "postgresql://user:{}@127.0.0.1:1/studies",
    "mysql://user:{}@127.0.0.1:1/studies",
    "nosuch://user:{}@127.0.0.1/x",
    "postgresql+asyncpg://user:{}@127.0.0.1:1/studies",
    "sqlite://user:{}@host/x.db",
    "postgresql://127.0.0.1:1/x?user=u&password={}",
    "postgresql://user:{}@127.0.0.1:notaport/x",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("words", ["list", "run digits", "doctor --json", "--debug list"])
def test_passwords_are_never_shown(
    url: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for by_option in (True, False):
        filled = url.format("s3cretive")
        storage = ("--storage", filled) if by_option else ()
        if not by_option:
            monkeypatch.setenv("DYNAMOE_SEARCH_STORAGE", filled)
        result = invoke(*words.split(), *storage)
        assert result.exit_code in (1, 2)
        assert "s3cretive" not in result.output + result.stderr
        assert "user" in result.output + result.stderr or "***" in result.output
    assert list(tmp_path.iterdir()) == []
