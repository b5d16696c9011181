"""What Optuna is told of candidates that are over; every function is a part of one transaction."""

import math
from collections.abc import Collection, Iterable
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState

from dynamoe_search.store import tables
from dynamoe_search.store.optuna_rows import End
from dynamoe_search.store.texts import from_text

STATES = {
    "complete": TrialState.COMPLETE,
    "failed": TrialState.FAIL,
    "stopped": TrialState.PRUNED,
}
"""What Optuna calls the trial of a candidate that is over."""


def read_ends(connection: sa.Connection, name: str, trials: Collection[int]) -> list[End]:
    """Returns how trials ended, by number; nothing of those that did not yet."""
    here, done = tables.candidates.c, tables.evaluations.c
    query = sa.select(
        here.trial_number,
        here.status,
        here.reason,
        done.values_json,
        done.violations_json,
        done.metrics_json,
    ).join_from(tables.candidates, tables.evaluations)
    query = query.where(here.study_name == name, here.trial_number.in_(sorted(trials)))
    rows: Iterable[sa.Row[Any]] = connection.execute(query.order_by(here.trial_number))
    return [_end(row) for row in rows]


def _end(row: sa.Row[Any]) -> End:
    values = None
    if row.status == "complete":
        values = tuple(from_text(dict[str, float], row.values_json).values())
    metrics = from_text(dict[str, float], row.metrics_json)
    shown: dict[str, Any] = {
        "metrics": {name: value for name, value in metrics.items() if math.isfinite(value)}
    }
    if row.reason is not None:
        shown["reason"] = row.reason
    violations = from_text(list[float], row.violations_json)
    return End(
        number=row.trial_number,
        state=STATES[row.status],
        values=values,
        user_attrs=shown,
        system_attrs={"constraints": violations} if violations else {},
    )
