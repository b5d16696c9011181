"""What Optuna's TPE works out of a study, kept from one draw to the next, and its densities with less work.

For each group of settings that occur together, TPE makes a density of the good trials and one of all others, draws
points from the first and takes the one where the ratio of the two is highest. Optuna works all of that out anew for
each group of each design. But while a cohort is put together no trial finishes: who is good stays the same, and the
others gain one running trial after another. Here that is kept, and every number comes out as Optuna's own does, bit by
bit: it makes the densities, and is left only where its steps are repeated in the order in which it takes them.

That rests on functions that are not for others to use, so it is only done with the very files that were read for it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
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
            self._bad = Density(parzen_estimator._ParzenEstimator(observed, self.group, parameters))
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

    Source: Watanabe, 2023, arXiv:2304.11127, eq. 6 and section 3.3.
    """

    def __init__(self, estimator: parzen_estimator._ParzenEstimator) -> None:
        self._estimator = estimator
        mixture = estimator._mixture_distribution
        self._log_weights = np.log(mixture.weights)
        self._terms: list[tuple[list[int], _Term]] = []
        smooth = []
        for place, kernels in enumerate(mixture.distributions):
            if isinstance(kernels, probability_distributions._BatchedCategoricalDistributions):
                self._terms.append(([place], _choices(kernels)))
            elif kernels.step != 0.0:
                self._terms.append(([place], _steps(kernels)))
            else:
                smooth.append(place)
        self._smooth: list[Any] = [mixture.distributions[place] for place in smooth]
        if smooth:
            self._terms.append((smooth, _continuous(self._smooth)))
        self._smooth_places = smooth

    def at(self, points: Mapping[str, Array]) -> Array:
        """Returns it at points, one number for each.

        Args:
            points: Values by setting, each (points,).
        """
        rows = np.array(list(points.values()))
        for place, kernels in zip(self._smooth_places, self._smooth, strict=True):
            if kernels.is_log:
                rows[place] = np.log(rows[place])
            if (
                not kernels.adapted_low
                <= rows[place].min()
                <= rows[place].max()
                <= kernels.adapted_high
            ):
                return self._estimator.log_pdf(
                    dict(points)
                )  # rounded to beyond an end, where it is 0
        total = np.zeros((rows.shape[1], len(self._log_weights)))  # (points, kernels)
        for places, term in self._terms:
            term(total, rows[places])
        total += self._log_weights
        highest = total.max(axis=1)
        highest[np.isneginf(highest)] = 0.0
        total -= highest[:, None]
        with np.errstate(divide="ignore"):
            found: Array = np.log(np.exp(total).sum(axis=1)) + highest
        return found


_Term: TypeAlias = Callable[[Array, Array], None]
"""Adds what settings contribute to (points, kernels), at points (settings, points)."""


def _choices(kernels: Any) -> _Term:
    logs = np.ascontiguousarray(np.log(kernels.weights).T)  # (choices, kernels)

    def add(total: Array, rows: Array) -> None:
        total += logs[rows[0].astype(np.int64)]

    return add


def _steps(kernels: Any) -> _Term:
    """Kernels of which many are the same, over values of which few are different."""
    mu, sigma, inverse = probability_distributions._unique_inverse_2d(kernels.mu, kernels.sigma)
    low, high, half = kernels.adapted_low, kernels.adapted_high, kernels.step / 2
    whole = _truncnorm._log_gauss_mass((low - mu) / sigma, (high - mu) / sigma)[inverse]

    def add(total: Array, rows: Array) -> None:
        values, places = np.unique(rows[0], return_inverse=True)
        left, right = values - half, values + half
        if kernels.is_log:
            left, right = np.log(left), np.log(right)
        masses = probability_distributions._log_gauss_mass_unique(
            (left[:, None] - mu) / sigma, (right[:, None] - mu) / sigma
        )
        total += masses[:, inverse][places]
        total -= whole

    return add


def _continuous(kernels: Sequence[Any]) -> _Term:
    """Truncated normal densities, whose sum over the settings is added."""
    mus = np.asarray([one.mu for one in kernels])  # (settings, kernels)
    sigmas = np.asarray([one.sigma for one in kernels])
    lows = np.asarray([one.adapted_low for one in kernels])
    highs = np.asarray([one.adapted_high for one in kernels])
    masses = _truncnorm._log_gauss_mass((lows - mus.T) / sigmas.T, (highs - mus.T) / sigmas.T).T
    log_sigmas = np.log(sigmas)

    def add(total: Array, rows: Array) -> None:
        terms = []
        for row, mu, sigma, mass, log_sigma in zip(
            rows, mus, sigmas, np.ascontiguousarray(masses), log_sigmas, strict=True
        ):
            term = row[:, None] - mu
            term /= sigma
            term *= term
            term *= -0.5
            term -= _truncnorm._norm_pdf_logC
            term -= mass
            term -= log_sigma
            terms.append(term)
        if len(terms) == 1:
            total += terms[0]
        else:
            total += np.stack(terms, axis=-1).sum(axis=-1)

    return add
