"""Pages are run as they stand: the tutorial's commands in one shell, then its Python, in an empty folder."""

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "tutorials" / "first-study.md"


@pytest.mark.slow
def test_tutorial_runs(tmp_path: Path) -> None:
    page = PAGE.read_text("utf-8")
    lines = [line[2:] for line in page.splitlines() if line.startswith("$ ")]
    commands = [line for line in lines if not line.startswith("pip install")]
    assert len(commands) > 10
    run(["bash", "-euo", "pipefail", "-c", "\n".join(commands)], tmp_path)
    code = python_of(page)
    printed = run([sys.executable, "-c", code], tmp_path)
    stored = json.loads((tmp_path / "my-model" / "config.json").read_text("utf-8"))
    accuracy = float(printed.strip().removeprefix("tensor(").removesuffix(")"))
    assert accuracy == pytest.approx(stored["outcome"]["metrics"]["accuracy"], abs=1e-4)


def test_the_page_about_python_runs(tmp_path: Path) -> None:
    page = (DOCS / "how-to" / "use-from-python.md").read_text("utf-8")
    printed = run([sys.executable, "-W", "error", "-c", python_of(page)], tmp_path)
    assert len(printed.splitlines()) >= 1
    assert (tmp_path / "best" / "model.safetensors").exists()


def python_of(page: str) -> str:
    """The Python on a page, in one piece."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page, re.S | re.M))


def run(command: list[str], folder: Path) -> str:
    """Runs a command with the program on its path; returns what it printed."""
    scripts = sysconfig.get_path("scripts")
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
