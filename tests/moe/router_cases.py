"""Three configurations of every router kind, and small helpers that the router tests share."""

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from dynamoe_search.moe.routers import Router, build_router
from dynamoe_search.moe.routing import Routing
from dynamoe_search.records import RouterConfig

D_MODEL = 8
_SOFT = {"temperature": 0.7, "noise": 0.0, "bias_rate": 0.01}
_NOISY = {"temperature": 1.3, "noise": 0.2, "bias_rate": 0.0}


def _three(kind: str, *settings: dict[str, Any]) -> tuple[RouterConfig, ...]:
    return tuple(RouterConfig(kind=kind, **own) for own in settings)


CASES: dict[str, tuple[RouterConfig, ...]] = {
    "percentile": _three("percentile", *({"tau": tau} | _SOFT for tau in (0.25, 0.5, 0.8))),
    "percentile, noisy": _three("percentile", *({"tau": tau} | _NOISY for tau in (0.25, 0.5, 0.8))),
    "pooled-quantile": _three(
        "pooled-quantile", *({"tau": tau, "momentum": 0.9} | _SOFT for tau in (0.25, 0.5, 0.8))
    ),
    "pooled-quantile, noisy": _three(
        "pooled-quantile", *({"tau": tau, "momentum": 0.5} | _NOISY for tau in (0.3, 0.5, 0.8))
    ),
    "relative-to-max": _three(
        "relative-to-max", *({"rho": rho} | _SOFT for rho in (0.3, 0.6, 1.0))
    ),
    "range-fraction": _three("range-fraction", *({"tau": tau} | _SOFT for tau in (0.25, 0.5, 0.8))),
    "top-any": _three(
        "top-any",
        *(
            {
                "threshold": threshold,
                "threshold_spread": 0.1,
                "logit_scale": scale,
                "learn_logit_scale": False,
                "weight_gradient": "sum",
            }
            for threshold, scale in ((0.0, 1.0), (0.2, 10.0), (-0.2, 3.0))
        ),
    ),
    "top-any, learned": _three(
        "top-any",
        *(
            {
                "threshold": threshold,
                "threshold_spread": 0.0,
                "logit_scale": scale,
                "learn_logit_scale": True,
                "weight_gradient": "constant",
            }
            for threshold, scale in ((0.0, 1.0), (0.3, 10.0), (-0.2, 3.0))
        ),
    ),
    "top-p": _three(
        "top-p", *({"p": p, "temperature": 0.7, "bias_rate": 0.01} for p in (0.0, 0.4, 0.9))
    ),
    "top-k, before": _three("top-k", *({"k": k, "softmax": "before"} | _SOFT for k in (1, 2, 9))),
    "top-k, after": _three("top-k", *({"k": k, "softmax": "after"} | _NOISY for k in (1, 2, 9))),
    "expert-choice": _three(
        "expert-choice",
        *({"capacity": c, "temperature": 0.7, "momentum": 0.9} for c in (0.5, 1.5, 2.0)),
    ),
    "relu": _three(
        "relu",
        *(
            {"target_active": t, "sparsity_step": s}
            for t, s in ((1.0, 1.2), (2.0, 1.1), (9.0, 2.0))
        ),
    ),
    "null-experts": _three(
        "null-experts",
        *({"k": k, "null_experts": 3, "temperature": 0.7, "bias_rate": 0.01} for k in (1, 3, 9)),
    ),
    "random-k": _three(
        "random-k",
        *({"histogram": h} for h in ((0.0, 1.0), (0.2, 0.3, 0.5), (0.1,) * 10)),
    ),
    "dense": _three("dense", {}, {}, {}),
}
WIDTHS = (4, 6, 3)  # experts of the three


def make(config: RouterConfig, num_experts: int = 6, seed: int = 0) -> Router:
    """A router whose random start depends on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_router(config, num_experts, D_MODEL)


def draw(num_tokens: int, seed: int = 0) -> Tensor:
    """Random tokens, (tokens, D_MODEL)."""
    return torch.randn(num_tokens, D_MODEL, generator=torch.Generator().manual_seed(seed + 1000))


def tensors_of(router: Router) -> dict[str, Tensor]:
    """Its parameters and buffers by name."""
    return dict(router.named_parameters()) | dict(router.named_buffers())


def padded(router: Router, width: int) -> dict[str, Tensor]:
    """The tensors of a router with zeros added up to `width` experts, part of the autograd graph."""
    wide = tensors_of(router)
    for name, dim in router.expert_dims.items():
        if name in wide:
            shape = list(wide[name].shape)
            shape[dim] = width - shape[dim]
            wide[name] = torch.cat([wide[name], wide[name].new_zeros(shape)], dim)
    return wide


def run_padded(router: Router, width: int, tokens: Tensor, num_open: int) -> Routing:
    """Routes with closed zero slots behind the router's own."""
    is_open = torch.arange(width) < num_open
    routing: Routing = functional_call(router, padded(router, width), (tokens, is_open))
    return routing


def learn_running_values(router: Router, tokens: Tensor, is_open: Tensor) -> None:
    """Does what a trainer does with the running values after one training step."""
    router.train()
    for name, value in router(tokens, is_open).state.items():
        router.get_buffer(name).copy_(value)


def rows_of(chosen: list[dict[int, float]], width: int) -> Tensor:
    """Gates (tokens, experts) from an oracle's answer."""
    return torch.tensor([[own.get(e, 0.0) for e in range(width)] for own in chosen])
