"""The program as a user runs it, on real SQLite files, and one small study that has been searched."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dynamoe_search.cli.app import app
from tests.cli.processes import ended, start

Run = Callable[..., Result]

STUDY = """\
# a study of seconds
[study]
name = "tiny"
description = "Does it run?"
trials = 6
references = ["dense"]

[data]
name = "digits"
max_train = 256

[model]
d_model = 8
num_layers = 2
d_expert = 8

[schedule]
shape = ["uniform", "descending"]
min_experts = 1
max_experts = [2, 4]

[router]
kind = ["top-k", "top-any"]
k = [1, 2]

[train]
epochs = 2
batch_size = 64
learning_rate = { low = 1e-3, high = 1e-2, log = true }

[search]
cohort_size = 3
startup_trials = 3

[search.pruner]
kind = "none"
"""


def invoke(*arguments: object, input: str | None = None) -> Result:  # noqa: A002 - as CliRunner has it
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)


@pytest.fixture
def cli() -> Run:
    """Runs the program in this process: `cli("front", "tiny", "--storage", url)`."""
    return invoke


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def command(study_file: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts the program as a process of its own, beside the study file; kills what still runs in the end."""
    with ExitStack() as stack:

        def start_here(*words: object) -> "subprocess.Popen[str]":
            process = start(*words, cwd=study_file.parent, stdout=subprocess.PIPE)
            return stack.enter_context(ended(process))

        yield start_here


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a database that holds the finished study `tiny`; tests only read it."""
    folder = tmp_path_factory.mktemp("searched")
    path = folder / "study.toml"
    path.write_text(STUDY)
    url = f"sqlite:///{folder / 'studies.db'}"
    result = invoke("run", path, "--storage", url, "--device", "cpu", "--quiet")
    assert result.exit_code == 0, result.output
    return url
