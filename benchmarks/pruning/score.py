"""What a replay kept: hypervolume of those trained to the end, relative to everybody trained to the end.

Two reference points: that of the program (error of the constant predictor, largest activated parameters of the space,
frozen with the study), and a strict one (10 % of the range beyond the worst candidate), against which losing a member
of the front costs more.
"""

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from benchmarks.pruning.curves import WEIGHTS, Curves
from dynamoe_search.pareto import hypervolume, is_non_dominated

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

MEASURES = ("log10", "linear", "strict log10", "test")
"""Axis of the activated parameters, with the program's reference point unless it says `strict`."""

_BOTH = (False, False)


@dataclass(frozen=True, kw_only=True)
class Ends:
    """What everybody would become, (candidates,)."""

    error: Array
    activated: Array
    test_error: Array
    largest: float  # activated parameters of the space
    worst: float  # error of the constant predictor

    @classmethod
    def of(cls, curves: Curves, weights: str) -> "Ends":
        """Returns the last epoch of recorded curves."""
        which = WEIGHTS.index(weights)
        return cls(
            error=curves.error[which, :, -1].astype(np.float64),
            activated=curves.activated[which, :, -1].astype(np.float64),
            test_error=curves.test_error[which, :, -1].astype(np.float64),
            largest=float(curves.meta["largest_params"]),
            worst=1 - 1 / curves.meta["num_classes"],
        )

    def at(self, rows: Array) -> "Ends":
        """Returns the same of some candidates."""
        chosen = {name: getattr(self, name)[rows] for name in ("error", "activated", "test_error")}
        return replace(self, **chosen)

    def points(self, *, is_log: bool = True, is_test: bool = False) -> Array:
        """Returns error and activated parameters, (candidates, 2)."""
        error = self.test_error if is_test else self.error
        return np.stack((error, np.log10(self.activated) if is_log else self.activated), axis=1)

    @property
    def front(self) -> Array:
        """Rows of the front of everybody."""
        return np.flatnonzero(is_non_dominated(self.points(), _BOTH))


class Score:
    """Measures which candidates were trained to the end.

    Args:
        ends: Of all candidates of the replay.
    """

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        log, linear = ends.points(), ends.points(is_log=False)
        finite = log[np.isfinite(log).all(axis=1)]
        self._references = {
            "log10": np.array([ends.worst, np.log10(ends.largest)]),
            "linear": np.array([ends.worst, ends.largest]),
            "strict log10": finite.max(axis=0) + 0.1 * np.ptp(finite, axis=0),
        }
        self._points = {"log10": log, "linear": linear, "strict log10": log}
        everybody = np.arange(len(log))
        self._whole = {name: self._volume(name, everybody) for name in MEASURES}

    def kept(self, rows: Array) -> Array:
        """Returns the kept share of every measure, (measures,).

        Args:
            rows: Who was trained to the end.
        """
        return np.array([self._volume(name, rows) / self._whole[name] for name in MEASURES])

    def _volume(self, name: str, rows: Array) -> float:
        if name != "test":
            return hypervolume(self._points[name][rows], _BOTH, self._references[name])
        # The front is chosen on validation data and measured on the test data.
        front = rows[is_non_dominated(self._points["log10"][rows], _BOTH)]
        points = self._ends.points(is_test=True)[front]
        return hypervolume(points, _BOTH, self._references["log10"])

    def compared_with(self, ends: Ends) -> Array:
        """Returns how much of the whole the ends of other trainings have, with the same reference points."""
        other = Score(ends)
        other._references = self._references
        everybody = np.arange(len(ends.error))
        return np.array([other._volume(one, everybody) / self._whole[one] for one in MEASURES])

    def foresight(self, count: int) -> list[tuple[int, Array]]:
        """Returns what perfect foresight would keep: epochs and shares, front members one by one, best first.

        Everybody gets one epoch.

        Args:
            count: Epochs of a candidate that is trained to its end.
        """
        front, chosen = list(self._ends.front), []
        epochs, curve = len(self._ends.error), []
        while front:
            gains = [self.kept(np.array([*chosen, row]))[0] for row in front]
            chosen.append(front.pop(int(np.argmax(gains))))
            epochs += count - 1
            curve.append((epochs, self.kept(np.array(chosen))))
        return curve


def seed_band(curves: Curves, again: Curves, weights: str) -> list[Array]:
    """Returns, for each other seed, the kept shares when the recorded candidates have that seed's results."""
    chosen = [int(np.flatnonzero(curves.ordinal == one)[0]) for one in np.unique(again.ordinal)]
    score = Score(Ends.of(curves.select(chosen), weights))
    bands = []
    for seed in np.unique(again.seed):
        rows = np.flatnonzero(again.seed == seed)
        bands.append(score.compared_with(Ends.of(again.select(rows), weights)))
    return bands
