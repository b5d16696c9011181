"""Does our rule keep more than each rival at equal epochs, for other candidates too? Replays random halves.

    python -m benchmarks.pruning.intervals benchmarks/pruning/curves benchmarks/pruning/results [--most 20]

A replay draws a random half of the recorded candidates and the order in which they arrive; each rule with each setting
is played on the same half in the same order. Its curve of hypervolume kept against epochs is read at each budget, and
ours minus the rival's is one paired difference. Halves are drawn from all candidates, and once more from those with odd
ordinals alone, on which nothing was designed. Replays are kept in a file: `--most` makes so many of the missing ones,
then the page is written from all there are.
"""

import argparse
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.pruning.curves import Curves, load
from benchmarks.pruning.replay import play
from benchmarks.pruning.rivals import syne_tune_version
from benchmarks.pruning.score import MEASURES
from benchmarks.pruning.tables import BUDGETS, OURS, Played, at_budget, by_rule

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

NUM_REPLAYS = 100
ROUND = 20
"""Replays of each file before the next file has its turn."""
OTHERS_OF_OURS = ("pareto, stopping for good", "pareto, late rungs too")
"""Rules that are no rivals."""
PARTS = {"all": "all candidates", "odd": "odd ordinals alone"}


def rows(curves: Curves, part: str) -> Array:
    """Returns the candidates that halves are drawn from."""
    everybody = np.arange(curves.num_candidates)
    return everybody if part == "all" else everybody[curves.ordinal % 2 == 1]


