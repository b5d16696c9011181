"""Writes the generated pages of docs/reference; `--check` only tells which are out of date.

cli.md             `--help` of the program and of every command
study-file.md      the fields of `StudySpec`, from their docstrings, bounds and defaults
tables.md          the tables in the database that are ours, from the SQLAlchemy metadata
report-tables.md   the tables that the command report writes, from `report/columns.py`
presets.md         the studies that come with the program, from their opening comments
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.testing import CliRunner

from dynamoe_search.cli.app import app
from dynamoe_search.cli.complaints import EXIT_CODES
from dynamoe_search.presets import preset_text, presets, read_study
from dynamoe_search.presets.toml import to_toml_value
from dynamoe_search.report import columns
from dynamoe_search.specs import FloatRange, IntRange, StudySpec, Within, is_fixed
from dynamoe_search.specs.vocabulary import ROUTER_LOSSES, ROUTER_SETTINGS
from dynamoe_search.store.tables import metadata
from tools import table_words

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
NOTICE = "<!-- Made by tools/reference.py (`make docs`); change the code, not this page. -->"
WIDTH = "100"
BOUNDS = {
    "ge": "at least",
    "gt": "above",
    "le": "at most",
    "lt": "below",
    "min_length": "of length at least",
    "max_length": "of length at most",
}
KINDS = {
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "text": "text",
    "ints": "list of whole numbers",
    "floats": "list of numbers",
}
TYPES: dict[Any, str] = {int: "whole number", float: "number", bool: "true or false", str: "text"}

STUDY_FILES = """\
A study file is TOML.
It describes one model and its training; values that are lists or ranges are searched.

| form | example | meaning |
|---|---|---|
| value | `k = 2` | fixed |
| choice | `k = [1, 2, 4]` | one of these |
| range | `k = { low = 1, high = 8 }` | any value from `low` to `high` |

The column *search* says which forms a field takes besides a value.
`dynamoe-search schema` prints the JSON schema of all this, for editors."""
TABLES = """\
Our tables stand beside Optuna's in the same database.
They are keyed by the study's name and Optuna's trial number;
no foreign key leads into Optuna's tables."""
ERRORS = """\
Whatever goes wrong is told in one sentence on stderr (a study file has one for each problem),
and stdout has only what was found before: a `run` or `resume` that is stopped prints there how far it came, and
`doctor` what is wrong; else it stays empty. With `--json`, stdout has one JSON document in any case: the result, or,
if the exit code is not 0 and there is no result, an object such as

```json
{
  "ok": false,
  "error": "there is no study 'x'; see the command list",
  "kind": "usage",
  "exit_code": 2,
  "problems": []
}
```

`error` has the sentences of stderr. `kind` is `usage` (an option, a name, a number), `study-file`
(then `problems` has `path`, `got` and `allowed` of each), `data`, `storage` (a database, or files),
`device`, `candidate` (a training that failed), `stopped`, `system` (the disk), `failed` or `internal`.
`watch` and `dashboard`, which Ctrl-C ends in the usual way, return 0 then."""
REPORT_TABLES = """\
`dynamoe-search report STUDY --out DIR` writes these tables to `DIR/tables`,
each as CSV, JSON, Parquet, Markdown and LaTeX.
Columns are added at the end and never renamed.
CSV, JSON and Parquet hold all columns; Markdown and LaTeX the *printed* ones, and at most 1,000 rows.
Lists are arrays in JSON and Parquet, and numbers with spaces between them elsewhere.
What is unknown or not a finite number is null or empty."""
PRESETS = """\
`dynamoe-search presets` lists them.
`dynamoe-search presets NAME > my-study.toml` copies one, to be changed."""


def main() -> int:
    """Writes or checks all pages; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if a page is stale")
    check = parser.parse_args().check
    stale = []
    for name, page in PAGES.items():
        path = FOLDER / name
        text = f"{NOTICE}\n\n{page().rstrip()}\n"
        if path.is_file() and path.read_text("utf-8") == text:
            continue
        stale.append(name)
        if not check:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    for name in stale:
        done = "is out of date: run `make docs`" if check else "written"
        print(f"docs/reference/{name} {done}")
    return int(check and bool(stale))


def cli_page() -> str:
    """Returns the help of every command, as a terminal of fixed width shows it."""
    environment = {"COLUMNS": WIDTH, "TERMINAL_WIDTH": WIDTH, "NO_COLOR": "1", "TERM": "dumb"}
    runner = CliRunner(env=environment)

    def help_of(*words: str) -> str:
        result = runner.invoke(app, [*words, "--help"], prog_name="dynamoe-search")
        assert result.exit_code == 0, result.output
        lines = (line.rstrip() for line in result.output.strip("\n").splitlines())
        return "```text\n" + "\n".join(lines) + "\n```"

    rows = [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    exit_codes = "\n".join(["| exit code | means |", "| --: | --- |", *rows])
    parts = ["# Commands", ERRORS, exit_codes, help_of()]
    for name in command_names():
        parts += [f"## {name}", help_of(name)]
    return "\n\n".join(parts)


def command_names() -> list[str]:
    """Returns the names of all commands, in the order of the help."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    return list(group.commands)


def study_file_page() -> str:
    """Returns every section and field of a study file."""
    parts = [
        "# Study files",
        STUDY_FILES,
        "A range of whole numbers has these fields:",
        field_table(IntRange) + "\n\nA range of real numbers:\n\n" + field_table(FloatRange),
    ]
    for name, section in sections(StudySpec):
        parts += [f"## [{name}]", section.__doc__ or "", field_table(section)]
    settings = [
        f"| `{kind}` | {code(ROUTER_SETTINGS[kind])} | {code(ROUTER_LOSSES[kind])} |"
        for kind in ROUTER_SETTINGS
    ]
    parts += [
        "## Which router reads what",
        "Settings and loss weights that a router does not use are not sampled for it.",
        "| router.kind | reads | losses with a gradient |\n|---|---|---|\n" + "\n".join(settings),
    ]
    return "\n\n".join(parts)


