"""What candidates that wait at a rung, or were stopped there, would have become: estimates learnt from the others.

Learning goes backwards. Those that finished tell how a record of the last rung becomes a result; with that, whoever
stands at the last rung has an estimate; both together tell how a record of the rung before becomes a result; and so
on down. So an estimate rests on all who went further, not only on the survivors, who are better than most. At each
rung it is a Bayesian linear regression on what the rung saw, in which candidates count the more, the more alike they
are. The scale of its prior is how much candidates have changed from rung to rung: while nobody has finished, the end
lies as far off as the rungs passed so far suggest. Learning slows down: on a log scale, a stretch of so many times the
epochs brings more than a shorter one did, but not in proportion. Activated parameters change as thresholds are
learnt, by router kinds of their own: top-k keeps them exactly, so those of a kind say more about each other.

The other constants were chosen on half of the candidates of recorded curves, the widths of intervals on all of them;
`benchmarks/pruning/coverage.py` learns the widths on random halves and looks at the other halves.

Source: the conjugate analysis of Gelman et al., "Bayesian Data Analysis", 3rd edition, chapter 14.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from dynamoe_search.pareto import Bools, Floats, Indices
from dynamoe_search.pruning.rungs import Rung, RungRecord

COVERAGE = 0.9
"""Share of candidates whose end lies in the interval."""

_PRIOR_RECORDS = 6.0  # how many records the prior of the residual variance is worth
_PRIOR_FINALS = 5.0  # how many finished candidates the guess of their last change is worth
_PRIOR_KIND = 5.0  # how many candidates of a kind the changes of all kinds are worth
_SLOPE_VARIANCE = 1.0  # prior, in residual variances per unit of a standardised record
_SHIFT_VARIANCE = 4.0  # likewise of the mean change
_REACH = 0.8  # standardised distance at which another candidate says less
_OTHER_KIND = 0.5  # how much a candidate of another kind counts
_ERROR_SLOWS = 0.5  # power of a stretch, in log epochs, with which the mean change grows
_ACTIVATED_SLOWS = 1.0
_ERROR_WIDTH = 0.87  # of intervals, next to the regression's, so that they hold what they promise
_ACTIVATED_WIDTH = 1.21  # likewise; thresholds drift more in paused candidates than in survivors
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

    def bounds(self, width: float) -> tuple[Floats, Floats]:
        reach = width * stats.t.ppf((1 + COVERAGE) / 2, self.freedom) * np.sqrt(self.variance)
        return self.mean - reach, self.mean + reach


@dataclass(frozen=True, kw_only=True, slots=True)
class _Number:
    """One of the three numbers of every candidate, on a log scale."""

    which: int
    ends: Floats  # (candidates,) of those that finished; NaN for the others
    lengths: Floats  # (rungs,) log epochs from each rung to the next or to the end
    slows: float  # power of the length with which the mean change grows
    kinds: Indices  # (candidates,) who changes alike


def estimates(
    rungs: Mapping[int, Collection[RungRecord]],
    finals: Mapping[int, tuple[float, float]],
    standing: Mapping[int, int],
    *,
    epochs: int,
    kinds: Mapping[int, str] | None = None,
    highest: float = 1.0,
) -> dict[int, Estimate]:
    """Returns what candidates would become, by ordinal; who has a number that is not finite is left out.

    Args:
        rungs: By rung, everybody who reached it, each once, in any order.
        finals: By ordinal, error and activated parameters of those that finished.
        standing: By ordinal, the rung that each candidate asked about has reached.
        epochs: Of a candidate that is trained to its end.
        kinds: By ordinal, what activated parameters change alike in, the router kind; None if they all do.
        highest: What an error is at most.
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
    lengths = np.maximum(np.diff(np.log([*table, max(epochs, *table, 1)])), 1e-9)
    names = np.array([(kinds or {}).get(one, "") for one in everybody], dtype=np.str_)
    error, activated = (_believe(number, shown) for number in _numbers(ends, floor, lengths, names))
    asked = [one for one in standing if one in place and np.isfinite(error.mean[place[one]])]
    asked_rows = np.array([place[one] for one in asked], dtype=np.int64)
    return _told(asked, asked_rows, error, activated, floor, highest)


