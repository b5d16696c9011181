"""The Pareto fronts of studies: computed, stored, read; every function is a part of one transaction."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from dynamoe_search.pareto import front_indices
from dynamoe_search.records import Candidate, FrontMember, StudyRecord
from dynamoe_search.store import reading, tables
from dynamoe_search.store.texts import counts_to_text, from_text


def rewrite_front(connection: sa.Connection, study: StudyRecord) -> None:
    """Computes the front of the complete and feasible candidates again and stores it."""
    connection.execute(
        sa.select(tables.studies.c.state)
        .where(tables.studies.c.study_name == study.name)
        .with_for_update()
    ).all()
    members = computed_front(connection, study)
    connection.execute(tables.front.delete().where(tables.front.c.study_name == study.name))
    if members:
        connection.execute(tables.front.insert(), members)


def computed_front(connection: sa.Connection, study: StudyRecord) -> list[dict[str, Any]]:
    """Returns the rows that the table of the front should have for a study, in their order."""
    candidates, evaluations = tables.candidates.c, tables.evaluations.c
    rows = connection.execute(
        sa.select(
            candidates.trial_number,
            candidates.ordinal,
            candidates.router,
            candidates.schedule,
            candidates.experts_per_layer,  # at the start
            candidates.params_json,
            evaluations.accuracy,
            evaluations.activated_params,
            evaluations.total_params,
            evaluations.values_json,
        )
        .join_from(tables.candidates, tables.evaluations)
        .where(
            candidates.study_name == study.name,
            candidates.status == "complete",
            evaluations.is_feasible,
        )
        .order_by(candidates.trial_number)
    ).all()
    values = [from_text(dict[str, float], row.values_json) for row in rows]
    points = np.array([[item[key] for key in study.objectives] for item in values])
    order_key = front_order(study.objectives)
    chosen = sorted(
        front_indices(points, study.maximise).tolist(),
        key=lambda index: (values[index][order_key], rows[index].trial_number),
    )
    at_end = _experts_at_end(connection, study.name) if chosen else {}
    return [
        {"study_name": study.name, "place": place}
        | dict(rows[index]._mapping)
        | at_end.get(rows[index].trial_number, {})
        for place, index in enumerate(chosen)
    ]


def read_front(connection: sa.Connection, name: str) -> list[FrontMember]:
    """Returns the stored front in its order."""
    reading.require_study(connection, name)
    front, candidates = tables.front, tables.candidates
    rows = connection.execute(
        sa.select(
            front.c.trial_number,
            front.c.ordinal,
            front.c.values_json,
            front.c.params_json,
            candidates.c.candidate_json,
            tables.evaluations.c.metrics_json,
        )
        .select_from(front.join(candidates).join(tables.evaluations))
        .where(front.c.study_name == name)
        .order_by(front.c.place)
    ).all()
    routing = reading.read_routing(connection, name)
    return [
        FrontMember(
            trial=row.trial_number,
            ordinal=row.ordinal,
            candidate=from_text(Candidate, row.candidate_json),
            values=from_text(dict[str, float], row.values_json),
            metrics=from_text(dict[str, float], row.metrics_json),
            params=from_text(dict[str, Any], row.params_json),
            routing=routing[row.trial_number],
        )
        for row in rows
    ]


def front_order(objectives: Sequence[str]) -> str:
    """Returns the objective by which a front is sorted: activated parameters, else the second, else the only one."""
    if "activated_params" in objectives:
        return "activated_params"
    return objectives[min(1, len(objectives) - 1)]


def _experts_at_end(connection: sa.Connection, name: str) -> dict[int, dict[str, str]]:
    """Returns the column `experts_per_layer` of every trial whose layers are known."""
    here = tables.layers.c
    counts: dict[int, tuple[int, ...]] = defaultdict(tuple)
    for row in connection.execute(
        sa.select(here.trial_number, here.num_experts)
        .where(here.study_name == name)
        .order_by(here.trial_number, here.layer)
    ):
        counts[row.trial_number] += (row.num_experts,)
    return {
        trial: {"experts_per_layer": counts_to_text(numbers)} for trial, numbers in counts.items()
    }
