"""Samplers beside Optuna's own: TPE that is quick to see which settings occur together, and points of a sequence."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from scipy.stats import qmc

from dynamoe_search.search.distributions import value_at


class GroupedTPESampler(TPESampler):
    """Optuna's TPE, with the same draws, that learns which settings occur together from one trial of each kind.

    Optuna's own goes through all trials for every design. To see a kind again changes nothing: whatever groups of
    settings there are by then, each lies within the kind or outside of it.

    Args:
        kinds: A study with the first trial of every kind, in their order.
        **options: Of Optuna's sampler; `group` is among them.
    """

    def __init__(self, kinds: Study, **options: Any) -> None:
        super().__init__(group=True, **options)
        self._kinds = kinds

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Returns the settings to sample together, in groups that occur together."""
        return super().infer_relative_search_space(self._kinds, trial)


class PointSampler(BaseSampler):
    """Gives a trial one point of a scrambled Sobol sequence over all open settings.

    Optuna's `QMCSampler` takes its dimensions from the first trial, which in a space with
    conditions lacks some; here every open setting has its own dimension, used or not, and the point
    is addressed by its number.

    Args:
        distributions: All open settings, in a fixed order.
        index: Number of the point in the sequence.
        seed: Seed of the scrambling, the same for the whole study.
    """

    def __init__(
        self, distributions: Mapping[str, BaseDistribution], index: int, seed: int
    ) -> None:
        self._point: dict[str, float] = {}
        if distributions:
            engine = qmc.Sobol(len(distributions), scramble=True, seed=np.random.default_rng(seed))
            if index:
                engine.fast_forward(index)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # one point has no balance to lose
                point = engine.random(1)[0]
            self._point = dict(zip(distributions, point.tolist(), strict=True))

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Returns nothing: all settings are read off the point one by one."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Returns nothing, see `infer_relative_search_space`."""
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Returns the value of one setting at the point."""
        return value_at(param_distribution, self._point[param_name])
