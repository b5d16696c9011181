"""What early epochs say about the last one, with and without averaged weights, and how much of the front is luck.

    python -m benchmarks.pruning.averaging benchmarks/pruning/curves > benchmarks/pruning/results/averaging.md

Reads the recorded curves; takes half a minute. Brackets hold 95 % intervals from a bootstrap over candidates.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from scipy.stats import rankdata

from benchmarks.pruning.curves import WEIGHTS, Array, Curves
from benchmarks.pruning.measures import (
    Recorded,
    beaten_share,
    binomial,
    front,
    hypervolume,
    rank_agreement,
    sampling_noise,
    seed_noise,
    widths,
)

EPOCHS = (1, 2, 3, 5, 8, 12, 18)
NUM_BOOTSTRAPS = 200
NUM_DRAWS = 200
SIZES = (250, 431, 1000, 2500, 5000, 10_000, 20_000)  # validation images


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    aligned = " | ".join(["---", *["--:"] * (len(head) - 1)])
    lines = [f"## {title}", "", f"| {' | '.join(head)} |", f"| {aligned} |"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def _errors(curves: Curves, which: int, epoch: int) -> Array:
    return np.asarray(curves.error[which, :, epoch - 1])


def _losses(curves: Curves, which: int, epoch: int) -> Array:
    return np.asarray(curves.loss[which, :, epoch - 1])


def _least_errors(curves: Curves, which: int, epoch: int) -> Array:
    return np.asarray(np.fmin.reduce(curves.error[which, :, :epoch], axis=1))


def _both_ranks(curves: Curves, which: int, epoch: int) -> Array:
    ranks = [rankdata(part(curves, which, epoch)) for part in (_errors, _losses)]
    return np.asarray(sum(ranks))


Measure: TypeAlias = Callable[[Curves, int, int], Array]
MEASURES: tuple[tuple[str, Measure, tuple[str, ...]], ...] = (
    ("error", _errors, WEIGHTS),
    ("loss", _losses, WEIGHTS),
    ("lowest error so far", _least_errors, WEIGHTS[:1]),
    ("ranks of error and loss", _both_ranks, WEIGHTS[:1]),
)


def _agreements(one: Recorded) -> list[list[str]]:
    """Returns a row per measure and weights: how well it agrees with the last error of the current weights.

    The last rows ask for the last error of the averages themselves.
    """
    curves = one.first
    asked = [
        (f"{name}, {kind}", measure, which, 0)
        for name, measure, weights in MEASURES
        for which, kind in enumerate(weights)
    ]
    own = [
        (f"error, {kind}, for its own last", _errors, which, which)
        for which, kind in enumerate(WEIGHTS)
        if which
    ]
    return [
        [one.name, name, *(_agreement(curves, measure, which, last, epoch) for epoch in EPOCHS)]
        for name, measure, which, last in asked + own
    ]


def _agreement(curves: Curves, measure: Measure, which: int, last: int, epoch: int) -> str:
    early, final = measure(curves, which, epoch), curves.error[last, :, -1]
    known = np.isfinite(early + curves.error[which, :, epoch - 1] + final)
    whole, inside = rank_agreement(early[known], final[known], widths(curves)[known])
    return f"{whole:.3f} {inside:.3f}" if known.any() else "-"


def _gains(one: Recorded) -> list[list[str]]:
    """Returns how much better the averages' early errors agree than the raw weights', inside widths."""
    curves, groups = one.first, widths(one.first)
    final = curves.error[0, :, -1]
    generator = np.random.default_rng(0)
    draws = generator.integers(curves.num_candidates, size=(NUM_BOOTSTRAPS, curves.num_candidates))
    rows = []
    for which in (1, 2):
        cells = []
        for epoch in EPOCHS:
            raw, average = curves.error[0, :, epoch - 1], curves.error[which, :, epoch - 1]
            if not np.isfinite(raw + average).any():
                cells.append("-")
                continue

            def gain(own: Array, raw: Array = raw, average: Array = average) -> float:
                own = own[np.isfinite(raw[own] + average[own] + final[own])]
                first = rank_agreement(raw[own], final[own], groups[own])[1]
                return rank_agreement(average[own], final[own], groups[own])[1] - first

            everybody = gain(np.arange(curves.num_candidates))
            low, high = np.quantile([gain(draw) for draw in draws], [0.025, 0.975])
            cells.append(f"{everybody:+.3f} [{low:+.3f}, {high:+.3f}]")
        rows.append([one.name, WEIGHTS[which], *cells])
    return rows


def _survival(one: Recorded) -> list[list[str]]:
    """Returns by how many the members of the last front were beaten early: mean and most."""
    curves = one.first
    members = front(curves.error[0, :, -1], curves.activated[0, :, -1])
    rows = []
    for which, weights in enumerate(WEIGHTS):
        cells = []
        for epoch in EPOCHS:
            share = beaten_share(curves, which, epoch)[members]
            is_there = np.isfinite(curves.error[which, :, epoch - 1]).any()
            cells.append(f"{share.mean():.3f} {share.max():.3f}" if is_there else "-")
        rows.append([f"{one.name} ({members.sum()})", weights, *cells])
    return rows


def _last_errors(one: Recorded) -> list[list[str]]:
    """Returns what the averages reach after the last epoch, and their front's test hypervolume."""
    curves = one.first
    rows = []
    for which, weights in enumerate(WEIGHTS):
        error, activated = curves.error[which, :, -1], curves.activated[which, :, -1]
        test = curves.test_error[which, :, -1]
        members = front(error, activated)
        rows.append(
            [
                one.name,
                weights,
                f"{np.nanmin(error):.4f}",
                f"{np.nanmedian(error):.4f}",
                f"{np.nanmedian(test):.4f}",
                f"{hypervolume(curves, error, activated):.4f}",
                f"{hypervolume(curves, test[members], activated[members]):.4f}",
            ]
        )
    return rows


