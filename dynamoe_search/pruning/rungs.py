"""What candidates show at a rung, and the same as columns. No torch, no I/O, no clock."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from dynamoe_search.pareto import Bools, Floats, Indices
from dynamoe_search.records import Progress
from dynamoe_search.specs import PrunerSection


@dataclass(frozen=True, kw_only=True, slots=True)
class RungRecord:
    """What a candidate reported at a rung; less is better in all three numbers."""

    ordinal: int
    error: float  # lowest validation error up to the rung; lowest loss if only the loss counts
    loss: float  # validation loss at the rung
    activated_params: float  # at the rung


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """The records as columns (records,), by ordinal; whoever is not finite has infinity in all three."""

    ordinals: Indices
    error: Floats
    loss: Floats
    activated: Floats
    is_finite: Bools

    @classmethod
    def of(cls, records: Collection[RungRecord]) -> "Rung":
        """Returns the records as columns, whatever their order."""
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
        return cls(
            ordinals=ordinals[order],
            error=error,
            loss=loss,
            activated=activated,
            is_finite=is_finite,
        )

    def __len__(self) -> int:
        return len(self.ordinals)


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
