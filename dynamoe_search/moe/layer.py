"""`MoELayer`: norm, router and experts as an ordinary module. A user's own backbone is built from it."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from dynamoe_search.moe.activations import Activation
from dynamoe_search.moe.experts import Experts
from dynamoe_search.moe.norms import RMSNorm
from dynamoe_search.moe.routing import Routing


class MoELayer(nn.Module):
    """A pre-norm residual mixture of experts: y = x + sum over chosen experts of weight * expert(norm(x)).

    Args:
        d_model: Width of the tokens.
        d_expert: Hidden width of one expert.
        num_slots: Experts that exist, open or not.
        router: A routing rule, see `moe.routers`.
        num_open: Experts that are open at the start, all by default.
        expert: What stands between the two layers of an expert: `gelu` or `swiglu`.
        norm: Of the layer's input: `layer` or `rms`.
    """

    is_open: Tensor

    def __init__(
        self,
        d_model: int,
        d_expert: int,
        num_slots: int,
        router: nn.Module,
        num_open: int | None = None,
        *,
        expert: Activation = "gelu",
        norm: Literal["layer", "rms"] = "layer",
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model) if norm == "layer" else RMSNorm(d_model)
        self.router: Any = router
        self.experts = Experts(d_model, d_expert, num_slots, expert)
        self.sums_unrouted = True  # a pack in which nobody adds experts has no use for it
        num_open = num_slots if num_open is None else num_open
        self.register_buffer("is_open", torch.arange(num_slots) < num_open)

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """Returns the new tokens, shaped like `x` (..., d_model), and how they were routed."""
        lead = x.shape[: self.is_open.dim() - 1]  # nothing, or candidates, see `moe.stacked`
        tokens = self.norm(x).reshape(*lead, -1, x.shape[-1])  # (..., tokens, d_model)
        routing: Routing = self.router(tokens, self.is_open)
        y = self.experts(tokens, routing.gate, routing.mask)
        if self.sums_unrouted:
            alone = (~routing.mask.any(-1)).float()[..., None, :]  # (..., 1, tokens)
            with torch.autocast(x.device.type, enabled=False):
                unrouted = (alone @ tokens.detach().float()).squeeze(-2)
            routing = routing._replace(unrouted=unrouted)
        return x + y.reshape(x.shape), routing