def _drift(one: Recorded) -> list[list[str]]:
    """Returns the standard deviation of log10(early / last activated parameters), and the largest factor."""
    curves = one.first
    groups = {"all": np.full(curves.num_candidates, True), "top-any": curves.router == "top-any"}
    rows = []
    for name, own in groups.items():
        cells = []
        for epoch in EPOCHS:
            ratio = np.log10(curves.activated[0, own, epoch - 1] / curves.activated[0, own, -1])
            cells.append(f"{np.nanstd(ratio):.3f} {10 ** np.nanmax(np.abs(ratio)):.2f}x")
        rows.append([one.name, name, *cells])
    return rows


def _kept(curves: Curves, noise: float) -> str:
    """Returns mean and 5 % quantile of the hypervolume that a front chosen with noise keeps."""
    generator = np.random.default_rng(0)
    error = np.nan_to_num(curves.error[0, :, -1], nan=1.0).astype(np.float64)
    activated = curves.activated[0, :, -1].astype(np.float64)
    whole = hypervolume(curves, error, activated)
    kept = []
    for _ in range(NUM_DRAWS):
        seen = error + noise * binomial(error) * generator.standard_normal(len(error))
        members = front(seen, activated)
        kept.append(hypervolume(curves, error[members], activated[members]) / whole)
    return f"{np.mean(kept):.4f} {np.quantile(kept, 0.05):.4f}"


def _sizes(one: Recorded) -> list[list[str]]:
    """Returns, by the size of the validation part, the noise of an error and what the chosen front keeps."""
    curves = one.first
    error = curves.error[0, :, -1]
    typical = float(np.nanquantile(error, 0.25))
    unit = float(binomial(np.array(typical)))
    sampling = sampling_noise(curves)
    cells = [
        f"{sampling * unit / size**0.5:.4f}, {_kept(curves, sampling / size**0.5)}"
        for size in SIZES
    ]
    seeds = "-", "-"
    if one.again is not None:
        noise = seed_noise(one.again)
        images = f"{4 * (sampling / noise) ** 2:,.0f}" if noise else "-"
        seeds = f"{noise * unit:.4f}, {_kept(curves, noise)}", images
    return [[one.name, f"{typical:.3f}", f"{sampling:.2f}", *cells, *seeds]]


