"""What the code does not contain: nothing runs what a file says, no SQL is built from strings."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "dynamoe_search").rglob("*.py"))
CODE_LOADERS = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle", "yaml"}
NAMED_LOADERS = {"eval", "exec", "compile", "__import__"}


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
        "data/language_extra.py",  # tokenizers and datasets
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
