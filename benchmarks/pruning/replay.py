"""How much of the front does each pruning rule keep, for how many epochs? Replays every rule on recorded curves.

    python -m benchmarks.pruning.replay benchmarks/pruning/curves benchmarks/pruning/results

Rules were designed on candidates with even ordinals (`--part design`); the tables report on the odd ones and on all.
A trade-off curve is a rule with different settings; between two settings it is interpolated. No torch, one core.
"""

import argparse
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.pruning import rivals
from benchmarks.pruning.curves import Curves, load
from benchmarks.pruning.score import Ends, Score, seed_band
from benchmarks.pruning.simulate import Shown, asynchronous, planned
from benchmarks.pruning.tables import OURS, Page, Played, write
from dynamoe_search.specs import PrunerSection

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Play: TypeAlias = Callable[[Shown, int], Array]
"""Shown in the order of arrival and a seed -> epochs trained."""

NUM_ORDERS = 20
SHARES = (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9)
LATE = (1, 2, 3, 5, 8, 12, 18)
"""Rungs of the rule that this one was made from."""


def ours(**settings: Any) -> Play:
    """A study of this program, played through its own planner."""
    section = PrunerSection(**settings)
    return lambda shown, _seed: planned(shown, section)


def rules(scale: float) -> dict[str, dict[float, Play]]:
    """Returns the rules, each with its settings from the most saving to the least.

    Args:
        scale: Activated parameters that count as 1 for rules that measure distances.
    """
    found: dict[str, dict[float, Play]] = {
        OURS: {share: ours(kind="pareto", share=share) for share in SHARES},
        "pareto, stopping for good": {
            share: ours(kind="pareto", share=share, pause=False) for share in SHARES
        },
        "pareto, late rungs too": {
            share: ours(kind="pareto", share=share, rungs=LATE) for share in SHARES
        },
        "MO-ASHA, ranks and distances corrected, pausing": {
            eta: ours(kind="moasha", eta=eta) for eta in (4.0, 3.0, 2.5, 2.0, 1.7, 1.5, 1.3, 1.15)
        },
        "median, pausing": {0: ours(kind="median")},
        "random stopping": {
            chance: lambda shown, seed, chance=chance: asynchronous(
                shown, rivals.Random(chance, shown.num_epochs, seed)
            )
            for chance in (0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05)
        },
        "OptunaHub percentile (50: median)": {
            percentile: lambda shown, _seed, percentile=percentile: asynchronous(
                shown, rivals.Percentile(rivals.points(shown, scale), percentile)
            )
            for percentile in (5, 12, 25, 50)
        },
    }
    if rivals.syne_tune_version() is not None:
        names = {
            "shipped": "MO-ASHA as shipped",
            "corrected": "MO-ASHA, ranks corrected",
            "error": "ASHA, accuracy alone",
        }
        for ranks, name in names.items():
            found[name] = {
                eta: lambda shown, _seed, eta=eta, ranks=ranks: asynchronous(
                    shown, rivals.SyneTune(rivals.points(shown, scale), eta, ranks)
                )
                for eta in (4.0, 3.0, 2.0, 1.5, 1.25)
            }
    return found


def play(
    curves: Curves, weights: str, samples: list[Array], *, without: Collection[str] = ()
) -> list[Played]:
    """Plays every rule with every setting.

    Args:
        curves: What was recorded.
        weights: Which weights are evaluated.
        samples: Rows that take part, in the order of arrival; one replay each.
        without: Rules that do not.
    """
    shown, ends = Shown.of(curves.blind(), weights), Ends.of(curves, weights)
    parts = [(shown.at(rows), Score(ends.at(rows))) for rows in samples]
    found = []
    for rule, settings in rules(ends.largest).items():
        if rule in without:
            continue
        for setting, one in settings.items():
            epochs, kept = [], []
            for seed, (part, score) in enumerate(parts):
                trained = one(part, seed)
                epochs.append(trained.sum() / (part.num_candidates * part.num_epochs))
                kept.append(score.kept(np.flatnonzero(trained == part.num_epochs)))
            found.append(
                Played(rule=rule, setting=setting, epochs=np.array(epochs), kept=np.array(kept))
            )
    return found


def orders(rows: Array, seed: int) -> list[Array]:
    """Returns the rows in random orders."""
    draws = np.random.default_rng(seed)
    return [draws.permutation(rows) for _ in range(NUM_ORDERS)]


def page(folder: Path, name: str, weights: str, part: str) -> Page:
    """Replays one set of curves.

    Args:
        folder: Of the recorded curves.
        name: Of the file, without its ending.
        weights: Which weights are evaluated.
        part: `design` looks at even ordinals only, `report` at the odd ones and all.
    """
    curves = load(folder / f"{name}.npz")
    again = folder / f"{name}_again.npz"
    rows = np.arange(curves.num_candidates)
    chosen = rows[curves.ordinal % 2 == (0 if part == "design" else 1)]
    samples = {"design half" if part == "design" else "held-out half": orders(chosen, 1)}
    if part != "design":
        samples["all candidates"] = orders(rows, 2)
    parts = {title: play(curves, weights, some) for title, some in samples.items()}
    whole = Score(Ends.of(curves, weights))
    return Page(
        name=name,
        weights=weights,
        num_candidates={title: len(some[0]) for title, some in samples.items()},
        num_epochs=curves.num_epochs,
        parts=parts,
        foresight=whole.foresight(curves.num_epochs),
        band=seed_band(curves, load(again), weights) if again.exists() else [],
    )


def main() -> None:
    """Replays all curves of a folder and writes a page and a table for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("curves", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--part", choices=("design", "report"), default="report")
    parser.add_argument("--weights", default="raw")
    given = parser.parse_args()
    assert rivals.syne_tune_version() is None or rivals.are_parts_the_same()
    for path in sorted(given.curves.glob("*.npz")):
        if not path.stem.endswith("_again"):
            write(given.results, page(given.curves, path.stem, given.weights, given.part))


if __name__ == "__main__":
    main()
