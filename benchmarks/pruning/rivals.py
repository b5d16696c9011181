"""Rules of others, to be replayed on the same curves: each is asked once per epoch and stops for good.

Syne Tune's scheduler is the real package (`pip install syne-tune`; the rows are left out without it). The OptunaHub
pruner is written anew after its registry entry `pruners/multi_metric_pruner`, since it is loaded from the network at
run time: ranks of nondominated sorting among all that reported a step, given to Optuna's percentile rule with its
usual settings.
"""

from datetime import datetime
from importlib import metadata
from typing import Any, TypeAlias

import numpy as np

from benchmarks.pruning.simulate import Shown
from dynamoe_search.pareto import pareto_ranks
from dynamoe_search.pruning import usual_rungs

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def points(shown: Shown, scale: float) -> Array:
    """Returns error and scaled activated parameters, (candidates, epochs, 2)."""
    return np.stack((shown.error, shown.activated / scale), axis=2)


class Random:
    """Stops with a fixed chance at each rung.

    Args:
        chance: Of stopping.
        epochs: Of a candidate that is trained to its end.
        seed: Of the draws.
    """

    def __init__(self, chance: float, epochs: int, seed: int) -> None:
        self._chance, self._rungs = chance, frozenset(usual_rungs(epochs))
        self._draws = np.random.default_rng(seed)

    def stops(self, row: int, epoch: int) -> bool:
        """Draws at a rung."""
        return epoch in self._rungs and bool(self._draws.random() < self._chance)


class Percentile:
    """OptunaHub's multi-metric pruner around Optuna's percentile pruner.

    Args:
        values: (candidates, epochs, 2) to be minimised.
        percentile: 50 is its median pruner.
    """

    num_startup_trials = 5

    def __init__(self, values: Array, percentile: float) -> None:
        self._values, self._percentile = values, percentile
        self._reported: list[list[int]] = [[] for _ in range(values.shape[1])]
        self._ranks: dict[int, dict[int, int]] = {}  # by epoch; dropped when somebody reports
        self._over: set[int] = set()

    def stops(self, row: int, epoch: int) -> bool:
        """Tells whether the best rank so far is above the percentile of those that are over."""
        self._reported[epoch - 1].append(row)
        self._ranks.pop(epoch, None)
        is_stopped = self._is_pruned(row, epoch)
        if is_stopped or epoch == self._values.shape[1]:
            self._over.add(row)
        return is_stopped

    def _is_pruned(self, row: int, epoch: int) -> bool:
        over = [one for one in self._reported[epoch - 1] if one in self._over]
        if len(self._over) < self.num_startup_trials or not over:
            return False
        ranks = self._ranked(epoch)
        bound = np.percentile([ranks[one] for one in over], self._percentile)
        return all(self._ranked(step)[row] > bound for step in range(epoch, 0, -1))

    def _ranked(self, epoch: int) -> dict[int, int]:
        if epoch not in self._ranks:
            rows = self._reported[epoch - 1]
            found = pareto_ranks(self._values[rows, epoch - 1], (False, False))
            self._ranks[epoch] = dict(zip(rows, found.tolist(), strict=True))
        return self._ranks[epoch]


class SyneTune:
    """MO-ASHA of the installed Syne Tune.

    Args:
        values: (candidates, epochs, 2) to be minimised.
        eta: Its reduction factor.
        ranks: `shipped`, `corrected` (its priority gives ranks instead of an order), or `error` (accuracy alone).
    """

    def __init__(self, values: Array, eta: float, ranks: str) -> None:
        from syne_tune.backend.trial_status import Trial  # noqa: PLC0415
        from syne_tune.optimizer.schedulers.multiobjective import moasha  # noqa: PLC0415

        self._values, self._trial = values, Trial
        self._trials: dict[int, Any] = {}
        np.random.seed(0)  # noqa: NPY002  its choice of brackets draws from the global state
        self._scheduler = moasha.MOASHA(
            config_space={},
            metrics=["error", "activated"],
            time_attr="epoch",
            max_t=values.shape[1],
            reduction_factor=eta,
            multiobjective_priority=priority(ranks),
        )

    def stops(self, row: int, epoch: int) -> bool:
        """Reports and asks."""
        if row not in self._trials:
            trial = self._trial(trial_id=row, config={}, creation_time=datetime.now())  # noqa: DTZ005
            self._trials[row] = trial
            self._scheduler.on_trial_add(trial)
        error, activated = self._values[row, epoch - 1]
        result = {"epoch": epoch, "error": float(error), "activated": float(activated)}
        return bool(self._scheduler.on_trial_result(self._trials[row], result) == "STOP")


def priority(ranks: str) -> Any:
    """Returns the priority of a `SyneTune`.

    The scheduler uses nothing but the last number among all, so that is all that the two of ours get right; the
    package's own takes minutes for a replay. `replay.py` checks them against it on random points.
    """
    from syne_tune.optimizer.schedulers.multiobjective import (  # noqa: PLC0415
        multiobjective_priority as of,
    )

    if ranks == "error":
        return of.FixedObjectivePriority(dim=0)

    class Shipped(of.MOPriority):  # type: ignore[misc, name-defined]
        """An order of the samples in place of priorities: its last number is the last sample of the last front."""

        def priority_unsafe(self, objectives: Array) -> Array:
            fronts = pareto_ranks(objectives, (False, False))
            rows = np.flatnonzero(fronts == fronts.max())
            last = rows[epsilon_net(objectives[rows])][-1]
            return np.append(np.delete(np.arange(len(objectives)), last), last)

    class Ranks(of.MOPriority):  # type: ignore[misc, name-defined]
        """Nondominated rank first, then the place in the front's epsilon net."""

        def priority_unsafe(self, objectives: Array) -> Array:
            fronts = pareto_ranks(objectives, (False, False))
            counts = np.bincount(fronts)
            places = (np.cumsum(counts) - counts)[fronts]
            rows = np.flatnonzero(fronts == fronts[-1])
            places[rows] += epsilon_net(objectives[rows])
            return places

    return Shipped() if ranks == "shipped" else Ranks()


def epsilon_net(points: Array) -> Array:
    """Returns what Syne Tune's `compute_epsilon_net` returns, in quadratic instead of cubic time."""
    ranks = np.zeros(len(points), dtype=np.int64)
    latest, distance = int(np.argmin(points[:, 0])), np.full(len(points), np.inf)
    for place in range(1, len(points)):
        distance = np.minimum(distance, np.linalg.norm(points - points[latest], axis=1))
        distance[latest] = -1.0
        latest = int(distance.argmax())
        ranks[latest] = place
    return ranks


def are_parts_the_same() -> bool:
    """Tells whether our faster parts and the installed package agree on random points."""
    from syne_tune.optimizer.schedulers.multiobjective import (  # noqa: PLC0415
        multiobjective_priority as of,
    )
    from syne_tune.optimizer.schedulers.multiobjective.non_dominated_priority import (  # noqa: PLC0415
        compute_epsilon_net,
    )

    draws = np.random.default_rng(0)
    sets = [draws.random((size, 2)) for size in (1, 2, 3, 5, 9, 20, 60) for _ in range(5)]
    return all(
        (compute_epsilon_net(one, dim=0) == epsilon_net(one)).all()
        and of.NonDominatedPriority()(one)[-1] == priority("shipped")(one)[-1]
        for one in sets
    )


def syne_tune_version() -> str | None:
    """Returns the installed version, None if there is none."""
    try:
        return metadata.version("syne-tune")
    except metadata.PackageNotFoundError:
        return None
