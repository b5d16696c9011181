"""ReLU routing: a rectified linear gate, steered to a number of experts by a sparsity penalty.

Legend: tokens = all tokens of the batch, experts = expert slots of the layer.
"""

import torch
from torch import Tensor

from dynamoe_search.moe.routers.router import Router, decide, linear_weight
from dynamoe_search.moe.routing import Routing

_START = 1e-8
_LOWEST, _HIGHEST = 1e-10, 1e10


class Relu(Router):
    """Weighs each expert with max(0, logit); the experts with a positive weight compute.

    `sparsity` is the coefficient of the penalty (see `moe.losses.sparsity_penalty`). Each training
    step multiplies it by sparsity_step where a token has more than target_active experts on
    average, and divides it where it has fewer. We keep it between 1e-10 and 1e10, so that a layer
    that stays below its target does not lose the way back.

    Args:
        num_experts: Expert slots.
        d_model: Width of the tokens.
        target_active: Mean number of experts per token to steer to.
        sparsity_step: Factor of one correction.

    Source: Wang et al., 2024, arXiv:2412.14711, and the authors' code (which steers one
    coefficient for all layers by their mean sparsity, while each of our layers has its own).
    """

    kind = "relu"
    target_active: Tensor
    sparsity_step: Tensor
    sparsity: Tensor

    def __init__(
        self, num_experts: int, d_model: int, *, target_active: float, sparsity_step: float
    ) -> None:
        super().__init__(target_active=target_active, sparsity_step=sparsity_step)
        self.weight = linear_weight(num_experts, d_model)
        self.register_buffer("sparsity", torch.tensor(_START))

    def runs_stacked(self) -> bool:
        """Tells that it does."""
        return True

    def route(self, tokens: Tensor, is_open: Tensor) -> Routing:
        """Returns the decision for float32 `tokens` (tokens, d_model)."""
        logits = tokens @ self.weight.mT  # (tokens, experts)
        gate = torch.relu(logits) * is_open
        mask = gate > 0
        state: dict[str, Tensor] = {}
        if self.training:
            mean_k = mask.float().sum(-1).mean(-1).view_as(self.sparsity)
            step = torch.where(
                mean_k > self.target_active, self.sparsity_step, 1 / self.sparsity_step
            )
            step = torch.where(mean_k == self.target_active, 1.0, step)
            state["sparsity"] = (self.sparsity * step).clamp(_LOWEST, _HIGHEST).detach()
        return decide(
            gate=gate,
            mask=mask,
            probs=gate,
            logits=logits,
            weight=self.weight,
            is_open=is_open,
            state=state,
        )
