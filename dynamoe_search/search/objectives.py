"""What the search compares: values, directions, constraints and the reference point."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from dynamoe_search.data import SearchData, TextData
from dynamoe_search.errors import CandidateError
from dynamoe_search.pareto import dominated_share
from dynamoe_search.records import Outcome, language_metrics
from dynamoe_search.specs import StudySpec
from dynamoe_search.specs.vocabulary import LOGARITHMIC, MAXIMISED, excess

WORST_LATENCY_MS = 1e4
"""Reference of `latency_ms`, which no formula bounds: what a user would not wait for."""
WORST_MEMORY_MB = 1e5
"""Reference of `peak_memory_mb`, which no formula bounds: more than a device has."""


def directions(spec: StudySpec) -> list[Literal["maximize", "minimize"]]:
    """Returns `maximize` or `minimize` for every objective, in the study's order."""
    return ["maximize" if name in MAXIMISED else "minimize" for name in spec.study.objectives]


def values(outcome: Outcome, spec: StudySpec) -> tuple[float, ...]:
    """Returns the measured objectives in the study's order.

    Raises:
        CandidateError: An objective was not measured or is not finite.
    """
    return tuple(_metric(outcome, name) for name in spec.study.objectives)


def violations(outcome: Outcome, spec: StudySpec) -> dict[str, float]:
    """Returns by how much each constraint is violated; 0 or less means that it holds.

    Raises:
        CandidateError: A constrained quantity was not measured or is not finite.
    """
    found = {}
    for name, bound in spec.study.constraints.items():
        measure = name.partition("_")[2]
        above = excess(name, bound, {measure: _metric(outcome, measure)})
        assert above is not None
        found[name] = above
    return found


def _metric(outcome: Outcome, name: str) -> float:
    value = outcome.metrics.get(name)
    if value is None:
        raise CandidateError("missing-metric", f"{name} was not measured on {outcome.device}")
    if not math.isfinite(value):
        raise CandidateError("nan", f"{name} is {value}")
    return float(value)


def reference_point(
    spec: StudySpec,
    *,
    num_classes: int,
    max_params: int,
    max_flops: int,
    bytes_per_token: float = 1.0,
) -> tuple[float, ...]:
    """Returns the point that bounds the hypervolume, in the study's order and natural units.

    It is frozen with the study: accuracy and loss of the predictor that says the same for every
    example, the parameters and operations of the largest design, and generous constants for what is
    measured in time and bytes.

    Args:
        spec: The study.
        num_classes: Classes of the data; of text, tokens of the vocabulary.
        max_params: Total parameters of the largest design of the space.
        max_flops: Operations per token of the largest design with all of its experts active.
        bytes_per_token: Mean length of a token of the text.
    """
    told = language_metrics(math.log(num_classes), bytes_per_token)
    points = {
        "accuracy": 1.0 / num_classes,
        "perplexity": told["perplexity"],
        "bits_per_byte": told["bits_per_byte"],
        "validation_loss": math.log(num_classes),
        "activated_params": float(max_params),
        "total_params": float(max_params),
        "flops_per_token": float(max_flops),
        "latency_ms": WORST_LATENCY_MS,
        "peak_memory_mb": WORST_MEMORY_MB,
    }
    return tuple(points[name] for name in spec.study.objectives)


def reference_point_of(
    spec: StudySpec, data: SearchData, *, max_params: int, max_flops: int
) -> tuple[float, ...]:
    """Returns `reference_point` for a study's data and the size and work of its largest design."""
    return reference_point(
        spec,
        num_classes=data.num_classes,
        max_params=max_params,
        max_flops=max_flops,
        bytes_per_token=data.bytes_per_token if isinstance(data, TextData) else 1.0,
    )


def front_hypervolume(
    points: Iterable[Sequence[float]], reference: Sequence[float], spec: StudySpec
) -> float:
    """Returns the share of the box between ideal and reference point that a front dominates.

    The ideal is an accuracy of 1, a perplexity of 1 (whose logarithm counts) and a 0 in everything
    else. A point that is worse than the reference adds nothing.

    Args:
        points: Values of the objectives, one row per member of the front, in the study's order.
        reference: The study's frozen reference point.
        spec: The study.
    """
    maximise = [name in MAXIMISED for name in spec.study.objectives]
    logarithmic = [name in LOGARITHMIC for name in spec.study.objectives]
    return dominated_share(
        [list(point) for point in points], maximise, list(reference), logarithmic
    )
