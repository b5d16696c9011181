"""Samplers beside Optuna's own: TPE that is quicker with the same draws, and points of a sequence."""

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
from dynamoe_search.search.quick_tpe import Draw, Memory, is_known


class GroupedTPESampler(TPESampler):
    """Optuna's TPE, with the same draws, that learns which settings occur together from one trial of each kind.

    Optuna's own goes through all trials for every design. To see a kind again changes nothing: whatever groups of
    settings there are by then, each lies within the kind or outside of it.

    Optuna's own also draws all settings that there are. Here a group of which no setting is asked for is passed over,
    so that a trial must be finished before the next is asked for: nothing is left with it of what was passed over.

    Args:
        kinds: A study with the first trial of every kind, in their order.
        memory: Of earlier samplers of the same study with the same options; it learns from this one.
        **options: Of Optuna's sampler; `group` is among them.
    """

    def __init__(self, kinds: Study, memory: Memory | None = None, **options: Any) -> None:
        super().__init__(group=True, **options)
        self._kinds = kinds
        self._memory = memory if is_known() else None
        self._draws: dict[str, Draw] = {}
        self._num_finished = 0

    def seed(self, seed: int) -> None:
        """Makes it draw as one that was made with this seed."""
        self._rng.rng.seed(seed)
        self._random_sampler._rng.rng.seed(seed)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Returns the settings to sample together, in groups that occur together."""
        memory = self._memory
        if memory is None:
            return super().infer_relative_search_space(self._kinds, trial)
        self._num_finished = memory.look(study, trial)
        if memory.together is None:  # a kind is new when a trial of it has finished
            found = super().infer_relative_search_space(self._kinds, trial)
            assert self._search_space_group is not None
            memory.together = found, self._search_space_group
        found, self._search_space_group = memory.together
        return found

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Returns nothing: a group is drawn when one of its settings is asked for. Of an unknown Optuna, all values."""
        if self._memory is None:
            return super().sample_relative(study, trial, search_space)
        self._draws = {}
        if self._num_finished >= self._n_startup_trials:
            assert self._search_space_group is not None
            for together in self._search_space_group.search_spaces:
                group = {
                    name: one for name, one in sorted(together.items()) if name in search_space
                }
                if group:
                    self._draws |= dict.fromkeys(group, Draw(self, group))
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Returns the value of one setting, drawn with its group if it has one."""
        draw = self._draws.get(param_name)
        if draw is not None and self._memory is not None:
            value = draw.values(self, study, self._memory)[param_name]
            if param_distribution._contains(param_distribution.to_internal_repr(value)):
                return value
        return super().sample_independent(study, trial, param_name, param_distribution)


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
