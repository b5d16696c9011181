"""Are the estimates of what paused candidates would become calibrated? Looks at recorded curves while a study plays.

    python -m benchmarks.pruning.coverage benchmarks/pruning/curves > benchmarks/pruning/results/coverage.md

Settings of the forecast were chosen on candidates with even ordinals; the tables are of the odd ones. No torch.
"""

import argparse
import platform
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.pruning.curves import load
from benchmarks.pruning.score import Ends
from benchmarks.pruning.simulate import Shown, Study, planned
from dynamoe_search.pruning import estimates
from dynamoe_search.specs import PrunerSection

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

NUM_ORDERS = 5
MOMENTS = (0.15, 0.3, 0.5, 0.75, 1.0)
"""Shares of the epochs that a study spends."""


class Watch:
    """Compares estimates with what the curves say, at some moments of a study.

    Args:
        ends: Of the candidates, in the order of arrival.
        total: Epochs that the study spends.
    """

    def __init__(self, ends: Ends, total: int) -> None:
        self._ends, self._marks = ends, [share * total for share in MOMENTS]
        self.found: list[Array] = []
        """One array per moment: rung, is the error inside, are the parameters inside, width, miss; and finals."""

    def __call__(self, study: Study) -> None:
        """Looks, if it is time to."""
        spent = sum(one.epochs for one in study.candidates)
        while self._marks and spent >= self._marks[0]:
            self._marks.pop(0)
            self.found.append(self._compared(study))

    def _compared(self, study: Study) -> Array:
        ends = self._ends
        over = [one.ordinal for one in study.candidates if one.status == "complete"]
        finals = {row: (float(ends.error[row]), float(ends.activated[row])) for row in over}
        standing = {one.ordinal: one.epochs for one in study.candidates if one.status == "paused"}
        rows = [
            (
                standing[row],
                told.error_low <= ends.error[row] <= told.error_high,
                told.activated_low <= ends.activated[row] <= told.activated_high,
                told.error_high - told.error_low,
                abs(told.error - ends.error[row]),
                len(finals),
            )
            for row, told in estimates(study.records, finals, standing).items()
        ]
        return np.array(rows, dtype=np.float64).reshape(-1, 6)


def table(path: Path, parity: int) -> list[str]:
    """Returns the table of one file.

    Args:
        path: Of recorded curves.
        parity: Of the ordinals that take part.
    """
    curves = load(path)
    rows = np.flatnonzero(curves.ordinal % 2 == parity)
    shown, ends = Shown.of(curves.blind(), "raw"), Ends.of(curves, "raw")
    moments: list[list[Array]] = [[] for _ in MOMENTS]
    for seed in range(NUM_ORDERS):
        order = np.random.default_rng(seed).permutation(rows)
        total = int(planned(shown.at(order), PrunerSection()).sum())
        watch = Watch(ends.at(order), total)
        planned(shown.at(order), PrunerSection(), observe=watch)
        for moment, found in zip(moments, watch.found, strict=False):
            moment.append(found)
    lines = [
        f"\n## {path.stem}: {len(rows)} candidates, {NUM_ORDERS} orders\n",
        "| epochs spent | finished | estimates | error inside | activated inside | width | miss |",
        "| --: | --: | --: | --: | --: | --: | --: |",
    ]
    every = np.concatenate([one for moment in moments for one in moment])
    parts = [
        (f"{share:.0%}", np.concatenate(some))
        for share, some in zip(MOMENTS, moments, strict=True)
        if some
    ]
    for name, part in [*parts, ("all", every)]:
        lines.append(
            f"| {name} | {part[:, 5].mean():.0f} | {len(part)} | {part[:, 1].mean():.3f} "
            f"| {part[:, 2].mean():.3f} | {np.median(part[:, 3]):.3f} | {np.median(part[:, 4]):.3f} |"
        )
    return lines


def main() -> None:
    """Prints the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("curves", type=Path)
    parser.add_argument("--part", choices=("design", "report"), default="report")
    given = parser.parse_args()
    print(
        "# Intervals of the forecast: share of paused candidates whose end lies inside (asked for: 0.90)\n"
    )
    print(
        "Command: `python -m benchmarks.pruning.coverage benchmarks/pruning/curves`. "
        f"Python {platform.python_version()}, numpy {np.__version__}. Held-out candidates. Width: median width of "
        "the interval of the final validation error; miss: median distance of the estimate from it."
    )
    for path in sorted(given.curves.glob("*.npz")):
        if not path.stem.endswith("_again"):
            print("\n".join(table(path, 0 if given.part == "design" else 1)))


if __name__ == "__main__":
    main()
