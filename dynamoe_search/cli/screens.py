"""What everything on a terminal is made of: tables, facts, and JSON for scripts."""

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic_core import to_json
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dynamoe_search.cli.words import cell

_UNPRINTABLE = re.compile(r"[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
_NOT_ASCII = re.compile(r"[^\x00-\x7e]")
_WIDE = 140  # columns where the output is no terminal


def console(to_stderr: bool = False) -> Console:
    """Returns a console for results (stdout) or for progress (stderr)."""
    stream = sys.stderr if to_stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDE
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def print_json(value: Any) -> None:
    """Prints a value as JSON on stdout; what is not a finite number becomes null."""
    text = to_json(value, indent=2, inf_nan_mode="null").decode()
    has_all = (sys.stdout.encoding or "").lower().startswith("utf")  # else JSON has escapes
    escaped = _UNPRINTABLE if has_all else _NOT_ASCII
    sys.stdout.write(escaped.sub(_json_escape, text) + "\n")


def _json_escape(match: re.Match[str]) -> str:
    """Returns a character as JSON escapes it; the serialiser does so with those below 32 only."""
    return json.dumps(match[0])[1:-1]


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None
) -> Table:
    """Returns a table whose columns of numbers stand to the right."""
    content = [list(row) for row in rows]
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numbers = all(isinstance(row[index], int | float | None) for row in content)
        grid.add_column(
            Text(cell(column)),
            justify="right" if numbers else "left",
            overflow="fold",
            no_wrap=numbers,
        )
    for row in content:
        grid.add_row(*(Text(cell(value)) for value in row))
    return grid


def facts(pairs: Mapping[str, Any]) -> Table:
    """Returns names and values, one pair a line; pairs without a value are left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs.items():
        if value is not None:
            grid.add_row(Text(name), Text(cell(value)))
    return grid
