"""Means, differences and rankings with what chance leaves open of them. Pure functions of numbers: no torch, no SQL.

Everything here is about few seeds: intervals are Student's, differences are paired seed by seed, and several claims
made at once are corrected for their number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

LEVEL = 0.95
"""How often an interval is to cover the truth."""
_RESAMPLES = 2000
_DIVISIONS = 50
_AT_ONCE = 200  # rankings


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean of `number` values with its interval; both ends are NaN with fewer than two values."""

    mean: float
    low: float
    high: float
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A mean of paired differences with its interval.

    Attributes:
        mean: First minus second.
        low: Lower end of the interval.
        high: Upper end.
        number: Pairs.
        p: How likely a mean so far from 0 is if there is no difference; two-sided, not corrected.
    """

    mean: float
    low: float
    high: float
    number: int
    p: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How well two rankings of the same designs agree: Kendall's tau with its interval.

    A tau of t means that a share of (1 + t) / 2 of the pairs of designs stands in the same order in both.
    """

    tau: float
    low: float
    high: float
    number: int  # designs


def mean_interval(values: Sequence[float], *, resolution: float = 0.0) -> Interval:
    """Returns the mean of values and Student's interval for it.

    Args:
        values: Independent of each other, as over seeds.
        resolution: Step of the scale that the values are read from, such as 1 / examples for an accuracy. Values that
            happen to fall on the same step still differ by what the step hides.
    """
    number = len(values)
    mean = float(np.mean(values)) if number else math.nan
    if number < 2:
        return Interval(mean=mean, low=math.nan, high=math.nan, number=number)
    half = _half_width(values, resolution / math.sqrt(12))
    return Interval(mean=mean, low=mean - half, high=mean + half, number=number)


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, resolution: float = 0.0
) -> Difference:
    """Returns the mean of first - second with Student's interval and p value.

    Args:
        first: One value per pair.
        second: Likewise, in the same order.
        resolution: See `mean_interval`; both sides of a pair are read from the same scale.
    """
    if len(first) != len(second):
        raise ValueError(f"pairs need two values each, got {len(first)} and {len(second)}")
    differences = [one - other for one, other in zip(first, second, strict=True)]
    least = resolution / math.sqrt(6)
    found = mean_interval(differences, resolution=resolution * math.sqrt(2))
    return Difference(
        mean=found.mean,
        low=found.low,
        high=found.high,
        number=found.number,
        p=_p_value(differences, least),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p values corrected for their number; below 0.05 all at once, in 95 of 100 studies none is false.

    Source: Holm, 1979, A simple sequentially rejective multiple test procedure.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [1.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def rank_agreement(first: ArrayLike, second: ArrayLike, *, seed: int = 0) -> Agreement:
    """Returns how well the rankings of designs by their means agree, with a bootstrap interval over the seeds.

    Both sides draw their seeds anew, with replacement, and are ranked by the new means. The interval is that of the
    middle 95 % of what comes out; as every draw adds noise, it leans towards less agreement.

    Args:
        first: (designs, seeds) A value of each design for each seed.
        second: (designs, seeds) Likewise; the number of seeds may be another one.
        seed: Of the draws.

    Source: Kendall, 1938, A new measure of rank correlation; ties as in tau-b, 1945.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 2 or other.ndim != 2 or len(one) != len(other):
        raise ValueError(f"designs and seeds on both sides, got {one.shape} and {other.shape}")
    tau = float(_taus(one.mean(1)[None], other.mean(1)[None])[0])
    generator = np.random.default_rng(seed)
    drawn = _taus(_resampled(one, generator), _resampled(other, generator))
    known = drawn[np.isfinite(drawn)]
    if not len(known) or math.isnan(tau):
        return Agreement(tau=tau, low=math.nan, high=math.nan, number=len(one))
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Agreement(tau=tau, low=min(float(low), tau), high=max(float(high), tau), number=len(one))


def split_agreement(values: ArrayLike, *, seed: int = 0) -> float:
    """Returns how well the ranking by one half of the seeds agrees with that by another: mean tau-b of many divisions.

    This is what the seeds leave of an order. Near 0, the designs differ by no more than chance, and the ranking can
    agree with no other one.

    Args:
        values: (designs, seeds) A value of each design for each seed; with an odd number one seed is left out in turn.
        seed: Of the divisions.

    Source: Spearman, 1910, and Brown, 1910, on halves of a test as a measure of its reliability.
    """
    one = np.asarray(values, dtype=np.float64)
    half = one.shape[1] // 2
    if not half or len(one) < 2:
        return math.nan
    orders = np.random.default_rng(seed).permuted(
        np.tile(np.arange(one.shape[1]), (_DIVISIONS, 1)), axis=1
    )
    first, second = (one[:, orders[:, start : start + half]].mean(2).T for start in (0, half))
    found = _taus(first, second)
    known = found[np.isfinite(found)]
    return float(known.mean()) if len(known) else math.nan


def _resampled(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Means (draws, designs) over seeds that are drawn anew, the same for all designs: they are paired."""
    columns = generator.integers(values.shape[1], size=(_RESAMPLES, values.shape[1]))
    return values[:, columns].mean(2).T  # type: ignore[no-any-return]


def _taus(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Tau-b of rankings, row by row (rankings, designs); NaN where one of the two has no order at all."""
    pairs = np.triu_indices(first.shape[1], 1)
    if not len(pairs[0]):
        return np.full(len(first), math.nan)
    found = []
    for start in range(0, len(first), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        one, other = (
            np.sign(side[rows][:, pairs[0]] - side[rows][:, pairs[1]]) for side in (first, second)
        )
        weight = np.sqrt((one**2).sum(1) * (other**2).sum(1))
        with np.errstate(invalid="ignore"):
            found.append((one * other).sum(1) / weight)
    return np.concatenate(found)


def _deviation(values: Sequence[float], least: float) -> float:
    return max(float(np.std(values, ddof=1)), least)


def _half_width(values: Sequence[float], least: float) -> float:
    number = len(values)
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, number - 1))
    return quantile * _deviation(values, least) / math.sqrt(number)


def _p_value(differences: Sequence[float], least: float) -> float:
    number = len(differences)
    if number < 2:
        return 1.0
    mean, deviation = float(np.mean(differences)), _deviation(differences, least)
    if deviation == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / (deviation / math.sqrt(number)), number - 1))