def replay(curves: Curves, part: str, number: int) -> list[Played]:
    """Plays every rule on one half."""
    order = np.random.default_rng([number, len(part)]).permutation(rows(curves, part))
    return play(curves, "raw", [order[: len(order) // 2]], without=OTHERS_OF_OURS)


def read(path: Path) -> list[Played]:
    """Returns the replays of a file, none if there is no such file."""
    if not path.exists():
        return []
    with np.load(path) as file:
        columns = {name: file[name] for name in file.files}
    return [
        Played(
            rule=str(columns["rule"][i]),
            setting=float(columns["setting"][i]),
            epochs=columns["epochs"][i].astype(np.float64),
            kept=columns["kept"][i].astype(np.float64),
        )
        for i in range(len(columns["rule"]))
    ]


def save(path: Path, played: Sequence[Played]) -> None:
    """Writes replays to a file of NumPy arrays."""
    np.savez_compressed(
        path,
        rule=np.array([one.rule for one in played]),
        setting=np.array([one.setting for one in played]),
        epochs=np.array([one.epochs for one in played]).astype(np.float32),
        kept=np.array([one.kept for one in played]).astype(np.float32),
    )


def more(path: Path, curves: Curves, part: str, goal: int, most: int) -> int:
    """Adds up to so many replays to a file, until it has enough, and returns how many were made."""
    played = read(path)
    done = len(played[0].epochs) if played else 0
    made = max(0, min(most, goal - done))
    for number in range(done, done + made):
        new = replay(curves, part, number)
        played = (
            [
                Played(
                    rule=one.rule,
                    setting=one.setting,
                    epochs=np.concatenate((one.epochs, other.epochs)),
                    kept=np.concatenate((one.kept, other.kept)),
                )
                for one, other in zip(played, new, strict=True)
            ]
            if played
            else new
        )
        save(path, played)
    return made


def differences(played: Sequence[Played], saving: float, measure: int = 0) -> dict[str, Array]:
    """Returns for every rival ours minus it at equal epochs, (replays,); NaN where one of them spends more."""
    groups = by_rule(played)

    def kept(group: Sequence[Played]) -> Array:
        return np.array(
            [
                at_budget(
                    saving, np.array([(one.epochs[i], one.kept[i, measure]) for one in group])
                )
                for i in range(len(group[0].epochs))
            ]
        )

    mine = kept(groups[OURS])
    return {name: mine - kept(group) for name, group in groups.items() if name != OURS}


def table(played: Sequence[Played], measure: int) -> Iterator[str]:
    """Yields the table of one file."""
    yield "| rival | " + " | ".join(f"{saving}x" for saving in BUDGETS) + " |"
    yield "| --- |" + " --- |" * len(BUDGETS)
    columns = [differences(played, saving, measure) for saving in BUDGETS]
    for name in columns[0]:
        cells = []
        for column in columns:
            gap = column[name][np.isfinite(column[name])]
            if 2 * len(gap) <= len(column[name]):
                cells.append("-")
                continue
            mean, spread = gap.mean(), 1.96 * gap.std(ddof=1)
            text = f"{mean:+.4f} ± {spread / len(gap) ** 0.5:.4f} (± {spread:.4f})"
            strong = mean - spread > 0
            clear = mean - spread / len(gap) ** 0.5 > 0
            cells.append(f"**{text}**" if strong else f"*{text}*" if clear else text)
        yield f"| {name} | " + " | ".join(cells) + " |"


def summary(folder: Path, every: dict[str, Curves], part: str) -> Iterator[str]:
    """Yields at how many of the budgets that ours reaches it is ahead of each rival, and behind."""
    files = {name: read(folder / f"intervals_{name}_{part}.npz") for name in every}
    files = {name: played for name, played in files.items() if played}
    yield "| rival | " + " | ".join(files) + " |"
    yield "| --- |" + " --- |" * len(files)
    rows = [_counts(played) for played in files.values()]
    for rival in rows[0] if rows else ():
        yield f"| {rival} | " + " | ".join(row[rival] for row in rows) + " |"


def _counts(played: Sequence[Played]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for saving in BUDGETS:
        mine = [
            at_budget(
                saving, np.array([(one.epochs[i], one.kept[i, 0]) for one in by_rule(played)[OURS]])
            )
            for i in range(len(played[0].epochs))
        ]
        if 2 * np.isfinite(mine).sum() <= len(mine):
            continue
        for name, every in differences(played, saving).items():
            gap = every[np.isfinite(every)]
            verdict = "cannot"
            if 2 * len(gap) > len(mine):
                reach = 1.96 * gap.std(ddof=1) / len(gap) ** 0.5
                verdict = (
                    "ahead" if gap.mean() > reach else "behind" if gap.mean() < -reach else "open"
                )
            found.setdefault(name, []).append(verdict)
    return {
        name: f"{some.count('ahead')} ahead, {some.count('open')} open, {some.count('behind')} behind, "
        f"{some.count('cannot')} out of reach"
        for name, some in found.items()
    }


def page(folder: Path, every: dict[str, Curves]) -> Iterator[str]:
    """Yields the page of all files that there are."""
    yield "# Ours minus each rival at equal epochs, in replays of random halves of the candidates"
    yield ""
    yield (
        "Command: `python -m benchmarks.pruning.intervals benchmarks/pruning/curves benchmarks/pruning/results`. "
        f"Python {platform.python_version()}, numpy {np.__version__}, "
        f"Syne Tune {syne_tune_version() or 'not installed'}. What is resampled: which half of the candidates takes "
        "part, and the order in which it arrives; both rules of a pair see the same. Each cell: mean difference of the "
        "hypervolume kept; ± 95 % interval of that mean, for studies drawn from the recorded candidates (standard "
        "deviation over replays / root of their number); in brackets the 95 % interval for other candidates of the "
        "same space (standard deviation over halves: the delete-half jackknife; Efron and Tibshirani, 1993, section "
        "11.7). *Slanted*: ours keeps more and the first interval excludes zero; **bold**: the second does too."
    )
    for part, title in PARTS.items():
        yield (
            f"\n## Halves of {title}: at how many of the budgets that ours reaches "
            "(log10; zero outside the first interval; out of reach: the rival cannot save so much)\n"
        )
        yield from summary(folder, every, part)
    for name, curves in every.items():
        for part, title in PARTS.items():
            played = read(folder / f"intervals_{name}_{part}.npz")
            if not played:
                continue
            size = len(rows(curves, part)) // 2
            yield f"\n## {name}: halves of {title}, {size} candidates, {len(played[0].epochs)} replays"
            for measure in (0, MEASURES.index("strict log10")):
                yield f"\n{MEASURES[measure]}\n"
                yield from table(played, measure)


def main() -> None:
    """Makes what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("curves", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--most", type=int, default=10**6, help="replays in this call")
    given = parser.parse_args()
    paths = [one for one in sorted(given.curves.glob("*.npz")) if not one.stem.endswith("_again")]
    every = {path.stem: load(path) for path in paths}
    left = given.most
    for goal in range(ROUND, NUM_REPLAYS + 1, ROUND):
        for name, curves in every.items():
            for part in PARTS:
                path = given.results / f"intervals_{name}_{part}.npz"
                left -= more(path, curves, part, goal, left)
    (given.results / "intervals.md").write_text(
        "\n".join(page(given.results, every)) + "\n", "utf-8"
    )


if __name__ == "__main__":
    main()
