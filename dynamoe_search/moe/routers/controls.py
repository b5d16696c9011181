"""Rules that learn nothing, to compare with: experts at random, and all experts always.

Legend: tokens = all tokens of the batch, experts = expert slots of the layer.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from dynamoe_search.moe.randomness import new_stream, uniform
from dynamoe_search.moe.routers.router import Router, decide
from dynamoe_search.moe.routers.selection import highest
from dynamoe_search.moe.routing import Routing


class RandomK(Router):
    """Draws the number of experts from a histogram and the experts uniformly; all weigh 1 / k.

    With the histogram of another rule it tells whether it matters *which* tokens get more experts.
    The draw comes from `stream` in training and in evaluation, where it belongs to a token's place in its batch: unlike
    all other rules, the experts of a token change if the examples are put in another order.

    Args:
        num_experts: Expert slots.
        d_model: Width of the tokens.
        histogram: Probability of 0, 1, 2, ... experts, up to a common factor; a token that draws
            more than there are open experts gets all of them.

    Source: ours, a control.
    """

    kind = "random-k"
    is_batch_dependent = True
    expert_dims: ClassVar[dict[str, int]] = {"survival": 0}
    survival: Tensor
    stream: Tensor

    def __init__(self, num_experts: int, d_model: int, *, histogram: tuple[float, ...]) -> None:
        super().__init__()
        total = math.fsum(histogram)
        more = [math.fsum(histogram[count + 1 :]) / total for count in range(num_experts)]
        self.register_buffer("survival", torch.tensor(more), persistent=False)  # P(k > 0), ...
        self.register_buffer("stream", new_stream(), persistent=False)

    def most_chosen(self) -> int:
        """Returns the largest number that can be drawn."""
        return int((self.survival > 0).sum())

    def route(self, tokens: Tensor, is_open: Tensor) -> Routing:
        """Returns the decision for float32 `tokens` (tokens, d_model)."""
        shape = (is_open.shape[-1] + 1, tokens.shape[0])
        drawn = uniform(self.stream, shape, tokens.device).t()  # (tokens, 1 + experts)
        k = (drawn[:, :1] < self.survival).sum(-1, keepdim=True)  # (tokens, 1)
        mask = highest(drawn[:, 1:], is_open, k)
        gate = mask / mask.sum(-1, keepdim=True).clamp(min=1)
        return _unlearned(tokens, is_open, gate, mask)


class Dense(Router):
    """Runs every open expert with weight (open experts) ** -0.5.

    With n experts this is one feed-forward network of n times the hidden width, and the weight
    gives its output the variance that such a network has at its start.

    Source: ours, a control.
    """

    kind = "dense"
    expert_dims: ClassVar[dict[str, int]] = {}

    def __init__(self, num_experts: int, d_model: int) -> None:
        super().__init__()

    def runs_stacked(self) -> bool:
        """Tells that it does."""
        return True

    def route(self, tokens: Tensor, is_open: Tensor) -> Routing:
        """Returns the decision for float32 `tokens` (tokens, d_model)."""
        mask = is_open.expand(*tokens.shape[:-1], is_open.shape[-1])
        gate = mask * is_open.sum(-1, keepdim=True).clamp(min=1).float().rsqrt()
        return _unlearned(tokens, is_open, gate, mask)


def _unlearned(tokens: Tensor, is_open: Tensor, gate: Tensor, mask: Tensor) -> Routing:
    """Returns a `Routing` with equal probabilities, and zeros for the router's rows and logits."""
    return decide(
        gate=gate,
        mask=mask,
        probs=(is_open / is_open.sum(-1, keepdim=True).clamp(min=1)).expand(gate.shape),
        logits=torch.zeros_like(gate),
        weight=tokens.new_zeros(*tokens.shape[:-2], is_open.shape[-1], tokens.shape[-1]),
        is_open=is_open,
    )
