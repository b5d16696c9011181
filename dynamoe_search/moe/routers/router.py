"""`Router`: what all routing rules have in common.

Legend: tokens = all tokens of the batch, experts = expert slots of the layer. A router is an
ordinary module. Numbers that differ between candidates are 0-d float32 buffers and no Python code
branches on them, so that routers with the same `signature` run together under `torch.func.vmap`
with their tensors stacked.
"""

from collections.abc import Hashable
from typing import ClassVar

import torch
from torch import Tensor, nn

from dynamoe_search.moe.routing import Routing


class Router(nn.Module):
    """Base of the routing rules; a rule implements `route`.

    Args:
        settings: Numbers of the rule, each kept as a 0-d buffer of that name.
    """

    kind: ClassVar[str]
    """The rule's name in a study file."""
    is_batch_dependent: ClassVar[bool] = False
    """Whether a token's experts depend on its batch in training; in evaluation only those of `random-k` do."""
    expert_dims: ClassVar[dict[str, int]] = {"weight": 0}
    """Which axis of a parameter or buffer is over experts; packs pad it with zeros."""

    def __init__(self, **settings: float) -> None:
        super().__init__()
        for name, value in settings.items():
            self.register_buffer(name, torch.tensor(float(value)), persistent=False)

    def signature(self) -> Hashable:
        """Returns the choices that are not tensors; routers that agree on them can be stacked."""
        return (self.kind,)

    def runs_stacked(self) -> bool:
        """Tells whether `route` also decides for many routers at once, of the same signature.

        Then tokens and all tensors of two axes have a leading candidates axis, numbers come as (candidates, 1, 1), and
        one number per expert as (candidates, 1, experts). It takes less Python than `torch.func.vmap`, by which all
        others are stacked.
        """
        return False

    def most_chosen(self) -> int | None:
        """Returns the largest number of experts that a token can get; None if nothing but their number bounds it."""
        return None

    def forward(self, tokens: Tensor, is_open: Tensor) -> Routing:
        """Returns the decision for `tokens` (tokens, d_model), in float32 even under autocast.

        Args:
            tokens: (tokens, d_model).
            is_open: (experts,) bool, which slots may be selected.
        """
        if not torch.is_autocast_enabled(tokens.device.type):  # switching it off takes time, too
            return self.route(tokens.float(), is_open)
        with torch.autocast(tokens.device.type, enabled=False):
            return self.route(tokens.float(), is_open)

    def route(self, tokens: Tensor, is_open: Tensor) -> Routing:
        """Returns the decision for float32 `tokens` (tokens, d_model)."""
        raise NotImplementedError


def linear_weight(num_rows: int, d_model: int) -> nn.Parameter:
    """Returns rows (rows, d_model) drawn as in `nn.Linear`: uniform within d_model**-0.5 of 0."""
    bound = d_model**-0.5
    return nn.Parameter(torch.empty(num_rows, d_model).uniform_(-bound, bound))


def decide(
    *,
    gate: Tensor,
    mask: Tensor,
    probs: Tensor,
    logits: Tensor,
    weight: Tensor,
    is_open: Tensor,
    null_load: Tensor | None = None,
    state: dict[str, Tensor] | None = None,
) -> Routing:
    """Returns a `Routing`; sets `logits` to 0 in closed slots, and `unrouted` to 0."""
    return Routing(
        gate=gate,
        mask=mask,
        probs=probs,
        logits=torch.where(is_open, logits, 0.0),
        weight=weight,
        is_open=is_open,
        unrouted=weight.new_zeros(weight.shape[-1]),
        null_load=weight.new_zeros(()) if null_load is None else null_load,
        state=state or {},
    )
