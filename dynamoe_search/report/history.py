"""The front and its hypervolume over the course of a study."""

from collections.abc import Sequence
from dataclasses import dataclass

from dynamoe_search.pareto import dominated_share, is_non_dominated
from dynamoe_search.records import CandidateRecord
from dynamoe_search.report.reading import (
    StudyData,
    epochs_of,
    front_of,
    is_ranked,
    points,
    seconds_of,
    value,
)
from dynamoe_search.report.words import is_maximised
from dynamoe_search.specs.vocabulary import LOGARITHMIC

STAGES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the finished candidates after which the front is shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """A study after a candidate has finished."""

    trial: int
    finished: int  # candidates with an outcome so far
    epochs: int  # candidate-epochs trained so far
    seconds: float
    hypervolume: float  # share of the box between ideal and reference point, 0 to 1


def reference_of(data: StudyData) -> tuple[float, ...]:
    """Returns the study's frozen reference point; the worst values seen if it has none."""
    if len(data.record.settings.reference_point) == len(data.objectives):
        return data.record.settings.reference_point
    rows = points(data.ranked, data.objectives) or [[1.0] * len(data.objectives)]
    return tuple(
        0.0 if is_maximised(name) else max(row[place] for row in rows) * 1.1 or 1.0
        for place, name in enumerate(data.objectives)
    )


def hypervolumes(
    data: StudyData,
    objectives: Sequence[str] | None = None,
    reference: Sequence[float] | None = None,
) -> list[Moment]:
    """Returns the hypervolume after every finished candidate.

    Args:
        data: The study.
        objectives: What counts; its own objectives if none are given.
        reference: One value per objective; its own reference point if none is given.
    """
    names = list(objectives or data.objectives)
    worst = list(reference or reference_of(data))
    maximise = [is_maximised(name) for name in names]
    front: list[list[float]] = []
    moments, epochs, seconds, share = [], 0, 0.0, 0.0
    for finished, record in enumerate(data.finished, start=1):
        epochs += epochs_of(record, ())
        seconds += seconds_of(record, ())
        if is_ranked(record):
            everyone = [*front, *points([record], names)]
            mask = is_non_dominated(everyone, maximise)
            if mask[-1]:
                front = [row for row, is_kept in zip(everyone, mask, strict=True) if is_kept]
                share = dominated_share(
                    front, maximise, worst, [name in LOGARITHMIC for name in names]
                )
        moments.append(
            Moment(
                trial=record.trial,
                finished=finished,
                epochs=epochs,
                seconds=seconds,
                hypervolume=share,
            )
        )
    return moments


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """The front after a share of a study's candidates, as corners of a staircase."""

    share: float
    finished: int
    corners: tuple[tuple[float, float, int], ...]  # across, upwards, trial; ascending across


def stages(data: StudyData) -> list[Stage]:
    """Returns the front of the two measures of the plot after each of `STAGES`, without repetitions."""
    found: list[Stage] = []
    for share in STAGES:
        finished = max(1, round(share * len(data.finished))) if data.finished else 0
        so_far = [one for one in data.finished[:finished] if is_ranked(one)]
        if so_far and (not found or found[-1].finished < finished):
            corners = staircase(so_far, data.axes)
            found.append(Stage(share=share, finished=finished, corners=corners))
    return found


def staircase(
    records: Sequence[CandidateRecord], axes: tuple[str, str]
) -> tuple[tuple[float, float, int], ...]:
    """Returns the points of the front of two measures, ascending in the one across."""
    members = [records[place] for place in front_of(records, axes)]
    return tuple(sorted((value(one, axes[0]), value(one, axes[1]), one.trial) for one in members))
