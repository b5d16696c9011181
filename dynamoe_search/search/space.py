"""The space of designs: every value that a study file leaves open is one Optuna parameter.

Parameters are named by their dotted path in the file: `router.tau`, `losses.load_balance`,
`train.learning_rate`.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import BaseTrial

from dynamoe_search.moe.schedules import experts_per_layer
from dynamoe_search.records import Candidate
from dynamoe_search.search.designs import (
    MODEL_PATHS,
    SHAPE,
    TRAIN_PATHS,
    Params,
    applicable_paths,
    candidate_from,
    decide,
    router_paths,
    schedule_config,
    schedule_paths,
    setting,
)
from dynamoe_search.search.distributions import (
    all_values,
    distribution_of,
    lies_in,
    num_values,
    only_value,
    suggest_from,
)
from dynamoe_search.specs import StudySpec, values_of

_MOST_SCHEDULES = 50_000  # above this many, bounds replace enumeration


def suggest(trial: BaseTrial, spec: StudySpec) -> Params:
    """Returns the open settings of one design, sampled with any Optuna trial.

    Args:
        trial: A trial of a study, or an `optuna.trial.FixedTrial` that replays known values.
        spec: The study; what it fixes is not sampled.
    """
    params: Params = {}

    def pick(path: str, value: Any) -> Any:
        distribution = distribution_of(value)
        if distribution is None:
            return only_value(value)
        params[path] = suggest_from(trial, path, distribution)
        return params[path]

    decide(spec, pick)
    return params


@dataclass(frozen=True)
class Space:
    """All designs that a study can propose."""

    spec: StudySpec

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Every open setting that some design of this study reads, in a fixed order."""
        found: dict[str, BaseDistribution] = {}
        for shape, kind in itertools.product(self.shapes, self.kinds):
            for path in applicable_paths(self.spec, shape, kind):
                distribution = distribution_of(setting(self.spec, path))
                if distribution is not None:
                    found[path] = distribution
        return found

    @property
    def shapes(self) -> tuple[str, ...]:
        """The shapes that may be proposed."""
        return tuple(dict.fromkeys(values_of(self.spec.schedule.shape)))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The router kinds that may be proposed."""
        return tuple(dict.fromkeys(values_of(self.spec.router.kind)))

    def distributions_of(self, params: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        """Returns the distributions that belong to a set of sampled values."""
        return {path: self.distributions[path] for path in params}

    def contains(self, candidate: Candidate, params: Mapping[str, Any]) -> bool:
        """Tells whether the values describe a design of this space, and this one."""
        if not all(
            path in self.distributions and lies_in(self.distributions[path], value)
            for path, value in params.items()
        ):
            return False
        try:
            same = candidate_from(params, self.spec, candidate.ordinal)
        except KeyError:  # a value that applies is missing
            return False
        return same.design_hash == candidate.design_hash

    @cached_property
    def widest_schedule(self) -> int:
        """Most experts that a layer of a searched design starts with.

        No layer has more than max_experts, unless a total forces more than that on the average
        layer.
        """
        schedule = self.spec.schedule
        widest: int = max(values_of(schedule.max_experts))
        if schedule.match == "total" and schedule.total_experts is not None:
            layers = min(values_of(self.spec.model.num_layers))
            widest = max(widest, math.ceil(max(values_of(schedule.total_experts)) / layers))
        return widest

    @cached_property
    def num_slots(self) -> int:
        """Experts of the widest layer of all designs and references, which packs are padded to."""
        can_adapt = any(values_of(self.spec.adaptive.enabled)) and "top-any" in self.kinds
        grown = self.spec.adaptive.max_experts if can_adapt else 1
        return max(self.widest_schedule, grown)

    @cached_property
    def size(self) -> int | None:
        """Number of distinct designs, None if a setting is continuous.

        Different settings that give the same experts per layer count once, unless there are more
        than 50,000 schedules; then this is an upper bound.
        """
        rest = _product(self.spec, (*MODEL_PATHS[:1], *MODEL_PATHS[2:], *TRAIN_PATHS))
        routers = [_product(self.spec, router_paths(kind)) for kind in self.kinds]
        if rest is None or any(count is None for count in routers):
            return None
        return rest * sum(count for count in routers if count is not None) * self._num_schedules

    @cached_property
    def _num_schedules(self) -> int:
        upper = 0
        for shape in self.shapes:
            paths = ("model.num_layers", *schedule_paths(self.spec, shape))
            upper += _product(self.spec, paths) or 0
        if upper > _MOST_SCHEDULES:
            return upper
        return len(set(self._schedules()))

    def _schedules(self) -> Iterator[tuple[int, ...]]:
        """Yields the experts per layer of every combination of settings, with repetitions."""
        for shape in self.shapes:
            paths = ("model.num_layers", *schedule_paths(self.spec, shape))
            options = [all_values(setting(self.spec, path)) for path in paths]
            for combination in itertools.product(*options):
                values = {SHAPE: shape, **dict(zip(paths, combination, strict=True))}
                config = schedule_config(values, self.spec)
                yield experts_per_layer(config, values["model.num_layers"])


def _product(spec: StudySpec, paths: Iterable[str]) -> int | None:
    product = 1
    for path in paths:
        distribution = distribution_of(setting(spec, path))
        count = 1 if distribution is None else num_values(distribution)
        if count is None:
            return None
        product *= count
    return product
