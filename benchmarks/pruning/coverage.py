"""Are the estimates of what paused candidates would become calibrated? Looks at recorded curves while a study plays.

    python -m benchmarks.pruning.coverage benchmarks/pruning/curves > benchmarks/pruning/results/coverage.md

The widths of intervals, one number for errors and one for activated parameters, are learnt on a random half of the
candidates of all data sets together, and the other half is looked at; then the halves change places. Candidates with
odd ordinals are shown once more with the program's own widths: all other settings were chosen on the even ones.
No torch.
"""

import argparse
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.pruning.curves import Curves, load
from benchmarks.pruning.score import Ends
from benchmarks.pruning.simulate import Shown, Study, planned
from dynamoe_search.pruning import Estimate, estimates
from dynamoe_search.specs import PrunerSection

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

NUM_SPLITS = 12
MOMENTS = (0.15, 0.3, 0.5, 0.75, 1.0)
"""Shares of the epochs that a study spends."""
NUMBERS = ("error", "activated")
COVERAGE = 0.9


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What was seen at one moment of one study, (estimates,)."""

    needed: Array  # (2, estimates) how many times as wide the interval must be to hold the end
    width: Array  # of the error
    miss: Array  # likewise
    num_finished: int


class Watch:
    """Compares estimates with what the curves say, at some moments of a study.

    Args:
        ends: Of the candidates, in the order of arrival.
        kinds: Of routers, likewise.
        total: Epochs that the study spends.
    """

    def __init__(self, ends: Ends, kinds: Array, total: int) -> None:
        self._kinds = dict(enumerate(kinds.tolist()))
        self._ends, self._marks = ends, [share * total for share in MOMENTS]
        self.found: list[Looked] = []  # one per moment

    def __call__(self, study: Study) -> None:
        """Looks, if it is time to."""
        spent = sum(one.epochs for one in study.candidates)
        while self._marks and spent >= self._marks[0]:
            self._marks.pop(0)
            self.found.append(self._compared(study))

    def _compared(self, study: Study) -> Looked:
        ends = self._ends
        over = [one.ordinal for one in study.candidates if one.status == "complete"]
        finals = {row: (float(ends.error[row]), float(ends.activated[row])) for row in over}
        standing = {one.ordinal: one.epochs for one in study.candidates if one.status == "paused"}
        epochs = study.shown.num_epochs
        told = estimates(study.records, finals, standing, epochs=epochs, kinds=self._kinds)
        told = {row: one for row, one in told.items() if np.isfinite(ends.error[row])}
        floor = min(
            one.error for records in study.records.values() for one in records if one.error > 0
        )
        rows = list(told)
        error, size = ends.error[rows], ends.activated[rows]
        some = list(told.values())
        return Looked(
            needed=np.stack(
                (_needed(some, "error", error, floor), _needed(some, "activated", size))
            ),
            width=np.array([one.error_high - one.error_low for one in some]),
            miss=np.array([abs(one.error - end) for one, end in zip(some, error, strict=True)]),
            num_finished=len(finals),
        )


def _needed(told: Sequence[Estimate], name: str, ends: Array, floor: float = 0.0) -> Array:
    """Returns how many times as wide each interval must be, on its log scale, to hold the end."""
    middle = "error" if name == "error" else "activated_params"
    low, mid, high = (
        np.log(np.array([getattr(one, field) for one in told]) + floor)
        for field in (f"{name}_low", middle, f"{name}_high")
    )
    offset = np.log(ends + floor) - mid
    return np.asarray(
        np.abs(offset) / np.maximum(np.where(offset > 0, high - mid, mid - low), 1e-9)
    )


def play(curves: Curves, order: Array) -> list[Looked]:
    """Plays a study and looks at its moments."""
    shown, ends = Shown.of(curves.blind(), "raw").at(order), Ends.of(curves, "raw").at(order)
    total = int(planned(shown, PrunerSection()).sum())
    watch = Watch(ends, curves.router[order], total)
    planned(shown, PrunerSection(), observe=watch)
    return watch.found


def width(some: Sequence[Sequence[Looked]], number: int) -> float:
    """Returns how many times as wide intervals must be to hold 90 %, each study counting alike."""
    needed = [np.concatenate([one.needed[number] for one in study]) for study in some]
    weights = np.concatenate([np.full(len(one), 1 / len(one)) for one in needed])
    values = np.concatenate(needed)
    order = np.argsort(values)
    place = np.searchsorted(np.cumsum(weights[order]), COVERAGE * weights.sum())
    return float(values[order][place])


Fold: TypeAlias = tuple[Mapping[str, list[Looked]], tuple[float, float]]
"""What was looked at, by data set, and the widths to look with."""


def folds(every: Mapping[str, Curves]) -> Iterator[Fold]:
    """Yields both halves of every split, each with the widths that the other has taught."""
    for seed in range(NUM_SPLITS):
        halves: list[dict[str, list[Looked]]] = [{}, {}]
        for name, curves in every.items():
            order = np.random.default_rng(seed).permutation(curves.num_candidates)
            for half, rows in zip(halves, np.array_split(order, 2), strict=True):
                half[name] = play(curves, rows)
        for half, other in (halves, halves[::-1]):
            some = list(other.values())
            yield half, (width(some, 0), width(some, 1))


def table(name: str, found: Sequence[Fold]) -> Iterator[str]:
    """Yields the table of one data set."""
    yield "| epochs spent | finished | estimates | error inside | activated inside | width | miss |"
    yield "| --: | --: | --: | --: | --: | --: | --: |"
    for moment, share in [*enumerate(MOMENTS), (slice(None), None)]:
        shares: list[list[float]] = [[], []]
        looked: list[Looked] = []
        for half, widths in found:
            some = half[name][moment] if isinstance(moment, slice) else [half[name][moment]]
            looked += some
            for number, factor in enumerate(widths):
                needed = np.concatenate([one.needed[number] for one in some])
                shares[number].append(float(np.mean(needed <= factor)))
        cells = [f"{np.mean(one):.3f} ± {np.std(one):.3f}" for one in shares]
        yield (
            f"| {'all' if share is None else f'{share:.0%}'} "
            f"| {np.mean([one.num_finished for one in looked]):.0f} "
            f"| {sum(len(one.miss) for one in looked)} | {cells[0]} | {cells[1]} "
            f"| {np.median(np.concatenate([one.width for one in looked])):.3f} "
            f"| {np.median(np.concatenate([one.miss for one in looked])):.3f} |"
        )


def odd(every: Mapping[str, Curves]) -> Iterator[str]:
    """Yields the table of the candidates with odd ordinals, with the widths of the program."""
    yield "| curves | candidates | error inside | activated inside |"
    yield "| --- | --: | --: | --: |"
    for name, curves in every.items():
        rows = np.flatnonzero(curves.ordinal % 2 == 1)
        orders = [np.random.default_rng(seed).permutation(rows) for seed in range(5)]
        needed = np.concatenate(
            [one.needed for order in orders for one in play(curves, order)], axis=1
        )
        cells = [f"{share:.3f}" for share in (needed <= 1).mean(axis=1)]
        yield f"| {name} | {len(rows)} | " + " | ".join(cells) + " |"


def main() -> None:
    """Prints the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("curves", type=Path)
    given = parser.parse_args()
    paths = [one for one in sorted(given.curves.glob("*.npz")) if not one.stem.endswith("_again")]
    every = {path.stem: load(path) for path in paths}
    found = list(folds(every))
    print("# Intervals of the forecast: share of ends that lie inside (asked for: .85 to .95)\n")
    print(
        "Command: `python -m benchmarks.pruning.coverage benchmarks/pruning/curves`. Python "
        f"{platform.python_version()}, numpy {np.__version__}. {NUM_SPLITS} random splits of the "
        "candidates into halves; the width of intervals is learnt on one half of all data sets together "
        "and looked at on the other, and the other way round. Mean ± standard deviation over halves: the "
        "second number is by how much a single study of that size may differ. Width: median width of the "
        "interval of the final validation error as the program makes it; miss: median distance of the "
        "estimate from it."
    )
    for number, name in enumerate(NUMBERS):
        learnt = [widths[number] for _, widths in found]
        print(
            f"\nWidths learnt for {name}, as a multiple of the program's: {np.mean(learnt):.2f} "
            f"({min(learnt):.2f} to {max(learnt):.2f})."
        )
    for name, curves in every.items():
        print(f"\n## {name}: halves of {curves.num_candidates} candidates\n")
        print("\n".join(table(name, found)))
    print("\n## Odd ordinals alone, with the program's widths, all moments, 5 orders\n")
    print("\n".join(odd(every)))


if __name__ == "__main__":
    main()
