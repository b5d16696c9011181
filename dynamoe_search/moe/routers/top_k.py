"""Rules with a fixed number of choices per token: top-k, and top-k among real and null experts.

Legend: tokens = all tokens of the batch, experts = expert slots of the layer, null = experts
without computation.
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
    highest,
    masked_softmax,
    rank_of,
)
from dynamoe_search.moe.routing import Routing


class TopK(Router):
    """Keeps the k best experts of each token, or all open ones if there are fewer.

    Softmax "before": the weights are the kept probabilities as they are, and the bias is added to
    probabilities. Softmax "after": the weights are a softmax over the kept logits (with k = 1
    always 1, without gradient), and the bias is added to logits. Noise is added to the logits in
    training, for selection and weights alike.

    Args:
        num_experts: Expert slots.
        d_model: Width of the tokens.
        k: Experts per token.
        softmax: "before" or "after" the selection.
        temperature: Divides the logits.
        noise: Standard deviation of the noise.
        bias_rate: Step of the loss-free balancing bias.

    Source: before: Fedus et al., 2021, arXiv:2101.03961, eq. 1 and 2 (k = 1); after: Shazeer et
    al., 2017, arXiv:1701.06538, eq. 3 to 5 (there with a learned noise scale), and Jiang et al.,
    2024, arXiv:2401.04088.
    """

    kind = "top-k"
    expert_dims: ClassVar[dict[str, int]] = {"weight": 0, "bias": 0}
    k: Tensor
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
        k: int,
        softmax: str,
        temperature: float,
        noise: float,
        bias_rate: float,
    ) -> None:
        super().__init__(k=k, temperature=temperature, noise=noise, bias_rate=bias_rate)
        self.weight = linear_weight(num_experts, d_model)
        self.register_buffer("bias", torch.zeros(num_experts))
        self.register_buffer("stream", new_stream(), persistent=False)
        self.softmax = softmax
        self.is_noisy = noise > 0

    def signature(self) -> Hashable:
        """Returns the kind, where the softmax stands, and whether there is noise to draw."""
        return (self.kind, self.softmax, self.is_noisy)

    def most_chosen(self) -> int:
        """Returns k."""
        return int(self.k)

    def runs_stacked(self) -> bool:
        """Tells that it does without noise."""
        return not self.is_noisy

    def route(self, tokens: Tensor, is_open: Tensor) -> Routing:
        """Returns the decision for float32 `tokens` (tokens, d_model)."""
        logits = tokens @ self.weight.mT / self.temperature  # (tokens, experts)
        probs = masked_softmax(logits, is_open)
        noisy, noisy_probs = logits, probs
        if self.training and self.is_noisy:
            noisy = add_noise(logits, self.noise, self.stream)
            noisy_probs = masked_softmax(noisy, is_open)
        if self.softmax == "before":
            mask = highest(noisy_probs.detach() + self.bias, is_open, self.k)
            gate = noisy_probs * mask
        else:
            mask = highest(noisy.detach() + self.bias, is_open, self.k)
            gate = masked_softmax(noisy, mask)
        state: dict[str, Tensor] = {}
        if self.training:
            state["bias"] = balancing_bias(self.bias, mask, is_open, self.bias_rate)
        return decide(
            gate=gate,
            mask=mask,
            probs=probs,
            logits=logits,
            weight=self.weight,
            is_open=is_open,
            state=state,
        )


class NullExperts(Router):
    """Keeps the real ones among the k best of real and null experts, from none to k.

    The weights are the kept real experts' probabilities divided by their sum, so null experts take
    no weight away and their rows get no gradient from the task: they learn through the load-balance
    loss alone, as in the authors' code. `Routing.probs` holds the real experts' part of the softmax
    over all, and `Routing.null_load` what that loss needs to know of the null experts. The
    balancing bias is for real experts only.

    Args:
        num_experts: Slots of real experts.
        d_model: Width of the tokens.
        k: Choices per token, null ones included.
        null_experts: How many null experts there are.
        temperature: Divides the logits before the softmax.
        bias_rate: Step of the loss-free balancing bias.

    Source: Zeng et al., 2024, arXiv:2406.13233, and the authors' code; temperature and bias are
    ours.
    """

    kind = "null-experts"
    expert_dims: ClassVar[dict[str, int]] = {"weight": 0, "bias": 0}
    k: Tensor
    temperature: Tensor
    bias_rate: Tensor
    bias: Tensor

    def __init__(
        self,
        num_experts: int,
        d_model: int,
        *,
        k: int,
        null_experts: int,
        temperature: float,
        bias_rate: float,
    ) -> None:
        super().__init__(k=k, temperature=temperature, bias_rate=bias_rate)
        self.weight = linear_weight(num_experts, d_model)
        self.null_weight = linear_weight(null_experts, d_model)
        self.register_buffer("bias", torch.zeros(num_experts))

    def signature(self) -> Hashable:
        """Returns the kind and the number of null experts."""
        return (self.kind, self.null_weight.shape[-2])

    def most_chosen(self) -> int:
        """Returns k."""
        return int(self.k)

    def route(self, tokens: Tensor, is_open: Tensor) -> Routing:
        """Returns the decision for float32 `tokens` (tokens, d_model)."""
        num_experts = is_open.shape[-1]
        real = tokens @ self.weight.t() / self.temperature  # (tokens, experts)
        null = tokens @ self.null_weight.t() / self.temperature  # (tokens, null)
        may_be = torch.cat([is_open, is_open.new_ones(null.shape[-1])])
        everything = masked_softmax(torch.cat([real, null], -1), may_be)  # (tokens, experts + null)
        probs, null_probs = everything[:, :num_experts], everything[:, num_experts:]
        biased = (probs.detach() + self.bias).masked_fill(~is_open, -math.inf)
        chosen = rank_of(torch.cat([biased, null_probs.detach()], -1)) < self.k
        mask = chosen[:, :num_experts] & is_open
        state: dict[str, Tensor] = {}
        if self.training:
            state["bias"] = balancing_bias(self.bias, mask, is_open, self.bias_rate)
        return decide(
            gate=masked_softmax(real, mask),
            mask=mask,
            probs=probs,
            logits=real,
            weight=self.weight,
            is_open=is_open,
            null_load=chosen[:, num_experts:].float().mean(),
            state=state,
        )