def _seeds(one: Recorded) -> list[list[str]]:
    """Returns the hypervolume of the best with every other seed, as a share of that with the study's."""
    if one.again is None:
        return []
    ordinals = np.unique(one.again.ordinal)
    own = one.first.select(np.flatnonzero(np.isin(one.first.ordinal, ordinals)))
    rows = []
    for which, weights in enumerate(WEIGHTS):
        cells, errors = [], []
        before = front(own.error[which, :, -1], own.activated[which, :, -1])
        stays = []
        for seed in np.unique(one.again.seed):
            other = one.again.select(np.flatnonzero(one.again.seed == seed))
            shares = []
            for is_log in (True, False):
                first, second = (
                    hypervolume(
                        own, part.error[which, :, -1], part.activated[which, :, -1], is_log=is_log
                    )
                    for part in (own, other)
                )
                shares.append(second / first)
            cells.append(f"{shares[0]:.4f} {shares[1]:.4f}")
            after = front(other.error[which, :, -1], other.activated[which, :, -1])
            stays.append(int((before & after).sum()))
            errors.append(other.error[which, :, -1])
        bias = float(np.nanmean(errors) - np.nanmean(own.error[which, :, -1]))
        spread = float(np.nanmean(np.nanvar(errors, axis=0, ddof=1)) ** 0.5)
        members = ", ".join(map(str, stays))
        rows.append(
            [
                one.name,
                weights,
                *cells,
                f"{members} of {before.sum()}",
                f"{spread:.4f}",
                f"{bias:+.4f}",
            ]
        )
    return rows


_AT = [f"epoch {epoch}" for epoch in EPOCHS]


def report(sets: Sequence[Recorded]) -> list[str]:
    """Returns the lines of the report."""

    def rows(part: Callable[[Recorded], list[list[str]]]) -> list[list[str]]:
        return [row for one in sets for row in part(one)]

    sizes = [f"{size:,} images" for size in SIZES]
    return [
        *_table(
            "Agreement of early ranks with the last error of the current weights: Spearman's rho of all, "
            "Kendall's tau-b among designs of one width",
            ["set", "ranked by", *_AT],
            rows(_agreements),
        ),
        *_table(
            "What averages add to tau-b inside widths, by error [95 % interval]",
            ["set", "weights", *_AT],
            rows(_gains),
        ),
        *_table(
            "Members of the last front when they were young: share of all that beat them (lower error and loss, "
            "no more activated parameters), mean and most",
            ["set (members)", "weights", *_AT],
            rows(_survival),
        ),
        *_table(
            "After the last epoch",
            [
                "set",
                "weights",
                "lowest error",
                "median error",
                "median test error",
                "hypervolume",
                "test hypervolume of the front",
            ],
            rows(_last_errors),
        ),
        *_table(
            "Activated parameters, early / last: standard deviation of log10, and the largest factor",
            ["set", "routers", *_AT],
            rows(_drift),
        ),
        *_table(
            "Size of the validation part: noise of a typical good error, and hypervolume kept by the front "
            "that is chosen with it, mean and 5 % quantile",
            [
                "set",
                "typical error",
                "noise / binomial",
                *sizes,
                "other seed, same images",
                "images for half the seed's noise",
            ],
            rows(_sizes),
        ),
        *_table(
            "The 20 best again: hypervolume / hypervolume with the study's seed, log10 and linear axis",
            [
                "set",
                "weights",
                "seed 1",
                "seed 2",
                "seed 3",
                "stay on the front",
                "deviation over seeds",
                "error against the study's",
            ],
            rows(_seeds),
        ),
    ]


def main(folder: Path) -> None:
    """Prints the report."""
    sets = [*Recorded.read(folder)]
    versions = sets[0].first.meta["versions"]
    counts = "; ".join(
        f"{one.name}: {one.first.num_candidates} candidates, {one.first.meta['num_train']:,} training, "
        f"{one.first.meta['num_validation']:,} validation, {one.first.meta['num_test']:,} test images"
        for one in sets
    )
    conditions = (
        f"Command: `python -m benchmarks.pruning.averaging {folder}`. {counts}. 27 epochs; averages are exponential "
        "with time constants of half an epoch and of one. Curves recorded with torch "
        f"{versions['torch']} on a CPU, one thread."
    )
    lines = ["# Averaged weights, early ranks and the luck of the front", "", conditions, ""]
    lines += report(sets)
    sys.stdout.write("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
