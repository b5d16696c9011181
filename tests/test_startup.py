"""`--help` and `import dynamoe_search` answer at once, because they load none of the heavy libraries."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import dynamoe_search
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from tests.store.builders import SETTINGS

HEAVY = (
    "torch",
    "torchvision",
    "optuna",
    "sqlalchemy",
    "ray",
    "sklearn",
    "numpy",
    "matplotlib",
    "plotly",
    "pyarrow",
)


def loaded_by(code: str) -> set[str]:
    report = (
        f"import sys\n{code}\nprint('LOADED', *(name for name in {HEAVY} if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


def running(*arguments: str) -> str:
    return (
        "from dynamoe_search.cli.app import main\n"
        f"sys.argv = ['dynamoe-search', {', '.join(map(repr, arguments))}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass"
    )


@pytest.mark.parametrize(
    "arguments", [("--help",), ("run", "--help"), ("--version",)], ids=" ".join
)
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert loaded_by(running(*arguments)) == set()


def test_import_loads_nothing_heavy() -> None:
    assert loaded_by("import dynamoe_search") == set()


@pytest.mark.parametrize("arguments", [("presets",), ("schema",), ("schedules",)], ids=" ".join)
def test_commands_without_models_load_no_torch(arguments: tuple[str, ...]) -> None:
    assert loaded_by(running(*arguments)) <= {"numpy"}


@pytest.mark.parametrize(
    "arguments", [("list",), ("front", "x"), ("show", "x", "1"), ("watch", "x")], ids=" ".join
)
def test_reading_loads_no_torch(arguments: tuple[str, ...]) -> None:
    found = loaded_by(running(*arguments, "--storage", "sqlite:///no-such-folder/x.db"))
    assert not found & {"torch", "torchvision", "ray"}


@pytest.mark.parametrize("arguments", [("gc", "--dry-run"), ("gc",)], ids=" ".join)
def test_removing_files_loads_no_torch(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    old = tmp_path / "cache" / "dynamoe-search" / "tokens" / ("a" * 32)
    old.mkdir(parents=True)
    os.utime(old, (1, 1))
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    made = f"from dynamoe_search.store import Store\nStore.open({url!r}).close()\n"
    found = loaded_by(made + running(*arguments, "--storage", url))
    assert not found & {"torch", "torchvision", "ray"}
    assert old.exists() == ("--dry-run" in arguments)  # it came as far as that


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "no-such-preset"),
        ("run", "no-such-file.toml"),
        ("run", "digits", "--set", "router.kind=none"),
        ("run", "digits", "--gpus-per-worker", "1"),
        ("run", "digits", "--device", "gpu:7"),
        ("run", "digits", "--workers", "1", "--devices", "cpu,cpu"),
        ("run", "digits", "--engine", "ray", "--ray-address", "127.0.0.1:1"),
        ("run", "digits", "--engine", "ray", "--devices", "cpu"),
        ("run", "digits", "--storage", "sqlite:////no-such-folder/x.db"),
        ("resume", "nobody", "--storage", "sqlite:////no-such-folder/x.db"),
        ("resume", "nobody", "--storage", "postgresql+psycopg://me@127.0.0.1:1/x"),
        ("worker", "nobody", "--storage", "postgresql+psycopg://me@127.0.0.1:1/x"),
        ("confirm", "nobody", "--storage", "sqlite:////no-such-folder/x.db"),
        ("audit", "nobody", "--storage", "sqlite:////no-such-folder/x.db"),
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_said_before_torch_is_loaded(arguments: tuple[str, ...]) -> None:
    assert not loaded_by(running(*arguments)) & {"torch", "torchvision", "ray"}


def test_study_that_is_missing_or_there_already_is_said_before_torch_is_loaded(
    storage_url: str, tiny_spec: Callable[..., StudySpec]
) -> None:
    with Store.open(storage_url) as store:
        store.create_study(tiny_spec(), source="test", settings=SETTINGS)
    for words in (("resume", "other"), ("worker", "other"), ("run", "digits", "--name", "tiny")):
        found = loaded_by(running(*words, "--storage", storage_url))
        assert not found & {"torch", "torchvision", "ray"}, words


def test_public_names_are_there() -> None:
    for name in dir(dynamoe_search):
        assert getattr(dynamoe_search, name) is not None
    assert dynamoe_search.read_study("digits").spec.study.name == "digits"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dynamoe_search.nothing
