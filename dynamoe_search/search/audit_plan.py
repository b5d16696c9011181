"""Which designs answer which claims of an audit: made from the parent's file, before anything is trained.

Everything that the parent searches takes the middle of its range or of its numbers, or the first of its names, with
two exceptions. Schedules run between the fewest and the most experts of the space, since a flat schedule has no shape.
Routers are compared on a uniform schedule with the most experts, as the references are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dynamoe_search.auditing import LEAST_UPDATES, AuditPlan, Curve, PlannedDesign
from dynamoe_search.errors import UsageError
from dynamoe_search.records import (
    AdaptiveConfig,
    Candidate,
    FrontMember,
    LossWeights,
    RouterConfig,
)
from dynamoe_search.search.designs import KIND, SHAPE, build_candidate, decide
from dynamoe_search.search.distributions import middle_value
from dynamoe_search.search.references import LOAD_BALANCE, plain_top_k
from dynamoe_search.specs import StudySpec, values_of
from dynamoe_search.specs.vocabulary import (
    IMAGE_BACKBONES,
    LANGUAGE_BACKBONES,
    LOOKS_ACROSS_TOKENS,
    SHAPES,
    TEXT_NAMES,
)

DYNAMIC = (
    "percentile",
    "pooled-quantile",
    "relative-to-max",
    "range-fraction",
    "top-any",
    "top-p",
    "expert-choice",
    "relu",
    "null-experts",
)
"""The routers that vary the number of experts per token, or are said to."""
MOST_FRONT_MEMBERS = 3
MOST_RIVALS = 8
UPDATES = 12
"""Changes of adaptive experts that a training should have room for."""


def plan_audit(
    spec: StudySpec,
    claims: Sequence[str],
    *,
    epochs: int,
    steps_per_epoch: int,
    front: Sequence[FrontMember] = (),
) -> AuditPlan:
    """Returns what an audit trains; a design that several claims need stands there once.

    For `settling` nothing is trained if so short a training could not answer it, see `epochs_to_settle`.

    Args:
        spec: The parent's file.
        claims: Keys of the claims that are asked.
        epochs: Of every run.
        steps_per_epoch: Minibatches of the training part.
        front: The parent's, whose best dynamic designs are held against top-k too.

    Raises:
        UsageError: The space has one expert per layer, or a backbone of the user's own.
    """
    designs = _Designs(spec, epochs)
    _check(spec, designs.most)
    asked = set(claims)
    is_text = spec.data.name in TEXT_NAMES
    dynamic = [kind for kind in DYNAMIC if not (is_text and kind in LOOKS_ACROSS_TOKENS)]
    shapes = designs.shapes() if "schedule" in asked else {}
    compared = asked & {"variation", "hardness", "gradient", "activated"}
    routers = {kind: designs.router(kind) for kind in dynamic} if compared else {}
    curves = []
    if asked & {"gradient", "activated"}:
        rivals = designs.rivals()
        curves = [Curve(label=kind, design=routers[kind], rivals=rivals) for kind in dynamic]
    if "activated" in asked:
        curves += designs.front_curves(front)
    steps = epochs * steps_per_epoch
    adaptive = designs.adaptive(steps) if "settling" in asked and designs.settle(steps) else None
    return AuditPlan(
        designs=tuple(PlannedDesign(name=name, candidate=one) for name, one in designs.all.items()),
        shapes=shapes,
        routers=routers,
        curves=tuple(curves),
        controls=tuple(dynamic) if "hardness" in asked else (),
        adaptive=adaptive,
        claims=tuple(claims),
        is_text=is_text,
    )


def epochs_to_settle(spec: StudySpec, *, epochs: int, steps_per_epoch: int) -> int:
    """Returns after how many epochs, at least those given, it can be judged whether adaptive experts settle."""
    designs = _Designs(spec, epochs)
    while not designs.settle(epochs * steps_per_epoch):
        epochs += 1
    return epochs


def _check(spec: StudySpec, most_experts: int) -> None:
    own = (*IMAGE_BACKBONES, *LANGUAGE_BACKBONES)
    if ":" in spec.model.backbone:
        raise UsageError(
            f"audit builds networks of its own, and cannot for the backbone {spec.model.backbone!r}; "
            f"audit a study with the backbone {', '.join(own[:-1])} or {own[-1]}"
        )
    if most_experts < 2:
        raise UsageError(
            f"the study {spec.study.name!r} has one expert per layer, and nothing to route; "
            "audit one with schedule.max_experts of at least 2"
        )


def random_control(like: Candidate, histogram: Sequence[float]) -> Candidate:
    """Returns a design with another router: each token draws K from a histogram, and its experts at random."""
    router = RouterConfig(kind="random-k", histogram=tuple(histogram))
    return replace(like, router=router, losses=LossWeights(), adaptive=None)


class _Designs:
    """The designs of an audit by name, equal ones once.

    Args:
        spec: The parent's file.
        epochs: Of every run.
    """

    def __init__(self, spec: StudySpec, epochs: int) -> None:
        self.spec = spec
        self.epochs = epochs
        self.all: dict[str, Candidate] = {}
        self.least = min(values_of(spec.schedule.min_experts))
        self.most = max(values_of(spec.schedule.max_experts))
        self._names: dict[str, str] = {}

    def shapes(self) -> dict[str, dict[str, str]]:
        """Adds all shapes at equal total and at equal maximum, with the parent's first router."""
        kind = middle_value(self.spec.router.kind)
        return {
            matching: {
                shape: self._add(f"{shape}, {words}", self._build(kind, shape, matching))
                for shape in SHAPES
            }
            for matching, words in (("total", "equal total"), ("max", "equal maximum"))
        }

    def router(self, kind: str) -> str:
        """Adds a router on the uniform schedule."""
        return self._add(kind, self._build(kind, "uniform", "max"))

    def rivals(self) -> dict[int, str]:
        """Adds top-k on the uniform schedule, for every k or for eight of them."""
        spread = [round(self.most ** (step / (MOST_RIVALS - 1))) for step in range(MOST_RIVALS)]
        every = range(1, self.most + 1) if self.most <= MOST_RIVALS else sorted(set(spread))
        like = self._build("top-k", "uniform", "max")
        return {k: self._add(f"top-{k}", _top_k(like, k)) for k in every}

    def front_curves(self, front: Sequence[FrontMember]) -> list[Curve]:
        """Adds the best dynamic designs of the front, each with top-k of the k around its mean K."""
        dynamic = [one for one in front if one.candidate.router.kind in DYNAMIC and one.routing]
        if self.spec.data.name in TEXT_NAMES:
            dynamic.sort(key=lambda one: one.metrics["validation_loss"])
        else:
            dynamic.sort(key=lambda one: -one.metrics["accuracy"])
        curves = []
        for member in dynamic[:MOST_FRONT_MEMBERS]:
            own = self._trained(member.candidate)
            label = f"trial {member.trial} ({own.router.kind})"
            mean_k = sum(layer.mean_k for layer in member.routing) / len(member.routing)
            most = max(member.experts_per_layer)
            first = max(1, min(math.floor(mean_k) - 1, most - 1))
            last = max(first, min(math.ceil(mean_k) + 1, most))
            like = replace(own, experts_per_layer=member.experts_per_layer)
            rivals = {
                k: self._add(f"trial {member.trial} with top-{k}", _top_k(like, k))
                for k in range(first, last + 1)
            }
            curves.append(Curve(label=label, design=self._add(label, own), rivals=rivals))
        return curves

    def adaptive(self, num_steps: int) -> str:
        """Adds top-any with experts that come and go, see `_adaptation`."""
        like = self._build("top-any", "uniform", "max")
        return self._add("top-any, adaptive", replace(like, adaptive=self._adaptation(num_steps)))

    def settle(self, num_steps: int) -> bool:
        """Tells whether the first and the last third of a training both have the updates that `settling` needs."""
        config = self._adaptation(num_steps)
        steps = range(config.update_at, num_steps + 1, config.period)
        thirds = (
            sum(3 * one <= num_steps for one in steps),
            sum(3 * one > 2 * num_steps for one in steps),
        )
        return min(thirds) >= LEAST_UPDATES

    def _adaptation(self, num_steps: int) -> AdaptiveConfig:
        """Returns how experts come and go, in periods of which twelve fit into the training.

        The parent's own periods are taken if nine of them fit, which gives every third of the training its updates.
        """
        own = self.spec.adaptive
        slots = own.max_experts if any(values_of(own.enabled)) else min(16, 2 * self.most)
        period, start, update = own.period, own.record_from, own.update_at
        if num_steps < 9 * period:
            period = max(3, num_steps // UPDATES)
            start, update = period // 3, 2 * period // 3  # as published: 300 and 600 of 900
        return AdaptiveConfig(
            max_experts=max(slots, self.most),
            period=period,
            record_from=start,
            update_at=update,
            add=own.add,
            remove=own.remove,
            new_expert=own.new_expert,
        )

    def _add(self, name: str, candidate: Candidate) -> str:
        """Returns the name under which the design stands; that of an equal one if there is one."""
        known = self._names.setdefault(candidate.design_hash, name)
        if known == name:
            self.all[name] = candidate
        return known

    def _trained(self, candidate: Candidate) -> Candidate:
        return replace(candidate, train=replace(candidate.train, epochs=self.epochs))

    def _build(self, kind: str, shape: str, matching: str) -> Candidate:
        schedule = self.spec.schedule.model_copy(update={"match": matching, "total_experts": None})
        spec = self.spec.model_copy(update={"schedule": schedule})
        fixed: Mapping[str, Any] = {
            KIND: kind,
            SHAPE: shape,
            "schedule.min_experts": self.least,
            "schedule.max_experts": self.most,
            "adaptive.enabled": False,
        }

        def pick(path: str, value: Any) -> Any:
            return fixed[path] if path in fixed else middle_value(value)

        return self._trained(build_candidate(decide(spec, pick), spec, 0))


def _top_k(like: Candidate, k: int) -> Candidate:
    """The same design with top-k: no noise, no bias, and at least the load-balance loss of the references."""
    balance = like.losses.load_balance or LOAD_BALANCE
    losses = LossWeights(
        load_balance=balance, normalize_load_balance=like.losses.normalize_load_balance
    )
    return replace(like, router=plain_top_k(k), losses=losses, adaptive=None)
