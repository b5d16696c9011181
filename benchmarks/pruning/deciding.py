"""How long does a decision at a rung take, for a lone candidate and for sixteen?

    python -m benchmarks.pruning.deciding benchmarks/pruning/curves > benchmarks/pruning/results/deciding.md

Records are those of recorded candidates, drawn with replacement and moved by up to a tenth so that no two are equal.
Timed is all of `dynamoe_search.pruning.judge`, from a list of records in no order to decisions with their reasons, in
processor time, so that others at work on the machine count for less.
"""

import argparse
import platform
import time
from pathlib import Path

import numpy as np

from benchmarks.pruning.curves import Curves, load
from benchmarks.pruning.simulate import Shown
from dynamoe_search.pruning import RungRecord, judge
from dynamoe_search.specs import PrunerSection

EPOCH = 3
KINDS = ("pareto", "moasha", "median")
ASKED = (1, 16)
REPEATS = {100: 200, 1_000: 200, 10_000: 20}
"""How often each size is timed, each time with other records and other candidates asked."""


def records(curves: Curves, number: int, draws: np.random.Generator) -> list[RungRecord]:
    """Returns so many different records of one rung."""
    shown = Shown.of(curves.blind(), "raw")
    rows = draws.integers(shown.num_candidates, size=number)
    moved = draws.uniform(0.9, 1.1, size=(3, number))
    numbers = np.stack((shown.error, shown.loss, shown.activated))[:, rows, EPOCH - 1] * moved
    return [
        RungRecord(ordinal=i, error=float(error), loss=float(loss), activated_params=float(size))
        for i, (error, loss, size) in enumerate(numbers.T)
    ]


def milliseconds(curves: Curves, kind: str, number: int, asked: int) -> np.ndarray:
    """Returns how long one candidate takes when so many are asked about together, (repeats,)."""
    draws = np.random.default_rng(0)
    settings = PrunerSection.model_validate({"kind": kind})
    constant = Shown.of(curves.blind(), "raw").constant
    found = []
    for _ in range(REPEATS[number]):
        some = records(curves, number, draws)
        order = draws.permutation(number)
        some = [some[row] for row in order]
        standing = dict.fromkeys(order[:asked].tolist(), EPOCH)
        start = time.thread_time()
        decisions = judge(settings, {EPOCH: some}, standing, constant=constant)
        found.append(1e3 * (time.thread_time() - start) / asked)
        assert len(decisions) == asked
    return np.array(found)


def main() -> None:
    """Prints the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("curves", type=Path)
    curves = load(parser.parse_args().curves / "digits_constant.npz")
    print(
        "# Milliseconds per candidate and rung that deciding takes (asked for: below 1 at 1,000)\n"
    )
    print(
        "Command: `python -m benchmarks.pruning.deciding benchmarks/pruning/curves`. Python "
        f"{platform.python_version()}, numpy {np.__version__}, one of 2 CPU cores. Each cell: median (95th "
        "percentile) of processor time.\n"
    )
    sizes = list(REPEATS)
    print("| rule | asked together | " + " | ".join(f"{size:,} records" for size in sizes) + " |")
    print("| --- | --: |" + " --: |" * len(sizes))
    for kind in KINDS:
        milliseconds(curves, kind, 100, 1)  # warms up
        for asked in ASKED:
            taken = [milliseconds(curves, kind, size, asked) for size in sizes]
            cells = [f"{np.median(one):.3f} ({np.percentile(one, 95):.3f})" for one in taken]
            print(f"| `{kind}` | {asked} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
