"""A database with as many trials as are wanted: those of a small study, copied row by row under new numbers.

Every copy is a little less accurate than the one before, so that the front is as large as that of a study.
"""

import json
import sqlite3
from pathlib import Path
from typing import Any

_OURS = ("candidates", "evaluations", "layers", "progress")
_OPTUNA = {
    "trials": "trial_id",
    "trial_user_attributes": "trial_user_attribute_id",
    "trial_params": "param_id",
    "trial_values": "trial_value_id",
}
"""Optuna's tables with the column that numbers their rows."""


_LESS = 1e-6
"""By how much each copy is less accurate than the one before."""


def multiply(path: Path, trials: int) -> None:
    """Copies the finished trials of the only study of a database until there are `trials` of them."""
    with sqlite3.connect(path) as connection:
        (base,) = connection.execute("SELECT count(*) FROM trials").fetchone()
        for table in (*(f"dynamoe_{name}" for name in _OURS), *_OPTUNA):
            _multiply(connection, table, base, trials)
    connection.close()


def _multiply(connection: sqlite3.Connection, table: str, base: int, trials: int) -> None:
    cursor = connection.execute(f"SELECT * FROM {table}")  # noqa: S608 - names from above
    names = [column[0] for column in cursor.description]
    rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    marks = ", ".join("?" * len(names))
    for copy in range(1, -(-trials // base)):
        shift, step = copy * base, copy * len(rows)
        copies = (_copied(row, shift, step, _OPTUNA.get(table), table == "trials") for row in rows)
        connection.executemany(
            f"INSERT INTO {table} VALUES ({marks})",  # noqa: S608
            [tuple(own.values()) for own in copies if _number(own) < trials],
        )


def _number(row: dict[str, Any]) -> int:
    """Returns the number of the trial that a row belongs to; Optuna's ids begin at 1."""
    return int(row["trial_number"]) if "trial_number" in row else int(row["trial_id"]) - 1


def _copied(
    row: dict[str, Any], shift: int, step: int, key: str | None, is_trial: bool
) -> dict[str, Any]:
    own = dict(row)
    for name in ("trial_number", "trial_id", "ordinal", *(("number",) if is_trial else ())):
        if name in own:
            own[name] += shift
    if key is not None and key != "trial_id":
        own[key] += step
    if "design_hash" in own:
        own["design_hash"] = f"{shift}-{own['design_hash']}"[:64]
    for name in ("candidate_json", "outcome_json"):
        if name in own:
            content = json.loads(own[name])
            own[name] = json.dumps(content | {"ordinal": content["ordinal"] + shift})
    return _less_accurate(own, shift * _LESS)


def _less_accurate(row: dict[str, Any], less: float) -> dict[str, Any]:
    """Returns a row of ours or of Optuna's with a lower accuracy, wherever it says one."""
    own = dict(row)
    if own.get("accuracy") is not None:
        own["accuracy"] -= less
    if own.get("objective") == 0:  # of a value; the accuracy is the first
        own["value"] -= less
    for name in ("values_json", "metrics_json", "outcome_json"):
        if own.get(name) is not None:
            content = json.loads(own[name])
            measured = content["metrics"] if name == "outcome_json" else content
            if "accuracy" in measured:
                measured["accuracy"] -= less
            own[name] = json.dumps(content)
    return own
