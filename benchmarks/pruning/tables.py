"""Tables of a replay: trade-off curves, and what to hold them against."""

import csv
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.pruning.rivals import syne_tune_version
from benchmarks.pruning.score import MEASURES

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

OURS = "pareto"
BUDGETS = (2, 3, 4, 5, 6, 8)
"""How many times fewer epochs."""


@dataclass(frozen=True, kw_only=True)
class Played:
    """One rule with one setting, over replays."""

    rule: str
    setting: float
    epochs: Array  # (replays,) as a share of all epochs
    kept: Array  # (replays, measures)


@dataclass(frozen=True, kw_only=True)
class Page:
    """What was replayed on one set of curves."""

    name: str
    weights: str
    num_candidates: Mapping[str, int]  # by part
    num_epochs: int
    parts: Mapping[str, Sequence[Played]]
    foresight: Sequence[tuple[int, Array]]
    band: Sequence[Array]


def by_rule(played: Sequence[Played]) -> dict[str, list[Played]]:
    """Returns the settings of every rule."""
    names = dict.fromkeys(one.rule for one in played)
    return {name: [one for one in played if one.rule == name] for name in names}


def at_budget(saving: float, values: Array) -> float:
    """Returns a rule's number at a budget, between its settings; NaN if all of them spend more.

    Args:
        saving: How many times fewer epochs than without pruning.
        values: (settings, 2) share of epochs spent, number.
    """
    epochs, numbers = values[np.argsort(values[:, 0], kind="stable")].T
    if 1 / saving < epochs[0] * (1 - 1e-9):
        return float("nan")
    return float(np.interp(1 / saving, epochs, numbers))


def _means(group: Sequence[Played], measure: int, *, is_worst: bool = False) -> Array:
    pick = np.min if is_worst else np.mean
    return np.array([(one.epochs.mean(), pick(one.kept[:, measure])) for one in group])


def write(folder: Path, page: Page) -> None:
    """Writes the page as Markdown and every replay as a row of a CSV file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"replay_{page.name}_{page.weights}.md"
    path.write_text("\n".join(_lines(page)) + "\n", "utf-8")
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["part", "rule", "setting", "replay", "epochs", *MEASURES])
        for part, played in page.parts.items():
            for one in played:
                for i, (epochs, kept) in enumerate(zip(one.epochs, one.kept, strict=True)):
                    numbers = [f"{number:.5f}" for number in (epochs, *kept)]
                    writer.writerow([part, one.rule, one.setting, i, *numbers])


def _lines(page: Page) -> Iterator[str]:
    syne = syne_tune_version()
    yield f"# Replay of {page.name}, {page.weights} weights"
    yield ""
    yield (
        "Command: `python -m benchmarks.pruning.replay benchmarks/pruning/curves "
        f"benchmarks/pruning/results`. Python {platform.python_version()}, numpy {np.__version__}, "
        f"Syne Tune {syne or 'not installed'}. Kept: share of the hypervolume of all trained to the "
        "end (epochs: "
        + str(page.num_epochs)
        + "). Reference point: the constant predictor's error "
        "and the largest activated parameters of the space; `strict`: 10 % beyond the worst candidate. "
        "`test`: front chosen on validation data, measured on the test data, relative to no pruning."
    )
    for part, played in page.parts.items():
        replays = len(played[0].epochs)
        yield f"\n## {part.capitalize()}: {page.num_candidates[part]} candidates, {replays} orders"
        for measure, name in enumerate(MEASURES):
            yield f"\nKept, {name}: mean (worst order) at so many times fewer epochs\n"
            yield from _table(played, measure)
    yield "\n## To hold it against"
    yield "\nPerfect foresight (all candidates, one epoch for the others):\n"
    yield from _foresight(page)
    if page.band:
        bands = np.array(page.band)
        yield (
            "\nSeed band: the 20 best trained again with "
            f"{len(bands)} other seeds have these shares of their own first hypervolume:\n"
        )
        yield "| | " + " | ".join(MEASURES) + " |"
        yield "| --- |" + " --: |" * len(MEASURES)
        for i, band in enumerate(bands):
            yield f"| seed {i + 1} | " + " | ".join(f"{one:.4f}" for one in band) + " |"


def _table(played: Sequence[Played], measure: int) -> Iterator[str]:
    yield "| rule | " + " | ".join(f"{saving}x" for saving in BUDGETS) + " |"
    yield "| --- |" + " --: |" * len(BUDGETS)
    for name, group in by_rule(played).items():
        cells = []
        for saving in BUDGETS:
            mean = at_budget(saving, _means(group, measure))
            worst = at_budget(saving, _means(group, measure, is_worst=True))
            cells.append("-" if np.isnan(mean) else f"{mean:.4f} ({worst:.4f})")
        yield f"| {name} | " + " | ".join(cells) + " |"


def _foresight(page: Page) -> Iterator[str]:
    total = page.num_epochs * max(page.num_candidates.values())
    yield "| trained to the end | saving | kept, log10 | kept, strict |"
    yield "| --: | --: | --: | --: |"
    for count, (epochs, kept) in enumerate(page.foresight, start=1):
        yield f"| {count} | {total / epochs:.1f}x | {kept[0]:.4f} | {kept[2]:.4f} |"
