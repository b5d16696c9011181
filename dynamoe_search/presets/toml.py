"""TOML text to plain tables and back. The standard library reads TOML but does not write it."""

import json
import math
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from dynamoe_search.errors import Problem, SpecError

MOST_LEVELS = 32
"""Of tables in tables, and parts of a key; a study file has three."""

_PART = r"""(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-])(?:{_PART}[ \t]*+\.[ \t]*+){{{8 * MOST_LEVELS}}}")
_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def parse_toml(label: str, text: str) -> dict[str, Any]:
    """Returns the tables of a TOML text.

    Raises:
        SpecError: The text is not TOML; the message has the line.
    """
    if _LONG_KEY.search(text):
        raise SpecError(label, [_not_toml("a key with too many parts")])  # it would take for ever
    try:
        tables = tomllib.loads(text)
        if levels(tables) > MOST_LEVELS:
            raise RecursionError
        return tables
    except RecursionError as error:
        raise SpecError(label, [_not_toml("values nested too deeply")]) from error
    except ValueError as error:  # TOMLDecodeError, and numbers of thousands of digits
        raise SpecError(label, [_not_toml(str(error))]) from error


def levels(value: Any) -> int:
    """Returns how deeply tables and lists stand in one another, found without recursion."""
    level = 0
    here = [value] if isinstance(value, dict | list) else []
    while here and level <= MOST_LEVELS:
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
    """Returns a text in quotes; what does not print is escaped, so that it does nothing to a terminal."""
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(one if one.isprintable() else _escape(one) for one in quoted)


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


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
