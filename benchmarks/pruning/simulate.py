"""Plays a study on recorded curves: who is trained how far under a rule, without training anything.

`planned` asks the planner of a real study (`dynamoe_search.search.planner.plan`) for every leg and the pruner
(`dynamoe_search.pruning.judge`) before every plan. `asynchronous` is for rules that stop for good while candidates
report: 16 places, refilled at once, all candidates in training report once per epoch. Arrival is the order in which
the sampler proposes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np

from benchmarks.pruning.curves import WEIGHTS, Curves
from dynamoe_search.pruning import Decision, RungRecord, judge, usual_rungs
from dynamoe_search.records import Standing
from dynamoe_search.search.planner import Over, Position, Propose, Step, Train, plan
from dynamoe_search.specs import PrunerSection

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

PLACES = 16
"""How many candidates are trained at a time."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What candidates show a pruner after each epoch, (candidates, epochs)."""

    error: Array  # lowest so far
    loss: Array
    activated: Array
    constant: tuple[float, float]  # error and loss of the constant predictor

    @classmethod
    def of(cls, curves: Curves, weights: str) -> "Shown":
        """Returns what the pruner sees of recorded curves; the test column is not in it."""
        which = WEIGHTS.index(weights)
        classes = curves.meta["num_classes"]
        return cls(
            error=np.minimum.accumulate(_filled(curves.error[which]), axis=1),
            loss=_filled(curves.loss[which]),
            activated=_filled(curves.activated[which]),
            constant=(1 - 1 / classes, float(np.log(classes))),
        )

    @property
    def num_candidates(self) -> int:
        """How many there are."""
        return len(self.error)

    @property
    def num_epochs(self) -> int:
        """Epochs of a candidate that is trained to its end."""
        return int(self.error.shape[1])

    def at(self, rows: Array) -> "Shown":
        """Returns the same of some candidates, in this order."""
        return replace(
            self, error=self.error[rows], loss=self.loss[rows], activated=self.activated[rows]
        )

    def record(self, row: int, epoch: int) -> RungRecord:
        """Returns what a candidate shows at a rung."""
        return RungRecord(
            ordinal=row,
            error=float(self.error[row, epoch - 1]),
            loss=float(self.loss[row, epoch - 1]),
            activated_params=float(self.activated[row, epoch - 1]),
        )


def _filled(values: Array) -> Array:
    """Returns the numbers with epochs at which nobody was measured as at the epoch before, (candidates, epochs)."""
    filled = values.astype(np.float64)
    for epoch in np.flatnonzero(np.isnan(filled).all(axis=0)):
        filled[:, epoch] = filled[:, epoch - 1]
    return filled


class Stopper(Protocol):
    """A rule that stops for good."""

    def stops(self, row: int, epoch: int) -> bool:
        """Takes what a candidate shows after an epoch and returns whether it stops there."""
        ...


def asynchronous(shown: Shown, rule: Stopper) -> Array:
    """Returns how many epochs each candidate is trained, (candidates,); they arrive in the order of rows."""
    trained = np.zeros(shown.num_candidates, dtype=np.int64)
    waiting = list(range(shown.num_candidates))[::-1]
    places: list[int] = []
    while waiting or places:
        while waiting and len(places) < PLACES:
            places.append(waiting.pop())
        trained[places] += 1
        places = [
            row
            for row in places
            if not rule.stops(row, int(trained[row])) and trained[row] < shown.num_epochs
        ]
    return trained


def planned(
    shown: Shown,
    settings: PrunerSection,
    step: Callable[[Position], Step] = plan,
    observe: "Callable[[Study], None] | None" = None,
) -> Array:
    """Returns how many epochs each candidate of a real study is trained, (candidates,).

    Args:
        shown: The curves, in the order of arrival.
        settings: Of the pruner.
        step: The planner.
        observe: Called before every leg.
    """
    return Study(shown, settings, step).run(observe)


class Study:
    """A study on recorded curves: `candidates` and, by rung, `records`."""

    def __init__(
        self, shown: Shown, settings: PrunerSection, step: Callable[[Position], Step]
    ) -> None:
        self.shown, self.settings, self.step = shown, settings, step
        epochs = shown.num_epochs
        ladder = settings.rungs or (() if settings.kind == "none" else usual_rungs(epochs))
        self.rungs = ladder
        self.records: dict[int, list[RungRecord]] = {rung: [] for rung in ladder}
        self.candidates: list[Standing] = []
        self.decisions: dict[int, Decision] = {}
        self.stale: set[int] = set()  # rungs whose records changed since they were judged

    def run(self, observe: "Callable[[Study], None] | None" = None) -> Array:
        """Plays it to its end and returns the epochs of each candidate."""
        while True:
            self._judge()
            if observe is not None:
                observe(self)
            step = self.step(self._position())
            if isinstance(step, Propose):
                self._propose(step)
            elif isinstance(step, Train):
                self._train(step)
            else:
                assert isinstance(step, Over)
                return np.array([one.epochs for one in self.candidates], dtype=np.int64)

    def _position(self) -> Position:
        return Position(
            candidates=self.candidates,
            rungs=self.rungs,
            epochs=self.shown.num_epochs,
            trials=self.shown.num_candidates,
            cohort_size=PLACES,
            decisions=self.decisions,
        )

    def _judge(self) -> None:
        """Judges whoever stands where records arrived; elsewhere nothing can have changed."""
        if not self.stale:
            return
        moved = set(self.rungs) if self.rungs and self.rungs[0] in self.stale else self.stale
        standing = {
            one.ordinal: one.epochs
            for one in self.candidates
            if one.status == "paused" and one.epochs in moved
        }
        for decision in judge(self.settings, self.records, standing, constant=self.shown.constant):
            self.decisions[decision.ordinal] = decision
        self.stale = set()

    def _propose(self, step: Propose) -> None:
        for _ in range(step.number):
            row = len(self.candidates)
            self.candidates.append(
                Standing(
                    trial=row,
                    ordinal=row,
                    cohort=step.cohort,
                    status="running",
                    epochs=0,
                    checkpoint=None,
                    pack_key="",
                    reference=None,
                )
            )

    def _train(self, step: Train) -> None:
        is_over = step.end == self.shown.num_epochs
        for row in step.trials:
            for rung in self.rungs:
                if step.start < rung <= step.end:
                    self.records[rung].append(self.shown.record(row, rung))
                    self.stale.add(rung)
            self.candidates[row] = replace(
                self.candidates[row],
                status="complete" if is_over else "paused",
                epochs=step.end,
            )
            self.decisions.pop(row, None)
