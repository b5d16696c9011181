"""From a study's values to a `Candidate`: which settings apply, and what the design then is.

Two settings decide which others apply: `schedule.shape` and `router.kind`. A setting that the
chosen shape or kind does not read is neither sampled nor stored.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from dynamoe_search.moe.schedules import experts_per_layer
from dynamoe_search.records import (
    AdaptiveConfig,
    Candidate,
    LossWeights,
    ModelConfig,
    RouterConfig,
    ScheduleConfig,
    TrainConfig,
)
from dynamoe_search.search.distributions import distribution_of, only_value
from dynamoe_search.specs import StudySpec
from dynamoe_search.specs.vocabulary import ROUTER_LOSSES, ROUTER_SETTINGS

SHAPE = "schedule.shape"
KIND = "router.kind"
MODEL_PATHS = ("model.d_model", "model.num_layers", "model.d_expert", "model.dropout")
TRAIN_PATHS = ("train.learning_rate", "train.weight_decay")
Params = dict[str, Any]
"""Values of settings by dotted path."""

_WAVES = ("wave-up", "wave-down")


def setting(spec: StudySpec, path: str) -> Any:
    """Returns what a study file says at a dotted path: a value, a tuple of choices or a range."""
    section, _, name = path.partition(".")
    return getattr(getattr(spec, section), name)


def schedule_paths(spec: StudySpec, shape: str) -> tuple[str, ...]:
    """Returns the settings of `[schedule]` that a shape reads, the shape itself apart."""
    names = []
    is_flat = shape == "uniform"
    is_total_given = spec.schedule.match == "total" and spec.schedule.total_experts is not None
    if not is_flat or (spec.schedule.match == "total" and not is_total_given):
        names.append("min_experts")
    if not (is_flat and is_total_given):
        names.append("max_experts")
    if is_total_given:
        names.append("total_experts")
    if shape in _WAVES:
        names.append("cycles")
    if not is_flat:
        names.append("ramp")
    return tuple(f"schedule.{name}" for name in names)


def router_paths(kind: str) -> tuple[str, ...]:
    """Returns the settings of `[router]`, `[losses]`, `[adaptive]` that a router kind reads."""
    settings = ROUTER_SETTINGS[kind]  # type: ignore[index]
    names = [f"router.{name}" for name in settings if name != "histogram"]  # one value: a tuple
    names += [f"losses.{name}" for name in ROUTER_LOSSES[kind]]  # type: ignore[index]
    if kind == "top-any":
        names.append("adaptive.enabled")
    return tuple(names)


def applicable_paths(spec: StudySpec, shape: str, kind: str) -> tuple[str, ...]:
    """Returns every setting that may be open and that a design of this shape and kind reads."""
    return (
        *MODEL_PATHS,
        SHAPE,
        *schedule_paths(spec, shape),
        KIND,
        *router_paths(kind),
        *TRAIN_PATHS,
    )


def decide(spec: StudySpec, pick: Callable[[str, Any], Any]) -> Params:
    """Returns one value for every setting that applies; `pick(path, what the file says)` chooses.

    The shape and the router kind are picked before the settings that depend on them.
    """
    shape = pick(SHAPE, spec.schedule.shape)
    kind = pick(KIND, spec.router.kind)
    values: Params = {SHAPE: shape, KIND: kind}
    for path in applicable_paths(spec, shape, kind):
        if path not in values:
            values[path] = pick(path, setting(spec, path))
    return values


def candidate_from(
    params: Mapping[str, Any], spec: StudySpec, ordinal: int, reference: str | None = None
) -> Candidate:
    """Returns the design that a study's fixed values and one set of sampled values describe.

    Args:
        params: Sampled values by dotted path; a fixed setting named here takes this value instead.
        spec: The study.
        ordinal: How many designs the study has proposed before.
        reference: Name of the reference design, None for a searched one.

    Raises:
        KeyError: An open setting that applies is missing in `params`.
    """

    def pick(path: str, value: Any) -> Any:
        if path in params or distribution_of(value) is not None:
            return params[path]
        return only_value(value)

    return build_candidate(decide(spec, pick), spec, ordinal, reference)


def build_candidate(
    values: Params, spec: StudySpec, ordinal: int, reference: str | None = None
) -> Candidate:
    """Returns the design of a full set of values, as `decide` makes it."""
    model = _model_config(values, spec)
    schedule = schedule_config(values, spec)
    adaptive = _adaptive_config(values, spec)
    experts = experts_per_layer(schedule, model.num_layers)
    if adaptive is not None:
        experts = tuple(min(number, adaptive.max_experts) for number in experts)
    return Candidate(
        study_seed=spec.study.seed,
        ordinal=ordinal,
        model=model,
        schedule=schedule,
        experts_per_layer=experts,
        router=_router_config(values, spec),
        losses=_loss_weights(values, spec),
        train=_train_config(values, spec),
        adaptive=adaptive,
        reference=reference,
    )


def _model_config(values: Params, spec: StudySpec) -> ModelConfig:
    return ModelConfig(
        backbone=spec.model.backbone,
        d_model=values["model.d_model"],
        num_layers=values["model.num_layers"],
        d_expert=values["model.d_expert"],
        num_heads=spec.model.num_heads,
        patch_size=spec.model.patch_size,
        dropout=values["model.dropout"],
        moe_every=spec.model.moe_every,
        expert=spec.model.expert,
        tie_embeddings=spec.model.tie_embeddings,
    )


def schedule_config(values: Params, spec: StudySpec) -> ScheduleConfig:
    """Returns the schedule of a design; where one number says it all, both ends are that number."""
    total = values.get("schedule.total_experts")
    highest = values.get("schedule.max_experts")
    if highest is None:  # uniform with a given total: the mean, whatever the range says
        highest = math.ceil(total / values["model.num_layers"])
        lowest = total // values["model.num_layers"]
    else:
        lowest = values.get("schedule.min_experts", highest)
    return ScheduleConfig(
        shape=values[SHAPE],
        min_experts=max(1, lowest),
        max_experts=highest,
        ramp=values.get("schedule.ramp", "linear"),
        cycles=values.get("schedule.cycles", 1),
        match=spec.schedule.match,
        total_experts=total,
    )


def _router_config(values: Params, spec: StudySpec) -> RouterConfig:
    kind = values[KIND]
    names = (name for name in ROUTER_SETTINGS[kind] if name != "histogram")
    settings = {name: values[f"router.{name}"] for name in names}
    if "histogram" in ROUTER_SETTINGS[kind]:
        settings["histogram"] = spec.router.histogram
    return RouterConfig(kind=kind, **settings)


def _loss_weights(values: Params, spec: StudySpec) -> LossWeights:
    weights = {name: values[f"losses.{name}"] for name in ROUTER_LOSSES[values[KIND]]}
    has_balance = weights.get("load_balance", 0.0) != 0.0
    normalize = spec.losses.normalize_load_balance if has_balance else True
    return LossWeights(normalize_load_balance=normalize, **weights)


def _adaptive_config(values: Params, spec: StudySpec) -> AdaptiveConfig | None:
    if not values.get("adaptive.enabled", False):
        return None
    return AdaptiveConfig(**spec.adaptive.model_dump(exclude={"enabled"}))


def _train_config(values: Params, spec: StudySpec) -> TrainConfig:
    settings = spec.train.model_dump()
    settings.update({path.partition(".")[2]: values[path] for path in TRAIN_PATHS})
    return TrainConfig(**settings)
