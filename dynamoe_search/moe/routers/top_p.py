"""Top-p routing: the most probable experts until their probabilities sum to more than p.

Legend: tokens = all tokens of the batch, experts = expert slots of the layer.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from dynamoe_search.moe.routers.router import Router, decide, linear_weight
from dynamoe_search.moe.routers.selection import balancing_bias, masked_softmax, place_of
from dynamoe_search.moe.routing import Routing


class TopP(Router):
    """Keeps the fewest most probable experts whose probabilities sum to more than p.

    The test is strict and the expert that crosses p is kept, so k = 1 + #{j: c_j <= p} for the
    cumulative sums c_j; if none crosses (p >= 1, or rounding) all are kept. The weights are the
    probabilities as they are, not renormalised. A balancing bias changes the order in which experts
    are taken; the sums are of the plain probabilities.

    Args:
        num_experts: Expert slots.
        d_model: Width of the tokens.
        p: Probability to exceed.
        temperature: Divides the logits before the softmax.
        bias_rate: Step of the loss-free balancing bias.

    Source: Huang et al., 2024, arXiv:2403.07652, and the authors' code; temperature
    and bias are ours.
    """

    kind = "top-p"
    expert_dims: ClassVar[dict[str, int]] = {"weight": 0, "bias": 0}
    p: Tensor
    temperature: Tensor
    bias_rate: Tensor
    bias: Tensor

    def __init__(
        self, num_experts: int, d_model: int, *, p: float, temperature: float, bias_rate: float
    ) -> None:
        super().__init__(p=p, temperature=temperature, bias_rate=bias_rate)
        self.weight = linear_weight(num_experts, d_model)
        self.register_buffer("bias", torch.zeros(num_experts))

    def runs_stacked(self) -> bool:
        """Tells that it does."""
        return True

    def route(self, tokens: Tensor, is_open: Tensor) -> Routing:
        """Returns the decision for float32 `tokens` (tokens, d_model)."""
        logits = tokens @ self.weight.mT / self.temperature  # (tokens, experts)
        probs = masked_softmax(logits, is_open)
        plain = probs.detach()
        biased = (plain + self.bias).masked_fill(~is_open, -math.inf)
        order = biased.argsort(dim=-1, descending=True, stable=True)
        total = plain.gather(-1, order).cumsum(-1)
        num_kept = 1 + (total <= self.p).sum(-1, keepdim=True)  # (tokens, 1)
        mask = (place_of(order) < num_kept) & is_open
        state: dict[str, Tensor] = {}
        if self.training:
            state["bias"] = balancing_bias(self.bias, mask, is_open, self.bias_rate)
        return decide(
            gate=probs * mask,
            mask=mask,
            probs=probs,
            logits=logits,
            weight=self.weight,
            is_open=is_open,
            state=state,
        )
