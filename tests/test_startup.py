"""`--help` and `import dynamoe_search` answer at once, because they load none of the heavy libraries."""

import subprocess
import sys
import time

import pytest

import dynamoe_search

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


def test_public_names_are_there() -> None:
    for name in dir(dynamoe_search):
        assert getattr(dynamoe_search, name) is not None
    assert dynamoe_search.read_study("digits").spec.study.name == "digits"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dynamoe_search.nothing


def test_help_answers_in_half_a_second() -> None:
    command = [sys.executable, "-m", "dynamoe_search", "--help"]
    times = []
    for _ in range(5):  # the best of five, since the machine may be busy
        started = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True, timeout=60)
        times.append(time.perf_counter() - started)
        if times[-1] < 0.5:
            return
    pytest.fail(f"--help took {min(times):.2f} s at best")
