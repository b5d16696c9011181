"""What candidates that wait at a rung, or were stopped there, would have become: estimates learnt from the others.

Learning goes backwards. Those that finished tell how a record of the last rung becomes a result; with that, whoever
stands at the last rung has an estimate; both together tell how a record of the rung before becomes a result; and so
on down. So an estimate rests on all who went further, not only on the survivors, who are better than most. At each
rung it is a Bayesian linear regression on what the rung saw, in which candidates count the more, the more alike they
are. The scale of its prior is how much candidates have changed from rung to rung: while nobody has finished, the end
lies as far off as the rungs passed so far suggest.

Source: the conjugate analysis of Gelman et al., "Bayesian Data Analysis", 3rd edition, chapter 14.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from dynamoe_search.pareto import Bools, Floats, Indices
from dynamoe_search.pruning.rungs import Rung, RungRecord

COVERAGE = 0.9
"""Share of candidates whose end lies in the interval."""

_PRIOR_RECORDS = 6.0  # how many records the prior of the residual variance is worth
_SLOPE_VARIANCE = 2.0  # prior, in residual variances per unit of a standardised record
_SHIFT_VARIANCE = 4.0  # likewise of the mean change
_REACH = 0.5  # standardised distance at which another candidate says less
_WIDER = 1.5  # of activated parameters, whose thresholds drift more in paused candidates than in survivors
_LARGEST = 700.0  # logarithm that still has an exponential


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a candidate would become by the end of its training, with intervals that hold it in 90 % of all cases."""

    error: float
    error_low: float
    error_high: float
    activated_params: float
    activated_low: float
    activated_high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Belief:
    """What is known of one final number of every candidate, on a log scale, (candidates,); NaN if nothing is."""

    mean: Floats
    variance: Floats
    freedom: Floats  # of Student's distribution; infinite for what is certain

    def bounds(self, wider: float) -> tuple[Floats, Floats]:
        reach = wider * stats.t.ppf((1 + COVERAGE) / 2, self.freedom) * np.sqrt(self.variance)
        return self.mean - reach, self.mean + reach


def estimates(
    rungs: Mapping[int, Collection[RungRecord]],
    finals: Mapping[int, tuple[float, float]],
    standing: Mapping[int, int],
) -> dict[int, Estimate]:
    """Returns what candidates would become, by ordinal; who has a number that is not finite is left out.

    Args:
        rungs: By rung, everybody who reached it, each once, in any order.
        finals: By ordinal, error and activated parameters of those that finished.
        standing: By ordinal, the rung that each candidate asked about has reached.
    """
    table = {epoch: Rung.of(records) for epoch, records in sorted(rungs.items()) if records}
    everybody = sorted({int(one) for rung in table.values() for one in rung.ordinals})
    place = {ordinal: row for row, ordinal in enumerate(everybody)}
    ends = np.full((2, len(everybody)), np.nan)
    for ordinal, numbers in finals.items():
        if ordinal in place and np.isfinite(numbers).all():
            ends[:, place[ordinal]] = numbers
    floor = _floor(np.concatenate([rung.error for rung in table.values()]) if table else ends[0])
    shown = np.full((len(table), 3, len(everybody)), np.nan)  # on a log scale
    for level, rung in enumerate(table.values()):
        rows = [place[int(one)] for one in rung.ordinals[rung.is_finite]]
        shown[level][:, rows] = _logarithms(rung, floor)
    error = _believe(np.log(ends[0] + floor), shown, 0)
    activated = _believe(np.log(np.maximum(ends[1], 1.0)), shown, 2)
    asked = [one for one in standing if one in place and np.isfinite(error.mean[place[one]])]
    return _told(
        asked, np.array([place[one] for one in asked], dtype=np.int64), error, activated, floor
    )


def _floor(errors: Floats) -> float:
    """Returns what is added to an error so that 0 has a logarithm: the smallest that occurs, about one example."""
    positive = errors[(errors > 0) & np.isfinite(errors)]
    return float(positive.min()) if len(positive) else 1e-6


def _logarithms(rung: Rung, floor: float) -> Floats:
    """Returns the rung's finite records on a log scale: error, loss, activated parameters; (3, records)."""
    loss = np.maximum(rung.loss, 1e-6)
    columns = np.stack((rung.error + floor, loss, np.maximum(rung.activated, 1.0)))
    return np.asarray(np.log(columns[:, rung.is_finite]))


