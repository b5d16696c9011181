"""What Optuna's TPE works out of a study, kept from one draw to the next, and its densities with less work.

For each group of settings that occur together, TPE makes a density of the good trials and one of all others, draws
points from the first and takes the one where the ratio of the two is highest. Optuna works all of that out anew for
each group of each design. But while a cohort is put together no trial finishes: who is good stays the same, and the
others gain one running trial after another. Here that is kept, and every number comes out as Optuna's own does, bit by
bit: it makes the densities, and is left only where its steps are repeated in the order in which it takes them.

That rests on functions that are not for others to use, so it is only done with the very files that were read for it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe import (
    _erf,
    _truncnorm,
    parzen_estimator,
    probability_distributions,
    sampler,
)
from optuna.search_space.group_decomposed import _SearchSpaceGroup
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

Array: TypeAlias = NDArray[np.float64]
Group: TypeAlias = dict[str, BaseDistribution]
"""Settings that occur together, by name."""
Together: TypeAlias = tuple[Group, _SearchSpaceGroup]
"""All settings of groups, and the groups."""

_FILES = (sampler, parzen_estimator, probability_distributions, _truncnorm, _erf)
_KNOWN = frozenset({"032abebfe4b8f7ed5252e85d527375c3"})
"""Of these files together: those of Optuna 5.0.0."""
_FEW = 2000
"""From so many numbers on Optuna's error function is another one, with other last digits."""
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@cache
def is_known() -> bool:
    """Says whether the installed Optuna's TPE is one that is repeated here step by step."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        for module in _FILES:
            digest.update(Path(str(module.__file__)).read_bytes())
    except OSError:
        return False
    return digest.hexdigest() in _KNOWN


class Memory:
    """What draws from one study have in common, as long as no trial finishes; then it is worked out anew.

    The samplers that share it have the same options.
    """

    def __init__(self) -> None:
        self._finished: list[FrozenTrial] = []
        self._running: list[FrozenTrial] = []
        self._halves: tuple[list[FrozenTrial], list[FrozenTrial]] | None = None
        self._groups: dict[tuple[str, ...], _Densities] = {}
        self.together: Together | None = None
        """Which settings occur together, once somebody has found out."""

    def look(self, study: Study, trial: FrozenTrial) -> int:
        """Takes note of the trials of a study but one that is asked for; returns how many have finished."""
        states = (*_FINISHED, TrialState.RUNNING)
        trials = study._get_trials(deepcopy=False, states=states)
        finished = [one for one in trials if one.state != TrialState.RUNNING]
        self._running = [
            one for one in trials if one.state == TrialState.RUNNING and one.number != trial.number
        ]
        if finished != self._finished:  # who is there is the same object, so this is quick
            self._finished, self._halves, self._groups = finished, None, {}
            self.together = None
        return len(finished)

    def draw(self, own: TPESampler, study: Study, group: Group) -> dict[str, Any]:
        """Returns the values of a group of settings that Optuna's sampler would draw.

        Args:
            own: The sampler.
            study: Which `look` has seen.
            group: The settings, by name in the order in which they are drawn.
        """
        known = self._groups.get(tuple(group))
        if known is None or known.group != group:
            known = _Densities(own, study, group, *self._divided(own, study))
            self._groups[tuple(group)] = known
        points = known.below.sample(own._rng.rng, own._n_ei_candidates)
        ratios = known.good.at(points) - known.bad(own, study, self._running).at(points)
        values = TPESampler._compare(points, ratios)
        return {name: one.to_external_repr(values[name]) for name, one in group.items()}

    def _divided(
        self, own: TPESampler, study: Study
    ) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """Returns the good finished trials and the others, each by number."""
        if self._halves is None:
            is_single = len(study.directions) <= 1
            usual = sampler.default_gamma if is_single else sampler.default_gamma_multiobjective
            num_good = (own._gamma or usual)(len(self._finished))
            self._halves = sampler._split_trials(study, self._finished, num_good)
        return self._halves


class Draw:
    """Values of a group of settings, drawn when they are asked for with the random numbers that are theirs.

    Args:
        own: The sampler, whose random numbers go on behind those of the group: one for each point, and one for each of
            its settings.
        group: The settings, by name in the order in which they are drawn.
    """

    def __init__(self, own: TPESampler, group: Group) -> None:
        self._group = group
        self._values: dict[str, Any] | None = None
        self._state = own._rng.rng.get_state(legacy=False)
        own._rng.rng.random_sample(own._n_ei_candidates * (1 + len(group)))

    def values(self, own: TPESampler, study: Study, memory: Memory) -> dict[str, Any]:
        """Returns the values by name.

        Args:
            own: The sampler.
            study: Which `memory` has looked at.
            memory: Of the study.
        """
        if self._values is None:
            rng = own._rng.rng
            behind = rng.get_state(legacy=False)
            rng.set_state(self._state)
            self._values = memory.draw(own, study, self._group)
            rng.set_state(behind)
        return self._values


class _Densities:
    """The densities of the good trials and of all others for a group of settings."""

    def __init__(
        self,
        own: TPESampler,
        study: Study,
        group: Group,
        good: list[FrozenTrial],
        others: list[FrozenTrial],
    ) -> None:
        self.group = group
        self.below = own._build_parzen_estimator(study, group, good, handle_below=True)
        self.good = Density(self.below)
        with_all = [one for one in others if group.keys() <= one.params.keys()]
        self._numbers = [one.number for one in with_all]
        self._observed = {
            name: np.asarray([kind.to_internal_repr(one.params[name]) for one in with_all])
            for name, kind in group.items()
        }
        self._running: list[FrozenTrial] | None = None
        self._bad = self.good  # until it is asked for

    def bad(self, own: TPESampler, study: Study, running: Sequence[FrozenTrial]) -> "Density":
        """Returns the density of all who are not good and of the running trials."""
        here = [one for one in running if self.group.keys() <= own._get_params(one, study).keys()]
        if here != self._running:
            observed = self._with(own._get_internal_repr(here, self.group, study), here)
            parameters = own._parzen_estimator_parameters
            estimator = parzen_estimator._ParzenEstimator(observed, self.group, parameters)
            self._bad = Density(estimator, None if self._running is None else self._bad)
            self._running = here
        return self._bad

    def _with(self, added: Mapping[str, Array], running: Sequence[FrozenTrial]) -> dict[str, Array]:
        """Returns what was observed of finished and of running trials, by number."""
        if not running:
            return self._observed
        numbers = self._numbers + [one.number for one in running]
        both = {name: np.concatenate([own, added[name]]) for name, own in self._observed.items()}
        if self._numbers and running[0].number < self._numbers[-1]:
            order = np.argsort(numbers)
            return {name: values[order] for name, values in both.items()}
        return both


class Density:
    """The logarithm of the density of one of Optuna's estimators.

    Args:
        estimator: A mixture of products of one density per setting.
        before: Of an estimator of the same settings with many of the same kernels; what is known of them is taken over.

    Source: Watanabe, 2023, arXiv:2304.11127, eq. 6 and section 3.3.
    """

    def __init__(
        self, estimator: parzen_estimator._ParzenEstimator, before: "Density | None" = None
    ) -> None:
        self._estimator = estimator
        mixture = estimator._mixture_distribution
        self._log_weights = np.log(mixture.weights)
        self._terms: dict[int, _Choices | _Steps] = {}  # by place of the setting
        smooth: dict[int, Any] = {}
        for place, kernels in enumerate(mixture.distributions):
            if isinstance(kernels, probability_distributions._BatchedCategoricalDistributions):
                self._terms[place] = _Choices(kernels)
            elif kernels.step != 0.0:
                known = None if before is None else before._terms[place]
                self._terms[place] = _Steps(kernels, known)
            else:
                smooth[place] = kernels
        known_smooth = None if before is None else before._smooth
        self._smooth: _Smooth | None = _Smooth(smooth, known_smooth) if smooth else None

    def at(self, points: Mapping[str, Array]) -> Array:
        """Returns it at points, one number for each.

        Args:
            points: Values by setting, each (points,).
        """
        rows = np.array(list(points.values()))
        smooth = None if self._smooth is None else self._smooth.on_scale(rows)
        if self._smooth is not None and smooth is None:  # rounded to beyond an end, where it is 0
            return self._estimator.log_pdf(dict(points))
        total = np.zeros((rows.shape[1], len(self._log_weights)))  # (points, kernels)
        for place, term in self._terms.items():
            term.add(total, rows[place])
        if self._smooth is not None and smooth is not None:
            self._smooth.add(total, smooth)
        total += self._log_weights
        highest = total.max(axis=1)
        highest[np.isneginf(highest)] = 0.0
        total -= highest[:, None]
        with np.errstate(divide="ignore"):
            found: Array = np.log(np.exp(total).sum(axis=1)) + highest
        return found


class _Choices:
    def __init__(self, kernels: Any) -> None:
        self._logs = np.ascontiguousarray(np.log(kernels.weights).T)  # (choices, kernels)

    def add(self, total: Array, row: Array) -> None:
        """Adds what the setting contributes to (points, kernels)."""
        total += self._logs[row.astype(np.int64)]


class _Steps:
    """Kernels of which many are the same, over values of which few are different."""

    def __init__(self, kernels: Any, before: Any) -> None:
        unique = probability_distributions._unique_inverse_2d
        self._mu, self._sigma, self._inverse = unique(kernels.mu, kernels.sigma)
        self._kernels = kernels
        self._masses: dict[float, Array] = {}  # of the different kernels, by value
        if (
            before is not None
            and np.array_equal(before._mu, self._mu)
            and np.array_equal(before._sigma, self._sigma)
        ):
            self._masses, self._whole = before._masses, before._whole
        else:
            low, high = kernels.adapted_low - self._mu, kernels.adapted_high - self._mu
            self._whole = _truncnorm._log_gauss_mass(low / self._sigma, high / self._sigma)

    def add(self, total: Array, row: Array) -> None:
        """Adds what the setting contributes to (points, kernels)."""
        values, places = np.unique(row, return_inverse=True)
        if len(values) * len(self._mu) < _FEW:
            new = np.array([one for one in values.tolist() if one not in self._masses])
            if len(new):
                self._masses |= zip(new.tolist(), self._masses_at(new), strict=True)
            masses = np.array([self._masses[one] for one in values.tolist()])
        else:
            masses = self._masses_at(values)
        total += masses[:, self._inverse][places]
        total -= self._whole[self._inverse]

    def _masses_at(self, values: Array) -> Array:
        """Returns the logarithms of what the different kernels have around values, (values, kernels)."""
        half = self._kernels.step / 2
        left, right = values - half, values + half
        if self._kernels.is_log:
            left, right = np.log(left), np.log(right)
        found: Array = probability_distributions._log_gauss_mass_unique(
            (left[:, None] - self._mu) / self._sigma, (right[:, None] - self._mu) / self._sigma
        )
        return found


class _Smooth:
    """Truncated normal densities of all settings without steps; their sum is what is added."""

    def __init__(self, kernels: Mapping[int, Any], before: "_Smooth | None") -> None:
        self._kernels = kernels
        self._lows = np.asarray([one.adapted_low for one in kernels.values()])
        self._highs = np.asarray([one.adapted_high for one in kernels.values()])
        self._mus = np.asarray([one.mu for one in kernels.values()])  # (settings, kernels)
        self._sigmas = np.asarray([one.sigma for one in kernels.values()])
        self._masses = self._all_masses(before)
        self._log_sigmas = np.log(self._sigmas)

    def _all_masses(self, before: "_Smooth | None") -> Array:
        """Returns the logarithms of what is left of the kernels between the ends."""
        num = self._mus.shape[1]
        is_new = np.ones(num, dtype=bool)
        if before is not None and max(self._mus.size, before._mus.size) < _FEW:
            both = slice(min(num, before._mus.shape[1]))
            is_new[both] = (self._mus[:, both] != before._mus[:, both]).any(axis=0)
            is_new[both] |= (self._sigmas[:, both] != before._sigmas[:, both]).any(axis=0)
        mus, sigmas = self._mus[:, is_new].T, self._sigmas[:, is_new].T
        masses = np.empty_like(self._mus)
        masses[:, is_new] = _truncnorm._log_gauss_mass(
            (self._lows - mus) / sigmas, (self._highs - mus) / sigmas
        ).T
        if before is not None and not is_new.all():
            masses[:, ~is_new] = before._masses[:, :num][:, ~is_new[: before._mus.shape[1]]]
        return masses

    def on_scale(self, rows: Array) -> Array | None:
        """Returns its rows of (settings, points) as the kernels have them; None if a point is beyond an end."""
        found = np.array(
            [
                np.log(rows[place]) if one.is_log else rows[place]
                for place, one in self._kernels.items()
            ]
        )
        is_between = (self._lows <= found.min(axis=1)) & (found.max(axis=1) <= self._highs)
        return found if is_between.all() else None

    def add(self, total: Array, rows: Array) -> None:
        """Adds what the settings contribute to (points, kernels)."""
        terms = []
        columns = (rows, self._mus, self._sigmas, self._masses, self._log_sigmas)
        for row, mu, sigma, mass, log_sigma in zip(*columns, strict=True):
            term = row[:, None] - mu
            term /= sigma
            term *= term
            term *= -0.5
            term -= _truncnorm._norm_pdf_logC
            term -= mass
            term -= log_sigma
            terms.append(term)
        total += terms[0] if len(terms) == 1 else np.stack(terms, axis=-1).sum(axis=-1)
