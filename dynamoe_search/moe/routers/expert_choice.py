"""Expert choice: experts choose tokens; the load is even, the experts per token vary.

Legend: tokens = all tokens of the batch, experts = expert slots of the layer.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from dynamoe_search.moe.routers.router import Router, decide, linear_weight
from dynamoe_search.moe.routers.selection import masked_softmax, rank_of, running_mean
from dynamoe_search.moe.routing import Routing


class ExpertChoice(Router):
    """Each open expert takes the tokens that give it the highest probabilities, weighted by these.

    In training an expert takes round(capacity * tokens / open experts) tokens, at least 1 and at
    most all. What a token gets then depends on its batch, so evaluation uses a running mean of each
    expert's lowest accepted probability instead: a token is taken if it reaches that. Before the
    first training step every token is taken in evaluation.

    Args:
        num_experts: Expert slots.
        d_model: Width of the tokens.
        capacity: Mean number of experts per token.
        temperature: Divides the logits before the softmax over experts.
        momentum: Of the running mean.

    Source: Zhou et al., 2022, arXiv:2202.09368; temperature and the running threshold
    are ours.
    """

    kind = "expert-choice"
    is_batch_dependent = True
    expert_dims: ClassVar[dict[str, int]] = {"weight": 0, "cutoff": 0}
    capacity: Tensor
    temperature: Tensor
    momentum: Tensor
    cutoff: Tensor

    def __init__(
        self,
        num_experts: int,
        d_model: int,
        *,
        capacity: float,
        temperature: float,
        momentum: float,
    ) -> None:
        super().__init__(capacity=capacity, temperature=temperature, momentum=momentum)
        self.weight = linear_weight(num_experts, d_model)
        self.register_buffer("cutoff", torch.full((num_experts,), -math.inf))

    def route(self, tokens: Tensor, is_open: Tensor) -> Routing:
        """Returns the decision for float32 `tokens` (tokens, d_model)."""
        logits = tokens @ self.weight.t() / self.temperature  # (tokens, experts)
        probs = masked_softmax(logits, is_open)
        state: dict[str, Tensor] = {}
        if self.training:
            scores = probs.detach()
            share = scores.shape[0] / is_open.sum().clamp(min=1)
            num_taken = torch.round(self.capacity * share).clamp(1, scores.shape[0])
            mask = (rank_of(scores, dim=0) < num_taken) & is_open
            lowest = scores.masked_fill(~mask, math.inf).amin(0)  # (experts,)
            lowest = torch.where(is_open, lowest, self.cutoff)
            state["cutoff"] = running_mean(self.cutoff, lowest, self.momentum)
        else:
            mask = (probs >= self.cutoff) & is_open
        return decide(
            gate=probs * mask,
            mask=mask,
            probs=probs,
            logits=logits,
            weight=self.weight,
            is_open=is_open,
            state=state,
        )
