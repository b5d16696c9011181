"""Rules that compare probabilities with a threshold: DynaMoE's percentile, and three repairs.

Legend: tokens = all tokens of the batch, experts = expert slots of the layer. All four rules differ
in the threshold alone.
"""

import math
from collections.abc import Hashable
from typing import ClassVar

import torch
from torch import Tensor

from dynamoe_search.moe.randomness import new_stream
from dynamoe_search.moe.routers.router import Router, decide, linear_weight
from dynamoe_search.moe.routers.selection import (
    add_noise,
    balancing_bias,
    lower_quantile,
    masked_softmax,
    or_best,
    pooled_quantile,
    running_mean,
)
from dynamoe_search.moe.routing import Routing


class _ThresholdRouter(Router):
    """Softmax, noise, threshold, second softmax over the kept experts; a rule implements `keep`.

    The noise is added in training to the probabilities, and the noisy values are both compared with
    the threshold and put through the second softmax. The balancing bias enters the comparison only.
    With one expert kept its weight is 1 whatever the logits are, so such a token gives the router
    no gradient.

    Args:
        num_experts: Expert slots.
        d_model: Width of the tokens.
        temperature: Divides the logits before the first softmax.
        noise: Standard deviation of the noise.
        bias_rate: Step of the loss-free balancing bias.
        settings: Numbers of the threshold.
    """

    expert_dims: ClassVar[dict[str, int]] = {"weight": 0, "bias": 0}
    temperature: Tensor
    noise: Tensor
    bias_rate: Tensor
    bias: Tensor
    stream: Tensor

    def __init__(
        self,
        num_experts: int,
        d_model: int,
        *,
        temperature: float,
        noise: float,
        bias_rate: float,
        **settings: float,
    ) -> None:
        super().__init__(temperature=temperature, noise=noise, bias_rate=bias_rate, **settings)
        self.weight = linear_weight(num_experts, d_model)
        self.register_buffer("bias", torch.zeros(num_experts))
        self.register_buffer("stream", new_stream(), persistent=False)
        self.is_noisy = noise > 0

    def signature(self) -> Hashable:
        """Returns the kind and whether there is noise to draw."""
        return (self.kind, self.is_noisy)

    def runs_stacked(self) -> bool:
        """Tells that it does without noise and running values."""
        return not self.is_noisy and type(self).new_state is _ThresholdRouter.new_state

    def route(self, tokens: Tensor, is_open: Tensor) -> Routing:
        """Returns the decision for float32 `tokens` (tokens, d_model)."""
        logits = tokens @ self.weight.mT / self.temperature  # (tokens, experts)
        probs = masked_softmax(logits, is_open)
        draws = self.training and self.is_noisy
        scores = add_noise(probs, self.noise, self.stream) if draws else probs
        compared = scores.detach() + self.bias
        state: dict[str, Tensor] = {}
        keep = self.keep(compared, is_open)
        mask = or_best(keep & is_open, compared, is_open)
        if self.training:
            state["bias"] = balancing_bias(self.bias, mask, is_open, self.bias_rate)
            state |= self.new_state(probs.detach() + self.bias, is_open)
        return decide(
            gate=masked_softmax(scores, mask),
            mask=mask,
            probs=probs,
            logits=logits,
            weight=self.weight,
            is_open=is_open,
            state=state,
        )

    def keep(self, scores: Tensor, is_open: Tensor) -> Tensor:
        """Returns which `scores` (tokens, experts) pass the threshold, whatever in closed slots."""
        raise NotImplementedError

    def new_state(self, scores: Tensor, is_open: Tensor) -> dict[str, Tensor]:
        """Returns the threshold's next running values from noise-free scores (tokens, experts)."""
        return {}


class Percentile(_ThresholdRouter):
    """Keeps the experts above the tau-quantile of the token's own probabilities, at least one.

    DynaMoE as published.
    Every token gets the same number of experts, n - 1 - floor((n - 1) * tau) of n open ones and at
    least 1, except for exact ties: the rule selects what top-k with that k selects.

    Source: Guelmez, 2026, arXiv:2603.01697. The paper's full text was not at hand: order of
    softmax, noise (training only), strict comparison, fallback and second softmax follow a public
    full-text review of version 1; dividing the logits by the temperature before the first softmax,
    and interpolating the quantile linearly, are our reading.
    """

    kind = "percentile"
    tau: Tensor

    def keep(self, scores: Tensor, is_open: Tensor) -> Tensor:
        """Returns which `scores` (tokens, experts) exceed the quantile of their row."""
        return scores > lower_quantile(scores, is_open, self.tau)


class PooledQuantile(_ThresholdRouter):
    """Keeps the experts above the tau-quantile of all tokens' probabilities, at least one each.

    The number of experts varies between tokens and its mean is fixed (but for the tokens that fall
    back on their best). In training the quantile is that of the batch; in evaluation a running mean
    of the batches' noise-free quantiles takes its place, so that a token's experts do not depend on
    its company. Before the first training step everything is kept in evaluation.

    Source: ours, a repair of arXiv:2603.01697; the running threshold is akin to Expert Threshold
    routing.
    """

    kind = "pooled-quantile"
    is_batch_dependent = True
    tau: Tensor
    momentum: Tensor
    cutoff: Tensor

    def __init__(
        self,
        num_experts: int,
        d_model: int,
        *,
        tau: float,
        temperature: float,
        noise: float,
        momentum: float,
        bias_rate: float,
    ) -> None:
        super().__init__(
            num_experts,
            d_model,
            temperature=temperature,
            noise=noise,
            bias_rate=bias_rate,
            tau=tau,
            momentum=momentum,
        )
        self.register_buffer("cutoff", torch.tensor(-math.inf))

    def keep(self, scores: Tensor, is_open: Tensor) -> Tensor:
        """Returns which `scores` (tokens, experts) exceed the batch's or the running quantile."""
        if self.training:
            return scores > pooled_quantile(scores, is_open, self.tau)
        return scores > self.cutoff

    def new_state(self, scores: Tensor, is_open: Tensor) -> dict[str, Tensor]:
        """Returns the running quantile after this batch of noise-free scores (tokens, experts)."""
        now = pooled_quantile(scores, is_open, self.tau)
        return {"cutoff": running_mean(self.cutoff, now, self.momentum)}


class RelativeToMax(_ThresholdRouter):
    """Keeps the experts with at least rho times the token's highest probability.

    Source: ours, a repair of arXiv:2603.01697.
    """

    kind = "relative-to-max"
    rho: Tensor

    def keep(self, scores: Tensor, is_open: Tensor) -> Tensor:
        """Returns which `scores` (tokens, experts) reach rho times the highest of their row."""
        top = scores.masked_fill(~is_open, -math.inf).amax(-1, keepdim=True)
        return scores >= self.rho * top


class RangeFraction(_ThresholdRouter):
    """Keeps the experts above min + tau * (max - min) of the token's probabilities, at least one.

    Source: ours, a repair of arXiv:2603.01697.
    """

    kind = "range-fraction"
    tau: Tensor

    def keep(self, scores: Tensor, is_open: Tensor) -> Tensor:
        """Returns which `scores` (tokens, experts) exceed the share tau of their row's range."""
        low = scores.masked_fill(~is_open, math.inf).amin(-1, keepdim=True)
        high = scores.masked_fill(~is_open, -math.inf).amax(-1, keepdim=True)
        return scores > low + self.tau * (high - low)
