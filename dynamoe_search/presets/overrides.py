"""`--set section.key=value`: changes to the raw tables of a study file, before they are checked."""

import tomllib
from collections.abc import Sequence
from typing import Any

from dynamoe_search.errors import Problem
from dynamoe_search.presets.toml import MOST_LEVELS, levels


def apply_overrides(
    raw: dict[str, Any],
    overrides: Sequence[str],
    changed: dict[tuple[str, ...], str],
    origin: str = "--set",
) -> list[Problem]:
    """Changes `raw` in place, and notes in `changed` which keys came from where.

    Args:
        raw: Tables of the study file.
        overrides: Each `section.key=value` or `section.key.low=value`; missing tables are created.
        changed: Receives the path of every changed key and its origin.
        origin: What to call the overrides in messages.

    Returns:
        What is wrong with overrides that could not be applied.
    """
    problems = []
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = tuple(part.strip() for part in key.split("."))
        if not equals or not all(parts) or len(parts) > MOST_LEVELS:
            problems.append(
                Problem(
                    path=origin,
                    got=override[:60] or "nothing",
                    allowed="must be section.key=value, for example train.epochs=5",
                )
            )
            continue
        try:
            value = parse_value(text.strip())
        except ValueError as error:
            problems.append(
                Problem(path=".".join(parts), got=text.strip()[:60], allowed=str(error))
            )
            continue
        _put(raw, parts, value)
        changed[parts] = origin
    return problems


def parse_value(text: str) -> Any:
    """Returns the TOML value that the text spells, or the text itself where it spells none (`top-k`).

    Raises:
        ValueError: The text begins like a list or a table but is none, or one nested too deeply.
    """
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError) as error:
        if text[:1] in ("[", "{"):
            message = 'must be TOML with texts in quotes, for example ["top-k", "top-p"] or {low = 1, high = 4}'
            raise ValueError(message) from error
        return text
    if levels(table) > MOST_LEVELS:
        raise ValueError("must not be nested so deeply")
    return table["value"] if len(table) == 1 else text


def _put(raw: dict[str, Any], parts: Sequence[str], value: Any) -> None:
    """Sets a nested key; whatever is in the way and is no table is replaced by one."""
    table = raw
    for part in parts[:-1]:
        inner = table.get(part)
        if not isinstance(inner, dict):
            inner = table[part] = {}
        table = inner
    table[parts[-1]] = value
