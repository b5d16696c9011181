"""Routing rules: how a token chooses its experts. `build_router` makes one from a config."""

from collections.abc import Callable

from dynamoe_search.moe.routers.controls import Dense, RandomK
from dynamoe_search.moe.routers.expert_choice import ExpertChoice
from dynamoe_search.moe.routers.relu import Relu
from dynamoe_search.moe.routers.router import Router
from dynamoe_search.moe.routers.thresholds import (
    Percentile,
    PooledQuantile,
    RangeFraction,
    RelativeToMax,
)
from dynamoe_search.moe.routers.top_any import TopAny
from dynamoe_search.moe.routers.top_k import NullExperts, TopK
from dynamoe_search.moe.routers.top_p import TopP
from dynamoe_search.records import RouterConfig
from dynamoe_search.specs.vocabulary import ROUTER_SETTINGS, RouterKind

_CLASSES: tuple[type[Router], ...] = (
    Percentile,
    PooledQuantile,
    RelativeToMax,
    RangeFraction,
    TopAny,
    TopP,
    TopK,
    ExpertChoice,
    Relu,
    NullExperts,
    RandomK,
    Dense,
)
ROUTERS: dict[str, type[Router]] = {rule.kind: rule for rule in _CLASSES}
"""The class of each kind of router."""


def build_router(config: RouterConfig, num_experts: int, d_model: int) -> Router:
    """Returns a router of the kind and with the settings of `config`.

    Its start is drawn from torch's global generator.

    Args:
        config: The rule; every setting that its kind reads must be given.
        num_experts: Expert slots of the layer.
        d_model: Width of the tokens.

    Raises:
        ValueError: The kind is unknown, or a setting that it reads is None.
    """
    if config.kind not in ROUTERS:
        known = ", ".join(ROUTERS)
        raise ValueError(f"router.kind must be one of {known}, got {config.kind!r}")
    kind: RouterKind = config.kind  # type: ignore[assignment]
    settings = {name: getattr(config, name) for name in ROUTER_SETTINGS[kind]}
    missing = [name for name, value in settings.items() if value is None]
    if missing:
        raise ValueError(
            f"router {kind} needs {', '.join(missing)}, got None; set it in the config"
        )
    make: Callable[..., Router] = ROUTERS[kind]
    return make(num_experts, d_model, **settings)


__all__ = ["ROUTERS", "Router", "build_router"]
