"""Effects with their uncertainty: analysis of variance with blocks, curves, and what `intervals` has for means.

Legend: blocks = replicates, which share a seed; levels = what is compared within a block.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from dynamoe_search.intervals import LEVEL, paired_difference

_MOST_NONCENTRALITY = 1e5


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """An effect, its 95 % interval, the p-value of no effect (two-sided) and the number of replicates."""

    effect: float
    low: float
    high: float
    p: float
    n: int

    @classmethod
    def unknown(cls) -> "Estimate":
        """Returns the estimate of what could not be measured."""
        return cls(effect=math.nan, low=math.nan, high=math.nan, p=math.nan, n=0)


def mean_estimate(values: Sequence[float], *, resolution: float = 0.0) -> Estimate:
    """Returns the mean of independent differences with its t interval; unknown with fewer than two finite ones.

    Args:
        values: One per replicate; those that are not finite are left out.
        resolution: Step of the scale that both sides of a difference are read from, see `intervals.paired_difference`.
    """
    known = [value for value in values if math.isfinite(value)]
    if len(known) < 2:
        return Estimate.unknown()
    found = paired_difference(known, [0.0] * len(known), resolution=resolution)
    return Estimate(effect=found.mean, low=found.low, high=found.high, p=found.p, n=found.number)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Blocked:
    """A one-way analysis of variance with replicates as blocks.

    Attributes:
        means: (levels,).
        spread: Highest mean minus lowest, with Tukey's simultaneous interval, and its p-value.
        half_width: Half width of Tukey's interval of any difference of two means.
        f, p: Variance between levels against what is left within blocks.
        share: Omega squared: the levels' share of the variance that blocks do not explain.
        share_low, share_high: Its 95 % interval.
    """

    means: NDArray[np.float64]
    spread: Estimate
    half_width: float
    f: float
    p: float
    share: float
    share_low: float
    share_high: float


def blocked_anova(values: ArrayLike, *, resolution: float = 0.0) -> Blocked:
    """Analyses (blocks, levels) numbers, at least 2 of each.

    With SS the sums of squares, `f` = MS_levels / MS_rest with (levels - 1) and (levels - 1)(blocks - 1) degrees of
    freedom. Omega squared is s / (s + MS_rest) with s = (levels - 1)(MS_levels - MS_rest) / (levels * blocks), the
    estimated variance between levels, at least 0. Its interval turns round the noncentral F distribution: with few
    blocks a bootstrap over them is too narrow and lies too high.

    Values on a scale with a step of `resolution` leave at least the variance of rounding to it, resolution^2 / 12.

    Source: Tukey, 1949 (range of means); Steiger, 2004, Beyond the F test, Psychological Methods 9 (interval).
    """
    table = np.asarray(values, dtype=np.float64)
    blocks, levels = table.shape
    means = table.mean(0)
    rest = table - means - table.mean(1, keepdims=True) + table.mean()
    df, df_rest = levels - 1, (levels - 1) * (blocks - 1)
    ms = blocks * float(np.square(means - table.mean()).sum()) / df
    ms_rest = max(float(np.square(rest).sum()) / df_rest, resolution**2 / 12)
    spread = float(means.max() - means.min())
    if ms_rest < 1e-30:
        return _without_noise(means, blocks)
    error = math.sqrt(ms_rest / blocks)
    half = _tukey(levels, df_rest) * error
    between = max(0.0, df * (ms - ms_rest) / (levels * blocks))
    f = ms / ms_rest
    low, high = (
        _noncentrality(f, df, df_rest, quantile) for quantile in ((1 + LEVEL) / 2, (1 - LEVEL) / 2)
    )
    return Blocked(
        means=means,
        spread=Estimate(
            effect=spread,
            low=max(0.0, spread - half),
            high=spread + half,
            p=float(stats.studentized_range.sf(spread / error, levels, df_rest)),
            n=blocks,
        ),
        half_width=half,
        f=f,
        p=float(stats.f.sf(f, df, df_rest)),
        share=between / (between + ms_rest),
        share_low=low / (low + table.size),
        share_high=high / (high + table.size),
    )


def _without_noise(means: NDArray[np.float64], blocks: int) -> Blocked:
    """The analysis of a table whose blocks say exactly the same."""
    spread = float(means.max() - means.min())
    is_equal = spread < 1e-12
    share = float(not is_equal)
    return Blocked(
        means=means,
        spread=Estimate(effect=spread, low=spread, high=spread, p=float(is_equal), n=blocks),
        half_width=0.0,
        f=0.0 if is_equal else math.inf,
        p=float(is_equal),
        share=share,
        share_low=share,
        share_high=share,
    )


@cache
def _tukey(levels: int, df_rest: int) -> float:
    """Finding this quantile takes a fifth of a second."""
    return float(stats.studentized_range.ppf(LEVEL, levels, df_rest))


def _noncentrality(f: float, df: int, df_rest: int, quantile: float) -> float:
    """Returns the noncentrality under which `f` is at this quantile, 0 if it is lower even without any."""
    if float(stats.f.cdf(f, df, df_rest)) <= quantile:
        return 0.0

    def excess(noncentrality: float) -> float:
        return float(stats.ncf.cdf(f, df, df_rest, noncentrality)) - quantile

    most = 1.0
    while excess(most) > 0 and most < _MOST_NONCENTRALITY:
        most *= 2
    if excess(most) > 0:
        return most
    return float(optimize.brentq(excess, 1e-9, most))


def interpolate(x: Sequence[float], y: Sequence[float], at: float) -> float:
    """Returns the height at a place of the broken line through points; outside, that of the nearest end."""
    order = np.argsort(x, kind="stable")
    return float(np.interp(at, np.asarray(x)[order], np.asarray(y)[order]))


def jackknife(statistic: Callable[[Sequence[int]], float], n: int) -> Estimate:
    """Returns a statistic of n replicates with its jackknife t interval; unknown with fewer than two.

    Args:
        statistic: Its value from the replicates at these positions.
        n: How many replicates there are.

    Source: Tukey, 1958, Bias and confidence in not-quite large samples.
    """
    if n < 2:
        return Estimate.unknown()
    whole = statistic(range(n))
    without = [statistic([one for one in range(n) if one != left]) for left in range(n)]
    spread = mean_estimate([n * whole - (n - 1) * one for one in without])
    half = spread.high - spread.effect
    return Estimate(effect=whole, low=whole - half, high=whole + half, p=spread.p, n=n)
