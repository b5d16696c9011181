"""Who goes on past a rung and who is stopped: pure functions on records. No torch, no I/O, no clock.

A *rung* is a number of finished epochs after which candidates are compared. Its records are all candidates that
reached it, whether they are in training, were stopped there or later, or are finished. A decision depends on the set of
records, never on their order. Whoever has a number that is not finite is stopped and beats nobody.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from dynamoe_search.pareto import Bools, Floats, Indices, is_non_dominated, pareto_ranks
from dynamoe_search.specs import PrunerSection
from dynamoe_search.specs.vocabulary import PrunerKind

Action: TypeAlias = Literal["go", "stop"]
"""What becomes of a candidate at a rung."""
Reason: TypeAlias = Literal["not-finite", "beaten", "worst", "rank", "median"]
"""Why it does not go on: the rule that says so."""

GUARD_FROM = 8
"""Records from which on a rung has a worst share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RungRecord:
    """What a candidate reported at a rung; less is better in all three numbers."""

    ordinal: int
    error: float  # lowest validation error up to the rung
    loss: float  # validation loss at the rung
    activated_params: float  # at the rung


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What becomes of a candidate at a rung, and why.

    Attributes:
        ordinal: The candidate.
        action: Whether it goes on.
        beaten: How many rivals are ahead of it. `pareto`: better in error and in loss, with no more activated
            parameters; `moasha`: earlier in rank; `median`: better in error and in loss.
        rivals: How many others reached the rung.
        strongest: Ordinal of the rival ahead of it that has the lowest error, None if nobody is ahead.
        reason: Why it does not go on, None if it does.
    """

    ordinal: int
    action: Action
    beaten: int
    rivals: int
    strongest: int | None
    reason: Reason | None

    @property
    def keep(self) -> bool:
        """Whether the candidate goes on."""
        return self.action == "go"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rung:
    """The records as columns (records,), by ordinal; whoever is not finite has infinity in all three."""

    ordinals: Indices
    error: Floats
    loss: Floats
    activated: Floats
    is_finite: Bools


def decide(
    kind: PrunerKind,
    records: Iterable[RungRecord],
    settings: PrunerSection,
    asked: Collection[int] | None = None,
) -> list[Decision]:
    """Returns what becomes of candidates at one rung, by ordinal.

    Args:
        kind: The rule; `none` stops only what is not finite.
        records: Everybody who reached the rung, each once, in any order.
        settings: Of the rule.
        asked: Ordinals to decide on, all of them in `records`; None means everybody.
    """
    rung = _columns(records)
    rows = np.arange(len(rung.ordinals))
    if asked is not None:
        rows = rows[np.isin(rung.ordinals, list(asked))]
    if not len(rows):
        return []
    ahead, reasons = _RULES[kind](rung, rows, settings)  # (asked, records), reason -> (asked,)
    is_comparable = len(rung.ordinals) >= settings.min_records
    stopped: dict[Reason, Bools] = {"not-finite": ~rung.is_finite[rows]}
    stopped |= reasons if is_comparable else {}
    beaten = ahead.sum(axis=1)
    strongest = _strongest(rung, ahead)
    return [
        Decision(
            ordinal=int(rung.ordinals[row]),
            action="go" if reason is None else "stop",
            beaten=int(beaten[place]),
            rivals=len(rung.ordinals) - 1,
            strongest=int(rung.ordinals[strongest[place]]) if beaten[place] else None,
            reason=reason,
        )
        for place, row in enumerate(rows)
        for reason in [next((name for name, mask in stopped.items() if mask[place]), None)]
    ]


def _columns(records: Iterable[RungRecord]) -> _Rung:
    ordered = sorted(records, key=lambda record: record.ordinal)
    numbers = np.array(
        [(one.error, one.loss, one.activated_params) for one in ordered], dtype=np.float64
    ).reshape(len(ordered), 3)
    is_finite = np.asarray(np.isfinite(numbers).all(axis=1))
    numbers[~is_finite] = np.inf
    error, loss, activated = np.ascontiguousarray(numbers.T)
    return _Rung(
        ordinals=np.array([one.ordinal for one in ordered], dtype=np.int64),
        error=error,
        loss=loss,
        activated=activated,
        is_finite=is_finite,
    )


def _strongest(rung: _Rung, ahead: Bools) -> Indices:
    """Returns for each row of `ahead` the position of the record with the lowest error, (asked,)."""
    order = np.lexsort((rung.ordinals, rung.activated, rung.loss, rung.error))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return np.asarray(np.where(ahead, place, len(order)).argmin(axis=1))


_Ruling: TypeAlias = tuple[Bools, dict[Reason, Bools]]
"""Who is ahead of whom, (asked, records), and by reason whom to stop, (asked,)."""


def _none(rung: _Rung, rows: Indices, _settings: PrunerSection) -> _Ruling:
    return np.zeros((len(rows), len(rung.ordinals)), dtype=np.bool_), {}


def _pareto(rung: _Rung, rows: Indices, settings: PrunerSection) -> _Ruling:
    """Counts who beats a candidate; ties beat nobody.

    The smallest model cannot be beaten: the guard stops it, like any other, if it is among the worst.
    """
    ahead = _better(rung, rows) & (rung.activated <= rung.activated[rows, None])
    is_beaten = ahead.sum(axis=1) / len(rung.ordinals) > settings.alpha
    is_worst = np.zeros_like(is_beaten)
    if len(rung.ordinals) >= GUARD_FROM:
        is_worst = _is_in_worst_share(rung.error, rows, settings.guard) & _is_in_worst_share(
            rung.loss, rows, settings.guard
        )
    return ahead, {"beaten": is_beaten, "worst": is_worst}


def _is_in_worst_share(values: Floats, rows: Indices, share: float) -> Bools:
    """Tells for each asked record whether less than this share of its rivals is as bad or worse, (asked,).

    Without ties it is the same as being above the quantile `1 - share`.
    """
    num_as_bad = (values >= values[rows, None]).sum(axis=1) - 1
    return np.asarray(num_as_bad / max(1, len(values) - 1) < share)


def _median(rung: _Rung, rows: Indices, _settings: PrunerSection) -> _Ruling:
    """Stops who is worse than the rung's median in error and loss, unless it is on the rung's front."""
    is_worse = (rung.error[rows] > np.median(rung.error)) & (rung.loss[rows] > np.median(rung.loss))
    is_on_front = is_non_dominated(_points(rung), (False, False))[rows]
    return _better(rung, rows), {"median": is_worse & ~is_on_front}


def _moasha(rung: _Rung, rows: Indices, settings: PrunerSection) -> _Ruling:
    """Keeps who has at most a share 1/eta of the rung before it in rank.

    Ranks are those of nondominated sorting in error and activated parameters; inside a front they follow an epsilon
    net. Differences to the publication: distances are measured with both objectives scaled to the rung's range,
    equal points share a rank, and a cohort is judged together, not in order of arrival.

    Source: Schmucker et al., 2021, "Multi-objective Asynchronous Successive Halving", arXiv:2106.12639.
    """
    place = _moasha_places(_points(rung), rung.is_finite, rows)
    ahead = place < place[rows, None]
    return ahead, {"rank": ahead.sum(axis=1) / len(place) > 1 / settings.eta}


def _moasha_places(points: Floats, is_finite: Bools, rows: Indices) -> Indices:
    """Returns how many records come before each, (records,).

    Inside a front that none of the asked is on, everybody has the place of its first.

    Args:
        points: (records, 2).
        is_finite: (records,) The others come last.
        rows: The asked.
    """
    places = np.full(len(points), len(points), dtype=np.int64)
    if not is_finite.any():
        return places
    different, inverse, counts = _different(points[is_finite])
    ranks = pareto_ranks(different, (False, False))
    sizes = np.bincount(ranks, weights=counts).astype(np.int64)
    before = (np.cumsum(sizes) - sizes)[ranks]
    span = np.ptp(different, axis=0)
    scaled = (different - different.min(axis=0)) / np.where(span > 0, span, 1.0)
    is_asked = np.zeros(len(points), dtype=np.bool_)
    is_asked[rows] = True
    for rank in np.unique(ranks[inverse[is_asked[is_finite]]]):
        front = np.flatnonzero(ranks == rank)
        order = front[_epsilon_net(scaled[front])]
        before[order] += np.cumsum(counts[order]) - counts[order]
    places[is_finite] = before[inverse]
    return places


def _different(points: Floats) -> tuple[Floats, Indices, Indices]:
    """Returns the different points in ascending order, which of them each point is, and how often each occurs.

    It is `numpy.unique` over rows, several times as fast.
    """
    order = np.lexsort(points.T[::-1])
    ordered = points[order]
    is_new = np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1))
    inverse = np.empty(len(points), dtype=np.int64)
    inverse[order] = np.cumsum(is_new) - 1
    return ordered[is_new], inverse, np.bincount(inverse)


def _epsilon_net(points: Floats) -> Indices:
    """Returns the order in which points (points, objectives) enter the net: each time the one farthest from it.

    The first is the first row; of equally far ones the first row is taken, so the rows' order must mean something.

    Source: Salinas et al., 2021, "A multi-objective perspective on jointly tuning hardware and hyperparameters",
    arXiv:2106.05680.
    """
    order = np.zeros(len(points), dtype=np.int64)
    distance = np.full(len(points), np.inf)
    columns = np.ascontiguousarray(points.T)  # (objectives, points)
    for place in range(1, len(points)):
        latest = order[place - 1]
        offsets = columns - columns[:, latest, None]
        np.minimum(distance, (offsets * offsets).sum(axis=0), out=distance)
        distance[latest] = -1.0
        order[place] = distance.argmax()
    return order


def _better(rung: _Rung, rows: Indices) -> Bools:
    """Tells who is better in error and in loss than each asked record, (asked, records)."""
    return np.asarray((rung.error < rung.error[rows, None]) & (rung.loss < rung.loss[rows, None]))


def _points(rung: _Rung) -> Floats:
    """Returns error and activated parameters, (records, 2)."""
    return np.stack((rung.error, rung.activated), axis=1)


_RULES = {"none": _none, "pareto": _pareto, "moasha": _moasha, "median": _median}