def _believe(ends: Floats, shown: Floats, which: int) -> _Belief:
    """Returns what is known of the end of one number of every candidate.

    Args:
        ends: (candidates,) of those that finished, on a log scale; NaN for the others.
        shown: (rungs, 3, candidates) what the rungs saw; NaN for those that did not reach one.
        which: Which of the three numbers.
    """
    belief = _Belief(
        mean=ends.copy(),
        variance=np.where(np.isnan(ends), np.nan, 0.0),
        freedom=np.where(np.isnan(ends), np.nan, np.inf),
    )
    steps = _steps(shown[:, which])
    for level in reversed(range(len(shown))):
        _learn(belief, shown[level], which, steps[level:])
    return belief


def _steps(values: Floats) -> Floats:
    """Returns mean and variance of the change from each rung to the next or to the end, (rungs, 2).

    Of the last rung that anybody has passed it is known; after that it is taken to be as before.
    """
    found = np.zeros((len(values), 2))
    first = values[0][~np.isnan(values[0])] if len(values) else values
    latest = np.array([0.0, first.var(ddof=1) if len(first) > 1 else 1.0])
    for level in range(len(values)):
        change = values[level + 1] - values[level] if level + 1 < len(values) else np.array([])
        change = change[~np.isnan(change)]
        if len(change) > 2:
            latest = np.array([change.mean(), change.var(ddof=1)])
        found[level] = latest
    return found


def _learn(belief: _Belief, shown: Floats, which: int, steps: Floats) -> None:
    """Adds to the belief whoever got no further than this rung.

    Args:
        belief: Of those that got further; changed in place.
        shown: (3, candidates) what the rung saw.
        which: Of which of the three numbers the belief is.
        steps: (rungs, 2) mean and variance of the changes to come.
    """
    is_here = ~np.isnan(shown[0])
    known = np.flatnonzero(is_here & ~np.isnan(belief.mean))
    new = np.flatnonzero(is_here & np.isnan(belief.mean))
    if not len(new):
        return
    features = _standardised(shown, is_here)
    design = np.column_stack([np.ones(len(features)), features])
    expected, spread = steps[:, 0].sum(), max(steps[:, 1].sum(), 1e-6)
    change, uncertain = (belief.mean - shown[which] - expected)[known], belief.variance[known]
    # Whose end is itself an estimate counts less, and so does who is unlike the one in question.
    distance = ((features[new, None] - features[known]) ** 2).sum(axis=2)
    weight = spread / (spread + uncertain) * np.exp(-distance / (2 * _REACH**2))  # (new, known)
    prior = np.diag([1 / _SHIFT_VARIANCE] + [1 / _SLOPE_VARIANCE] * 3)
    inside = design[known]
    precision = prior + np.einsum("nk,ki,kj->nij", weight, inside, inside, optimize=True)
    slopes = np.linalg.solve(precision, ((weight * change) @ inside)[:, :, None])[:, :, 0]
    scatter = (weight * ((change - slopes @ inside.T) ** 2 + uncertain)).sum(axis=1)
    scatter += np.einsum("ni,ij,nj->n", slopes, prior, slopes)
    freedom = _PRIOR_RECORDS + weight.sum(axis=1)
    variance = (_PRIOR_RECORDS * spread + scatter) / freedom
    leverage = np.einsum(
        "ni,ni->n", design[new], np.linalg.solve(precision, design[new][:, :, None])[:, :, 0]
    )
    belief.mean[new] = shown[which][new] + expected + (design[new] * slopes).sum(axis=1)
    belief.variance[new] = variance * (1 + leverage)
    belief.freedom[new] = freedom


def _standardised(shown: Floats, is_here: Bools) -> Floats:
    """Returns what a rung saw with mean 0 and variance 1, (candidates, 3)."""
    center, scale = shown[:, is_here].mean(axis=1), shown[:, is_here].std(axis=1)
    return np.asarray(((shown - center[:, None]) / np.where(scale > 1e-9, scale, 1.0)[:, None]).T)


def _told(
    asked: list[int], rows: Indices, error: _Belief, activated: _Belief, floor: float
) -> dict[int, Estimate]:
    if not asked:
        return {}
    logs = [(error.mean, *error.bounds(1.0)), (activated.mean, *activated.bounds(_WIDER))]
    errors = [np.clip(np.exp(np.minimum(one[rows], 1.0)) - floor, 0.0, 1.0) for one in logs[0]]
    sizes = [np.exp(np.clip(one[rows], -_LARGEST, _LARGEST)) for one in logs[1]]
    return {
        ordinal: Estimate(
            error=float(errors[0][index]),
            error_low=float(errors[1][index]),
            error_high=float(errors[2][index]),
            activated_params=float(sizes[0][index]),
            activated_low=float(sizes[1][index]),
            activated_high=float(sizes[2][index]),
        )
        for index, ordinal in enumerate(asked)
    }
