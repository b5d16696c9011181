"""The shape of the code: which way imports point, and how long files and functions may be."""

import ast
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dynamoe_search"
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 80


def test_imports_point_down() -> None:
    program = Path(sysconfig.get_path("scripts")) / "lint-imports"
    done = subprocess.run(
        [program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in sources()}
    too_long = [f"{path}: {lines}" for path, lines in lengths.items() if lines > MAX_FILE_LINES]
    assert not too_long


def test_functions_are_short() -> None:
    too_long = [
        f"{path}:{node.lineno} {node.name}: {lines}"
        for path in sources()
        for node in functions(path)
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not too_long


def sources() -> Iterator[Path]:
    paths = sorted(PACKAGE.rglob("*.py"))
    assert paths
    yield from paths


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
