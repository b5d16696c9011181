"""Questions that people ask of a front: the best within bounds, the knee, one row per member. No torch, no SQL."""

from collections.abc import Iterable, Sequence
from typing import Any

from dynamoe_search.errors import UsageError
from dynamoe_search.pareto import knee_point
from dynamoe_search.records import CandidateRecord, FrontMember

ROW_MEASURES = (
    "accuracy",
    "validation_loss",
    "perplexity",
    "bits_per_byte",
    "activated_params",
    "total_params",
)
"""Measures that every row of a front has by name; whatever else was measured stands in its `metrics`."""


def require_model(record: CandidateRecord, study: str) -> None:
    """Raises `UsageError` if a candidate was not trained to its end, so that it has no model.

    Args:
        record: The candidate.
        study: Name of its study.
    """
    if record.outcome is None or record.status != "complete":
        raise UsageError(
            f"trial {record.trial} of {study!r} is {record.status} and has no model; choose one that is complete"
        )


def measures(member: FrontMember) -> dict[str, float]:
    """Returns everything that was measured of a member, the study's objectives included."""
    return {**member.metrics, **member.values}


def within(
    members: Iterable[FrontMember],
    at_most: Iterable[tuple[str, float]] = (),
    at_least: Iterable[tuple[str, float]] = (),
) -> list[FrontMember]:
    """Returns the members whose measures keep all bounds, in their order.

    Args:
        members: The front.
        at_most: Measures and the highest value allowed of each.
        at_least: Measures and the lowest value allowed of each.

    Raises:
        UsageError: A bound names something that was not measured.
    """
    front = list(members)
    known = sorted({name for member in front for name in measures(member)})
    highest, lowest = list(at_most), list(at_least)
    for name, _ in (*highest, *lowest):
        if front and name not in known:
            raise UsageError(f"{name!r} was not measured; measured are {', '.join(known)}")
    return [
        member
        for member in front
        if all(_value(member, name) <= limit for name, limit in highest)
        and all(_value(member, name) >= limit for name, limit in lowest)
    ]


def _value(member: FrontMember, name: str) -> float:
    return measures(member).get(name, float("nan"))  # a NaN keeps no bound


def knee(
    members: Sequence[FrontMember], objectives: Sequence[str], maximise: Sequence[bool]
) -> list[FrontMember]:
    """Returns the member at the front's knee as a list of one, or nothing if there is no front.

    Args:
        members: The front.
        objectives: Names of the study's objectives.
        maximise: One claim per objective.
    """
    points = [[member.values[name] for name in objectives] for member in members]
    index = knee_point(points, maximise)
    return [] if index is None else [members[index]]


def front_row(member: FrontMember) -> dict[str, Any]:
    """Returns a member as plain values under stable names, for JSON, CSV and tables.

    The names are the same whatever the study is about: what only text has is None for images.
    """
    measured = measures(member)
    candidate = member.candidate
    return {
        "trial": member.trial,
        **{name: measured.get(name) for name in ROW_MEASURES},
        "experts_per_layer": list(member.experts_per_layer),
        "experts_per_layer_at_start": list(candidate.experts_per_layer),
        "router": candidate.router.kind,
        "schedule": candidate.schedule.shape,
        "mean_k_per_layer": [layer.mean_k for layer in member.routing],
        "reference": candidate.reference,
        "objectives": dict(member.values),
        "metrics": dict(member.metrics),
        "params": dict(member.params),
    }
