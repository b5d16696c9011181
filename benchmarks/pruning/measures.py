"""What is computed from recorded curves: fronts, hypervolumes, agreement of ranks, noise of errors.

Legend as in `curves`: N candidates.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import moocore
import numpy as np
from scipy.stats import kendalltau, spearmanr

from benchmarks.pruning.curves import Array, Curves, load

SETS = tuple(
    (data, decay) for data in ("digits", "fashion-mnist") for decay in ("constant", "cosine")
)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One set: all candidates, and the best again with other seeds, if they have been recorded."""

    name: str
    first: Curves
    again: Curves | None

    @classmethod
    def read(cls, folder: Path) -> Iterator["Recorded"]:
        """Yields the sets that are there."""
        for data, decay in SETS:
            path, seeds = (folder / f"{data}_{decay}{end}.npz" for end in ("", "_again"))
            if path.exists():
                yield cls(
                    name=f"{data}, {decay}",
                    first=load(path),
                    again=load(seeds) if seeds.exists() else None,
                )


def front(error: Array, activated: Array) -> Array:
    """Returns which candidates (N,) nobody dominates; NaN is dominated by everybody."""
    points = np.nan_to_num(np.stack([error, activated], axis=1), nan=np.inf)
    return np.asarray(moocore.is_nondominated(points, keep_weakly=False))


def hypervolume(curves: Curves, error: Array, activated: Array, *, is_log: bool = True) -> float:
    """Returns the hypervolume up to a constant predictor's error and the space's largest design."""
    scale: Callable[[Array], Array] = np.log10 if is_log else np.asarray
    largest = float(scale(np.array(float(curves.meta["largest_params"]))))
    guess = 1 - 1 / curves.meta["num_classes"]
    points = np.stack([error, scale(activated)], axis=1).astype(np.float64)
    points = points[np.isfinite(points).all(axis=1)]
    return float(moocore.hypervolume(points, ref=[guess, largest]))


def beaten_share(curves: Curves, which: int, epoch: int) -> Array:
    """Returns the share of all candidates (N,) that beat a candidate after an epoch.

    To beat is to have lower error and lower loss with no more activated parameters.
    """
    error, loss, activated = (
        getattr(curves, name)[which, :, epoch - 1] for name in ("error", "loss", "activated")
    )
    better = (error[:, None] < error) & (loss[:, None] < loss)
    return np.asarray((better & (activated[:, None] <= activated)).mean(axis=0))


def rank_agreement(early: Array, final: Array, groups: Array) -> tuple[float, float]:
    """Returns Spearman's rho of all, and Kendall's tau-b inside groups (mean weighted by pairs)."""
    if len(early) < 3:
        return float("nan"), float("nan")
    taus, pairs = [], []
    for group in np.unique(groups):
        own = groups == group
        if own.sum() > 2:
            taus.append(kendalltau(early[own], final[own]).statistic)
            pairs.append(own.sum() * (own.sum() - 1) / 2)
    inside = np.average(np.nan_to_num(taus), weights=pairs)
    return float(spearmanr(early, final).statistic), float(inside)


def widths(curves: Curves) -> Array:
    """Returns d_model (N,): the designs of one width differ in what a search has to find out."""
    spec = curves.meta["spec"]["model"]["d_model"]
    fixed = spec if isinstance(spec, int) else sorted(spec)[len(spec) // 2]  # of references
    return np.array([params.get("model.d_model", fixed) for params in curves.params])


def sampling_noise(curves: Curves) -> float:
    """Returns the noise of an error against the others' on the same images, as a share of a binomial's.

    From validation minus test error of the better half: what all candidates share cancels.
    """
    error, test = curves.error[0, :, -1], curves.test_error[0, :, -1]
    good = error <= np.nanmedian(error)
    difference = (error - test)[good]
    images = 1 / curves.meta["num_validation"] + 1 / curves.meta["num_test"]
    unit = binomial((error + test)[good] / 2) * images**0.5
    return float(np.std((difference - difference.mean()) / unit, ddof=1))


def binomial(error: Array) -> Array:
    """Returns the standard deviation of one image's error."""
    return np.asarray(np.sqrt(np.clip(error * (1 - error), 0.0, None)))


def seed_noise(again: Curves) -> float:
    """Returns the noise of the best designs' errors over seeds as a share of one image's, images apart.

    From the covariance of validation and test error over seeds: their images have nothing in common.
    """
    shares = []
    for ordinal in np.unique(again.ordinal):
        own = again.ordinal == ordinal
        error, test = again.error[0, own, -1], again.test_error[0, own, -1]
        shares.append(np.cov(error, test)[0, 1] / binomial((error + test) / 2).mean() ** 2)
    return float(max(np.mean(shares), 0.0) ** 0.5)
