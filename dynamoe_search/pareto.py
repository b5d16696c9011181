"""Pareto dominance, ranks, hypervolume and knee of a set of points, computed by moocore. No torch, no SQL.

`values` is always a float64 array (points, objectives) and `maximise` says for each objective which way is better.
A point dominates another if it is at least as good in every objective and better in one, so equal points do not
dominate each other. A point with a NaN is never on the front, dominates nobody and adds no hypervolume.
"""

from collections.abc import Sequence
from typing import TypeAlias

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Indices: TypeAlias = NDArray[np.int64]


def is_non_dominated(values: ArrayLike, maximise: Sequence[bool]) -> Bools:
    """Returns which points are on the front, (points,); all copies of a point are."""
    losses, is_valid = _losses(values, maximise)
    mask = np.zeros(len(losses), dtype=np.bool_)
    if is_valid.any():
        mask[is_valid] = moocore.is_nondominated(_places(losses[is_valid]), keep_weakly=True)
    return mask


def front_indices(values: ArrayLike, maximise: Sequence[bool]) -> Indices:
    """Returns the row numbers of the points on the front, ascending."""
    return np.flatnonzero(is_non_dominated(values, maximise)).astype(np.int64)


def pareto_ranks(values: ArrayLike, maximise: Sequence[bool]) -> Indices:
    """Returns the rank of each point, (points,).

    0 is the front, 1 the front of what remains without rank 0, and so on; -1 for a point with a NaN.
    """
    losses, is_valid = _losses(values, maximise)
    ranks = np.full(len(losses), -1, dtype=np.int64)
    if is_valid.any():
        ranks[is_valid] = moocore.pareto_rank(_places(losses[is_valid]))
    return ranks


def hypervolume(values: ArrayLike, maximise: Sequence[bool], reference: ArrayLike) -> float:
    """Returns the volume that the points dominate, up to a reference point.

    Args:
        values: (points, objectives).
        maximise: One claim per objective.
        reference: (objectives,) A point worse than all of interest; points that do not dominate it add nothing.
    """
    losses, is_valid = _losses(values, maximise)
    bound = np.asarray(reference, dtype=np.float64)
    if bound.shape != (losses.shape[1],):
        raise ValueError(
            f"reference must have one value per objective ({losses.shape[1]}), got shape {bound.shape}"
        )
    if not np.isfinite(bound).all():
        raise ValueError(f"reference must be finite, got {bound.tolist()}")
    bound = bound * _signs(maximise)
    inside = losses[is_valid & (losses < bound).all(axis=1)]
    if not len(inside):
        return 0.0
    return float(moocore.hypervolume(inside, ref=bound)) if np.isfinite(inside).all() else np.inf


def dominated_share(
    values: ArrayLike,
    maximise: Sequence[bool],
    reference: ArrayLike,
    logarithmic: Sequence[bool] | None = None,
) -> float:
    """Returns the share of the box between ideal and reference point that the points dominate.

    The ideal is 1 in what is maximised (an accuracy) and on a logarithmic scale (a perplexity), and 0 in everything
    else.

    Args:
        values: (points, objectives).
        maximise: One claim per objective.
        reference: (objectives,) A point worse than all of interest; points that do not dominate it add nothing.
        logarithmic: One claim per objective: whether logarithms span the box; nowhere if left out.
    """
    if logarithmic is not None and any(logarithmic):
        scaled = np.array(values, dtype=np.float64).reshape(-1, len(maximise))
        bound = np.array(reference, dtype=np.float64)
        for place in np.flatnonzero(logarithmic):
            scaled[:, place], bound[place] = np.log(scaled[:, place]), np.log(bound[place])
        values, reference = scaled, bound
    ideal = np.asarray(maximise, dtype=np.float64)
    box = float(np.prod(np.abs(np.asarray(reference, dtype=np.float64) - ideal)))
    return hypervolume(values, maximise, reference) / box


def knee_point(values: ArrayLike, maximise: Sequence[bool]) -> int | None:
    """Returns the row number of the front's knee, None if there is no finite point.

    Objectives are scaled so that the front spans 0 (best) to 1 (worst) in each. The knee is the point of the front
    that lies farthest on the good side of the line (with more objectives, the plane) through the points that are
    worst in one objective and best in the others. Of equally far points it is the one whose worst objective is
    best, then the first.

    Source: Das, 1999, "On characterizing the 'knee' of the Pareto curve based on Normal-Boundary Intersection".
    """
    losses, _ = _losses(values, maximise)
    candidates = np.flatnonzero(
        is_non_dominated(values, maximise) & np.isfinite(losses).all(axis=1)
    )
    if not len(candidates):
        return None
    front = losses[candidates]
    span = np.ptp(front, axis=0)
    scaled = (front - front.min(axis=0)) / np.where(span > 0, span, 1.0)
    # The plane is sum = 1, so a smaller sum is farther from it; rounding keeps equal sums equal.
    order = np.lexsort((candidates, scaled.max(axis=1).round(12), scaled.sum(axis=1).round(12)))
    return int(candidates[order[0]])


def _signs(maximise: Sequence[bool]) -> Floats:
    return np.where(np.asarray(maximise, dtype=np.bool_), -1.0, 1.0)


def _places(losses: Floats) -> Floats:
    """Returns each value's place among the different values of its objective.

    Dominance is the same among places, and they are finite: moocore 0.3 does not see that (inf, 0) dominates
    (inf, 1) when there are four objectives.
    """
    columns = [np.unique(column, return_inverse=True)[1].reshape(-1) for column in losses.T]
    return np.stack(columns, axis=1).astype(np.float64)


def _losses(values: ArrayLike, maximise: Sequence[bool]) -> tuple[Floats, Bools]:
    """Returns the values turned so that less is better, and which rows have no NaN."""
    points = np.asarray(values, dtype=np.float64)
    if points.size == 0:
        points = points.reshape(0, len(maximise))
    if points.ndim != 2 or points.shape[1] != len(maximise) or not len(maximise):
        raise ValueError(
            f"values must be (points, objectives) with {len(maximise)} objectives, got shape {points.shape}"
        )
    losses = np.ascontiguousarray(points * _signs(maximise))
    return losses, np.asarray(~np.isnan(losses).any(axis=1), dtype=np.bool_)
