"""Who goes on past a rung and who does not: pure functions on records. No torch, no I/O, no clock.

A *rung* is a number of finished epochs after which candidates are compared. Its records are all candidates that
reached it, whether they are in training, stand there or further up, or are finished. A decision depends on the set of
records, never on their order, and is made again whenever rivals have arrived: a candidate that was paused may go on
later, and the other way round. Whoever has a number that is not finite does not go on and beats nobody.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from dynamoe_search.pareto import Bools, Floats, Indices, is_non_dominated
from dynamoe_search.pruning.moasha import epsilon_net, moasha_places
from dynamoe_search.pruning.rungs import Rung, RungRecord
from dynamoe_search.specs import PrunerSection

Action: TypeAlias = Literal["go", "pause", "stop"]
"""What becomes of a candidate at a rung; `stop` is for good."""
Reason: TypeAlias = Literal["not-finite", "beaten", "useless", "worst", "rank", "median"]
"""Why it does not go on: the rule that says so."""

GUARD_FROM = 8
"""Records from which on a rung has a worst share."""

_TINY = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What becomes of a candidate at a rung, and why.

    Attributes:
        ordinal: The candidate.
        rung: Epochs that it has finished.
        action: Whether it goes on.
        beaten: How many rivals are ahead of it. `pareto`: better in error and in loss, with no more activated
            parameters; `moasha`: earlier in rank; `median`: better in error and in loss.
        rivals: How many others reached the rung.
        share: `beaten` as a share of the rung's records, 0 to 1.
        behind: How far it is behind; the lower, the better its chance. `pareto`: share of the rung that fewer rivals
            beat; the other rules: `share`. Infinite if a number is not finite.
        strongest: Ordinal of the rival ahead of it that has the lowest error, None if nobody is ahead.
        reason: Why it does not go on, None if it does.
    """

    ordinal: int
    rung: int
    action: Action
    beaten: int
    rivals: int
    share: float
    behind: float
    strongest: int | None
    reason: Reason | None

    @property
    def keep(self) -> bool:
        """Whether the candidate goes on."""
        return self.action == "go"


def judge(
    settings: PrunerSection,
    rungs: Mapping[int, Rung | Collection[RungRecord]],
    standing: Mapping[int, int],
    *,
    constant: tuple[float, float] | None = None,
) -> list[Decision]:
    """Returns for candidates that stand at rungs whether they go on, by ordinal.

    Args:
        settings: The study's `[search.pruner]`; `none` holds back only what is not finite, `auto` is `pareto`.
        rungs: By rung, everybody who reached it, each once, in any order; or the same as columns.
        standing: By ordinal, the rung at which to decide; each must be among that rung's records.
        constant: Error and loss of a predictor that ignores its input; `pareto` lets nobody go on who is no better
            than it in both, unless that is true of half of the rung.
    """
    if settings.kind == "auto":
        settings = settings.model_copy(update={"kind": "pareto"})
    asked: defaultdict[int, list[int]] = defaultdict(list)
    for ordinal, rung in standing.items():
        asked[rung].append(ordinal)
    decisions = [
        decision
        for rung, ordinals in asked.items()
        for decision in _judge_rung(settings, rung, _columns(rungs[rung]), ordinals, constant)
    ]
    return sorted(decisions, key=lambda decision: decision.ordinal)


def _columns(records: Rung | Collection[RungRecord]) -> Rung:
    return records if isinstance(records, Rung) else Rung.of(records)


def _judge_rung(
    settings: PrunerSection,
    epoch: int,
    rung: Rung,
    asked: list[int],
    constant: tuple[float, float] | None,
) -> Iterator[Decision]:
    rows = np.searchsorted(rung.ordinals, np.sort(np.array(asked, dtype=np.int64)))
    ruling = _RULES[settings.kind](rung, rows, settings)
    held: dict[Reason, Bools] = {"not-finite": ~rung.is_finite[rows]}
    if len(rung) >= settings.min_records:
        if settings.kind == "pareto" and constant is not None:
            held["useless"] = _is_useless(rung, rows, constant)
        held |= ruling.held
    beaten = ruling.ahead.sum(axis=1)
    share = beaten / len(rung)
    behind = np.where(held["not-finite"], np.inf, share if ruling.behind is None else ruling.behind)
    strongest = rung.ordinals[_strongest(rung, ruling.ahead)]
    for place, row in enumerate(rows):
        reason = next((name for name, mask in held.items() if mask[place]), None)
        yield Decision(
            ordinal=int(rung.ordinals[row]),
            rung=epoch,
            action="go" if reason is None else "pause" if settings.pause else "stop",
            beaten=int(beaten[place]),
            rivals=len(rung) - 1,
            share=float(share[place]),
            behind=float(behind[place]),
            strongest=int(strongest[place]) if beaten[place] else None,
            reason=reason,
        )


