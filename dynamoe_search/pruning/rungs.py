"""What candidates show at a rung, and the same as columns. No torch, no I/O, no clock."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dynamoe_search.pareto import Bools, Floats, Indices
from dynamoe_search.records import Progress
from dynamoe_search.specs import PrunerSection

_TOGETHER = 64
"""Records that are compared with all others at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RungRecord:
    """What a candidate reported at a rung; less is better in all three numbers."""

    ordinal: int
    error: float  # lowest validation error up to the rung; lowest loss if only the loss counts
    loss: float  # validation loss at the rung
    activated_params: float  # at the rung


@dataclass(frozen=True, kw_only=True)
class Rung:
    """The records as columns (records,), by ordinal; whoever is not finite has infinity in all three."""

    ordinals: Indices
    error: Floats
    loss: Floats
    activated: Floats
    is_finite: Bools

    @classmethod
    def of(cls, records: Collection[RungRecord], before: "Rung | None" = None) -> "Rung":
        """Returns the records as columns, whatever their order.

        Args:
            records: Each ordinal once.
            before: The same rung some time ago; what was found out of it is not found out again.
        """
        ordinals = np.array([one.ordinal for one in records], dtype=np.int64)
        columns = (
            [one.error for one in records],
            [one.loss for one in records],
            [one.activated_params for one in records],
        )
        numbers = np.array(columns, dtype=np.float64)
        order = np.argsort(ordinals, kind="stable")
        numbers = numbers[:, order]
        is_finite = np.asarray(np.isfinite(numbers).all(axis=0))
        numbers[:, ~is_finite] = np.inf
        error, loss, activated = numbers
        found = cls(
            ordinals=ordinals[order],
            error=error,
            loss=loss,
            activated=activated,
            is_finite=is_finite,
        )
        if before is not None and "num_ahead" in before.__dict__:
            found.__dict__["num_ahead"] = found._num_ahead_since(before)
        return found

    @cached_property
    def num_ahead(self) -> Indices:
        """How many beat each record, (records,): better in error and in loss, with no more activated parameters.

        Who is before a record in one number is the beginning of an order, kept as a row of bits; who beats it is before
        it in all three. A thousand records make a million pairs, but 16,000 words of 64 bits.
        """
        rivals = _first_ones(self.error, "left")
        rivals &= _first_ones(self.loss, "left")
        rivals &= _first_ones(self.activated, "right")
        return np.asarray(np.bitwise_count(rivals).sum(axis=1, dtype=np.int64))

    def ahead_of(self, rows: Indices) -> Bools:
        """Returns who beats each of some records, (rows, records)."""
        is_ahead = (self.error < self.error[rows, None]) & (self.loss < self.loss[rows, None])
        is_ahead &= self.activated <= self.activated[rows, None]
        return np.asarray(is_ahead)

    def _behind(self, rows: Indices) -> Bools:
        """Returns whom each of some records beats, (rows, records)."""
        is_behind = (self.error > self.error[rows, None]) & (self.loss > self.loss[rows, None])
        is_behind &= self.activated >= self.activated[rows, None]
        return np.asarray(is_behind)

    def _num_ahead_since(self, before: "Rung") -> Indices:
        """Returns `num_ahead`, from that of the rung before some came; from nothing if others changed, too."""
        is_known = np.isin(self.ordinals, before.ordinals, assume_unique=True)
        kept = (self.ordinals, self.error, self.loss, self.activated)
        known = (before.ordinals, before.error, before.loss, before.activated)
        if not all(np.array_equal(a[is_known], b) for a, b in zip(kept, known, strict=True)):
            return self.num_ahead
        new = np.flatnonzero(~is_known)
        found = np.zeros(len(self), dtype=np.int64)
        found[is_known] = before.num_ahead
        for some in np.array_split(new, -(-len(new) // _TOGETHER)) if len(new) else ():
            is_behind = self._behind(some)
            is_behind[:, new] = False  # they are counted next
            found += is_behind.sum(axis=0)
            found[some] = self.ahead_of(some).sum(axis=1)
        return found

    def __len__(self) -> int:
        return len(self.ordinals)


def _first_ones(values: Floats, side: Literal["left", "right"]) -> NDArray[np.uint64]:
    """Returns who is before each record as bits, (records, words): who is lower, on the `right` also who is equal."""
    order = np.argsort(values)
    number = np.arange(1, len(values) + 1)
    bits = np.zeros((len(values) + 1, -(-len(values) // 64)), dtype=np.uint64)
    bits[number, order >> 6] = np.left_shift(np.uint64(1), (order & 63).astype(np.uint64))
    np.bitwise_or.accumulate(bits, axis=0, out=bits)  # row i: the first i of the order
    ordered, place = values[order], np.empty(len(values), dtype=np.int64)
    place[order] = np.searchsorted(ordered, ordered, side)
    return bits.take(place, axis=0)


def at_rungs(
    reports: Iterable[Progress], rungs: Collection[int], *, by_loss: bool = False
) -> dict[int, list[RungRecord]]:
    """Returns what candidates showed at each rung; a rung that nobody reached has an empty list.

    Args:
        reports: Those of one candidate in the order of epochs, each epoch once.
        rungs: Epochs after which candidates are compared.
        by_loss: Whether the loss takes the place of the error: a perplexity is the loss in other words, and how often
            a language model's first guess is right says little.
    """
    records: dict[int, list[RungRecord]] = {rung: [] for rung in rungs}
    lowest: dict[int, float] = {}
    for report in reports:
        error = report.validation_loss if by_loss else 1.0 - report.accuracy
        # Once not a number, never again one: whatever such a candidate reports later is worth nothing.
        lowest[report.ordinal] = float(np.minimum(error, lowest.get(report.ordinal, np.inf)))
        if report.epoch in records:
            records[report.epoch].append(
                RungRecord(
                    ordinal=report.ordinal,
                    error=lowest[report.ordinal],
                    loss=report.validation_loss,
                    activated_params=report.activated_params,
                )
            )
    return records


def usual_rungs(epochs: int) -> tuple[int, ...]:
    """Returns the rungs of a study that names none: at most four, in the first fifth of the epochs or the first five.

    27 epochs have 1, 2, 3, 5; 100 have 5, 8, 12, 18. Later rungs cost more of the front than they save: who came that
    far differs from the others by little but luck.
    """
    rungs, rung = [], 1
    while rung < epochs and rung <= max(5, epochs / 5):
        rungs.append(rung)
        rung = -(-3 * rung // 2)  # half as much again, rounded up
    return tuple(rungs[-4:])


def ladder(settings: PrunerSection, epochs: int) -> tuple[int, ...]:
    """Returns the epochs after which candidates are compared; none if pruning is off.

    Args:
        settings: The study's `[search.pruner]`.
        epochs: Of a candidate that is trained to its end.
    """
    if settings.kind == "none":
        return ()
    if settings.rungs is not None:
        return settings.rungs
    return usual_rungs(epochs)
