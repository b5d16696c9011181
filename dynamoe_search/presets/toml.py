"""TOML text to plain tables and back. The standard library reads TOML but does not write it."""

import json
import math
import tomllib
from collections.abc import Mapping
from typing import Any

from dynamoe_search.errors import Problem, SpecError

_MOST_LEVELS = 32  # of tables in tables; a study file has three
_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def parse_toml(label: str, text: str) -> dict[str, Any]:
    """Returns the tables of a TOML text.

    Raises:
        SpecError: The text is not TOML; the message has the line.
    """
    if any(line.partition("=")[0].count(".") > 8 * _MOST_LEVELS for line in text.splitlines()):
        raise SpecError(label, [_not_toml("a key with too many parts")])  # it would fill the memory
    try:
        tables = tomllib.loads(text)
        if _levels(tables) > _MOST_LEVELS:
            raise RecursionError
        return tables
    except RecursionError as error:
        raise SpecError(label, [_not_toml("values nested too deeply")]) from error
    except ValueError as error:  # TOMLDecodeError, and numbers of thousands of digits
        raise SpecError(label, [_not_toml(str(error))]) from error


def _levels(tables: dict[str, Any]) -> int:
    """How deeply tables and lists stand in one another, found without recursion."""
    level = 0
    here: list[Any] = [tables]
    while here and level <= _MOST_LEVELS:
        level += 1
        here = [
            inner
            for outer in here
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return level


def _not_toml(reason: str) -> Problem:
    return Problem(path="", got="text that is not TOML", allowed=reason[:1].lower() + reason[1:])


def to_toml(tables: Mapping[str, Any]) -> str:
    """Returns a TOML document with one section for every table in `tables`."""
    plain = {key: item for key, item in tables.items() if not isinstance(item, Mapping)}
    parts = [_lines(plain)] if plain else []
    for key, item in tables.items():
        if isinstance(item, Mapping):
            parts.append(f"[{_key(key)}]\n{_lines(item)}")
    return "\n".join(parts)


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{_key(key)} = {to_toml_value(value)}\n" for key, value in table.items())


def _key(key: str) -> str:
    return key if key and set(key) <= _BARE else _text(key)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def to_toml_value(value: Any) -> str:
    """Returns one value as TOML, on one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _text(value)
        case float() if not math.isfinite(value):
            return str(value)
        case Mapping():
            return (
                "{"
                + ", ".join(f"{_key(key)} = {to_toml_value(item)}" for key, item in value.items())
                + "}"
            )
        case list() | tuple():
            return "[" + ", ".join(to_toml_value(item) for item in value) + "]"
        case _:
            return str(value)  # whole and real numbers; dates and times print as TOML writes them