def _numbers(
    ends: Floats, floor: float, lengths: Floats, names: NDArray[np.str_]
) -> Iterator[_Number]:
    """Yields validation error and activated parameters.

    Args:
        ends: (2, candidates) as they are, not on a log scale.
        floor: What is added to an error.
        lengths: (rungs,) log epochs from each rung to the next or to the end.
        names: (candidates,) of router kinds.
    """
    yield _Number(
        which=0,
        ends=np.log(ends[0] + floor),
        lengths=lengths,
        slows=_ERROR_SLOWS,
        kinds=np.zeros(len(names), dtype=np.int64),
    )
    yield _Number(
        which=2,
        ends=np.log(np.maximum(ends[1], 1.0)),
        lengths=lengths,
        slows=_ACTIVATED_SLOWS,
        kinds=np.unique(names, return_inverse=True)[1],
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


def _believe(number: _Number, shown: Floats) -> _Belief:
    """Returns what is known of the end of one number of every candidate.

    Args:
        number: That number.
        shown: (rungs, 3, candidates) what the rungs saw; NaN for those that did not reach one.
    """
    ends = number.ends
    belief = _Belief(
        mean=ends.copy(),
        variance=np.where(np.isnan(ends), np.nan, 0.0),
        freedom=np.where(np.isnan(ends), np.nan, np.inf),
    )
    if not len(shown):
        return belief
    steps = _all_steps(number, shown[:, number.which])
    for level in reversed(range(len(shown))):
        _learn(belief, shown[level], number, steps[level:].sum(axis=0))
    return belief


def _all_steps(number: _Number, values: Floats) -> Floats:
    """Returns mean and variance of every candidate's change from each rung to the next, (rungs, 2, candidates)."""
    first = values[0][~np.isnan(values[0])]
    start = np.array([0.0, first.var(ddof=1) if len(first) > 1 else 1.0])
    everybody = _steps(number, values, np.ones(values.shape[1], dtype=np.bool_), start, 0.0)
    found = np.repeat(everybody[:, :, None], values.shape[1], axis=2)
    kinds = np.unique(number.kinds)
    for kind in kinds if len(kinds) > 1 else ():
        is_in = number.kinds == kind
        steps = _steps(number, values, is_in, everybody[0], _PRIOR_KIND)
        found[:, :, is_in] = steps[:, :, None]
    return found


def _steps(number: _Number, values: Floats, is_in: Bools, start: Floats, worth: float) -> Floats:
    """Returns mean and variance of the change of some from each rung to the next or to the end, (rungs, 2).

    What is not known follows from the stretch before: the variance is taken to be the same, the mean to have grown with
    a power of the length. After the last rung there are only survivors, so what they did is mixed with that.

    Args:
        number: The number in question.
        values: (rungs, candidates).
        is_in: (candidates,) whose changes count.
        start: (2,) mean and variance of the first change, as far as nothing is known.
        worth: How many changes that is worth.
    """
    lengths, found = number.lengths, np.zeros((len(values), 2))
    latest, length = start, lengths[0]
    for level, (now, then) in enumerate(zip(values, [*values[1:], number.ends], strict=True)):
        found[level] = latest * np.array([(lengths[level] / length) ** number.slows, 1.0])
        change = (then - now)[is_in]
        change = change[~np.isnan(change)]
        if len(change) > 2:
            doubt = worth + (_PRIOR_FINALS if level + 1 == len(values) else 0.0)
            own = np.array([change.mean(), change.var(ddof=1)])
            found[level] += len(change) / (len(change) + doubt) * (own - found[level])
            latest, length = found[level], lengths[level]
    return found


def _learn(belief: _Belief, shown: Floats, number: _Number, steps: Floats) -> None:
    """Adds to the belief whoever got no further than this rung.

    Args:
        belief: Of those that got further; changed in place.
        shown: (3, candidates) what the rung saw.
        number: The number that the belief is of.
        steps: (2, candidates) mean and variance of the changes to come.
    """
    is_here = ~np.isnan(shown[0])
    known = np.flatnonzero(is_here & ~np.isnan(belief.mean))
    new = np.flatnonzero(is_here & np.isnan(belief.mean))
    if not len(new):
        return
    features = _standardised(shown, is_here)
    design = np.column_stack([np.ones(len(features)), features])
    before = shown[number.which] + steps[0]
    spread = np.maximum(steps[1], 1e-6)[new]
    change, uncertain = (belief.mean - before)[known], belief.variance[known]
    # Whose end is itself an estimate counts less, and so does who is unlike the one in question.
    distance = ((features[new, None] - features[known]) ** 2).sum(axis=2)
    kinds = number.kinds
    weight = spread[:, None] / (spread[:, None] + uncertain) * np.exp(-distance / (2 * _REACH**2))
    weight *= np.where(kinds[new, None] == kinds[known], 1.0, _OTHER_KIND)  # (new, known)
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
    belief.mean[new] = before[new] + (design[new] * slopes).sum(axis=1)
    belief.variance[new] = variance * (1 + leverage)
    belief.freedom[new] = freedom


def _standardised(shown: Floats, is_here: Bools) -> Floats:
    """Returns what a rung saw with mean 0 and variance 1, (candidates, 3)."""
    center, scale = shown[:, is_here].mean(axis=1), shown[:, is_here].std(axis=1)
    return np.asarray(((shown - center[:, None]) / np.where(scale > 1e-9, scale, 1.0)[:, None]).T)


def _told(
    asked: list[int],
    rows: Indices,
    error: _Belief,
    activated: _Belief,
    floor: float,
    highest: float,
) -> dict[int, Estimate]:
    if not asked:
        return {}
    logs = [
        (error.mean, *error.bounds(_ERROR_WIDTH)),
        (activated.mean, *activated.bounds(_ACTIVATED_WIDTH)),
    ]
    errors = [
        np.clip(np.exp(np.minimum(one[rows], _LARGEST)) - floor, 0.0, highest) for one in logs[0]
    ]
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