def sections(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yields every table of a study file with its dotted name, nested ones after those around them."""
    for name, field in model.model_fields.items():
        section = section_of(field)
        if section is not None:
            yield f"{path}{name}", section
            yield from sections(section, f"{path}{name}.")


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Returns the model of a field that is a table of its own, None for a plain value."""
    is_table = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    return field.annotation if is_table else None


def field_table(model: type[BaseModel]) -> str:
    """Returns a Markdown table of a model's fields."""
    rows = ["| key | takes | search | default | meaning |", "|---|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if section_of(field) is not None:
            continue
        about = " ".join((field.description or "").split())
        assert about, f"{model.__name__}.{name} has no docstring"
        row = (f"`{name}`", takes(field), forms(field.annotation), default(field), about)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join(rows)


def takes(field: FieldInfo) -> str:
    """Returns what values a field takes, in words."""
    marks = [*field.metadata, *marks_of(field.annotation)]
    bounds = [mark.describe() for mark in marks if isinstance(mark, Within)]
    if not bounds:
        found = [(word, getattr(mark, key, None)) for mark in marks for key, word in BOUNDS.items()]
        bounds = [f"{word} {bound:,}" for word, bound in found if bound is not None]
    optional = ["or none"] if NoneType in get_args(field.annotation) else []
    return ", ".join([base(field.annotation), *dict.fromkeys(bounds), *optional])


def base(annotation: Any) -> str:
    """Returns the name of a type; of a searchable one, the type of its plain value."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return base(args[0])
    if origin is Literal:
        return code(args)
    if origin in (Union, UnionType):
        return base(next(arg for arg in args if arg is not NoneType))
    if origin is tuple:
        member = base(args[0])
        return f"list of {member}{'s' if args[0] in TYPES else ''}"
    if origin is dict:
        return f"table of {base(args[1])}s"
    return TYPES[annotation]


def forms(annotation: Any) -> str:
    """Returns which forms of search a field takes: choice, range, both or none."""
    tags = [mark.tag for mark in marks_of(annotation) if hasattr(mark, "tag")]
    return " or ".join(tag for tag in tags if tag != "value")


def marks_of(annotation: Any) -> Iterator[Any]:
    """Yields what is attached to a type by `Annotated`, at any depth of unions."""
    if get_origin(annotation) is Annotated:
        yield from annotation.__metadata__
    if get_origin(annotation) in (Annotated, Union, UnionType):
        for arg in get_args(annotation):
            yield from marks_of(arg)


def default(field: FieldInfo) -> str:
    """Returns a field's default as TOML."""
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "none"
    value = round(value, 4) if isinstance(value, float) else value
    return f"`{to_toml_value(list(value) if isinstance(value, tuple) else value)}`"


def code(words: Any) -> str:
    """Returns words in code style, separated by commas."""
    return ", ".join(f"`{word}`" for word in words) or "none"


def tables_page() -> str:
    """Returns our tables and their columns."""
    parts = ["# Tables", TABLES]
    for table in sorted(metadata.tables.values(), key=lambda table: table.name):
        rows = ["| column | type | key | meaning |", "|---|---|---|---|"]
        for column in table.columns:
            key = "primary" if column.primary_key else "" if column.nullable else "not null"
            about = table_words.COLUMNS[column.name]
            rows.append(f"| `{column.name}` | {column.type!s} | {key} | {about} |")
        parts += [f"## {table.name}", table_words.TABLES[table.name], "\n".join(rows)]
    return "\n\n".join(parts)


def report_tables_page() -> str:
    """Returns the tables of a report and their columns."""
    parts = ["# Tables of a report", REPORT_TABLES]
    for kind in dict.fromkeys((*columns.OF_A_STUDY, *columns.OF_A_COMPARISON)):
        rows = ["| column | holds | printed | meaning |", "|---|---|---|---|"]
        for column in kind.columns:
            printed = "yes" if column.is_printed else ""
            rows.append(f"| `{column.name}` | {KINDS[column.kind]} | {printed} | {column.about} |")
        parts += [f"## {kind.name}", kind.about, "\n".join(rows)]
    return "\n\n".join(parts)


def presets_page() -> str:
    """Returns what each preset asks, how to run it, and what it varies."""
    parts = ["# Presets", PRESETS]
    for preset in presets():
        lines = preset_text(preset.name).splitlines()
        opening = [line.removeprefix("#")[1:] for line in lines if line.startswith("#")]
        keys = code(searched(read_study(preset.name).spec))
        parts += [
            f"## {preset.name}",
            "```text\n" + "\n".join(opening) + "\n```",
            f"{preset.trials} candidates on `{preset.data}`, {preset.epochs} epochs each.",
            f"Searched: {keys}.",
        ]
    return "\n\n".join(parts)


def searched(model: BaseModel, path: str = "") -> Iterator[str]:
    """Yields the dotted keys that a study varies."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel) and section_of(field) is not None:
            yield from searched(value, f"{path}{name}.")
        elif forms(field.annotation) and not is_fixed(value):
            yield f"{path}{name}"


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "study-file.md": study_file_page,
    "tables.md": tables_page,
    "report-tables.md": report_tables_page,
    "presets.md": presets_page,
}

if __name__ == "__main__":
    sys.exit(main())