def _strongest(rung: Rung, ahead: Bools) -> Indices:
    """Returns for each row of `ahead` the position of the record with the lowest error, (asked,)."""
    if not ahead.any():
        return np.zeros(len(ahead), dtype=np.int64)
    lowest = np.where(ahead, rung.error, np.inf).min(axis=1)
    some = np.flatnonzero(np.isin(rung.error, lowest))
    keys = (rung.ordinals, rung.activated, rung.loss, rung.error)
    order = some[np.lexsort([key[some] for key in keys])]
    return np.asarray(order[ahead[:, order].argmax(axis=1)])


@dataclass(frozen=True, slots=True)
class _Ruling:
    ahead: Bools  # (asked, records) who is ahead of whom
    held: dict[Reason, Bools]  # by reason, whom to hold back, (asked,)
    behind: Floats | None = None  # (asked,)


def _none(rung: Rung, rows: Indices, _settings: PrunerSection) -> _Ruling:
    return _Ruling(np.zeros((len(rows), len(rung)), dtype=np.bool_), {})


def _pareto(rung: Rung, rows: Indices, settings: PrunerSection) -> _Ruling:
    """Lets go on the share of the rung that the fewest rivals beat, in error, loss and activated parameters.

    A front needs members, so `min_records` candidates go on in any case. Ties go on together, so nobody whom no rival
    beats is held back. The smallest model cannot be beaten: it is held back if it is no better than a constant
    predictor, or by the guard if it is among the worst.
    """
    num_ahead = rung.num_ahead
    num_before = np.searchsorted(np.sort(num_ahead), num_ahead[rows])
    is_worst = np.zeros(len(rows), dtype=np.bool_)
    if len(rung) >= GUARD_FROM and settings.guard > 0:
        is_worst = _is_in_worst_share(rung.error, rows, settings.guard) & _is_in_worst_share(
            rung.loss, rows, settings.guard
        )
    num_going = max(settings.share * len(rung), settings.min_records)
    is_beaten = num_before >= num_going
    behind = num_before.astype(np.float64)
    if not num_ahead[rows].all():
        behind += _places_on_front(rung, num_ahead)[rows]
    held: dict[Reason, Bools] = {"beaten": is_beaten, "worst": is_worst}
    return _Ruling(rung.ahead_of(rows), held, behind / len(rung))


def _places_on_front(rung: Rung, num_ahead: Indices) -> Floats:
    """Returns the order in which a scarce budget serves those whom nobody beats, 0 to below 1; 0 for all others.

    Each time it is the one farthest from those before it, so the whole front is covered, its ends first.
    """
    places = np.zeros(len(rung))
    front = np.flatnonzero((num_ahead == 0) & rung.is_finite)
    if len(front) > 1:
        front = front[np.argsort(rung.error[front], kind="stable")]
        points = np.log(np.stack((rung.error[front], rung.activated[front]), axis=1).clip(_TINY))
        span = np.ptp(points, axis=0)
        order = epsilon_net(points / np.where(span > 0, span, 1.0))
        places[front[order]] = np.arange(len(front)) / len(front)
    return places


def _is_useless(rung: Rung, rows: Indices, constant: tuple[float, float]) -> Bools:
    """Tells who is no better than a constant predictor, (asked,); nobody while that is true of half of the rung."""
    is_useless = (rung.error >= constant[0]) & (rung.loss >= constant[1])
    return np.asarray(is_useless[rows] & (2 * is_useless.sum() < len(rung)))


def _is_in_worst_share(values: Floats, rows: Indices, share: float) -> Bools:
    """Tells for each asked record whether less than this share of its rivals is as bad or worse, (asked,).

    Without ties it is the same as being above the quantile `1 - share`.
    """
    num_as_bad = (values >= values[rows, None]).sum(axis=1) - 1
    return np.asarray(num_as_bad / max(1, len(values) - 1) < share)


def _median(rung: Rung, rows: Indices, _settings: PrunerSection) -> _Ruling:
    """Holds back who is worse than the rung's median in error and loss, unless it is on the rung's front."""
    is_worse = (rung.error[rows] > np.median(rung.error)) & (rung.loss[rows] > np.median(rung.loss))
    is_on_front = is_non_dominated(_points(rung), (False, False))[rows]
    return _Ruling(_better(rung, rows), {"median": is_worse & ~is_on_front})


def _moasha(rung: Rung, rows: Indices, settings: PrunerSection) -> _Ruling:
    """Lets go on who has at most a share 1/eta of the rung before it in rank."""
    places = moasha_places(_points(rung), rung.is_finite, rows)
    ahead = places < places[rows, None]
    return _Ruling(ahead, {"rank": ahead.sum(axis=1) / len(places) > 1 / settings.eta})


def _better(rung: Rung, rows: Indices) -> Bools:
    """Tells who is better in error and in loss than each asked record, (asked, records)."""
    return np.asarray((rung.error < rung.error[rows, None]) & (rung.loss < rung.loss[rows, None]))


def _points(rung: Rung) -> Floats:
    """Returns error and activated parameters, (records, 2)."""
    return np.stack((rung.error, rung.activated), axis=1)


_RULES = {"none": _none, "pareto": _pareto, "moasha": _moasha, "median": _median}
