"""DynMoE's top-any gate: each expert has a learned threshold, so any number may open.

Legend: tokens = all tokens of the batch, experts = expert slots of the layer.
"""

import math
from collections.abc import Hashable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dynamoe_search.moe.routers.router import Router, decide
from dynamoe_search.moe.routers.selection import or_best, sigmoid
from dynamoe_search.moe.routing import Routing

_MAX_LOG_SCALE = math.log(100)


class TopAny(Router):
    """Opens every expert whose scaled cosine exceeds its threshold, all with equal weight.

    g = 1 where sigmoid(a * cosine) * is_open > sigmoid(a * threshold), else 0; the gate is g / k
    with k the number of open experts of the token. The gradient passes the sign unchanged and is
    stopped by the ReLU before it, so inactive experts get none. In training a token may open
    nobody: its gate is all 0. In evaluation such a token takes the one expert with the highest
    score (not the highest margin over the threshold) with weight 1.

    Args:
        num_experts: Expert slots.
        d_model: Width of the tokens.
        threshold: Where the thresholds start.
        threshold_spread: Standard deviation of their start over the experts.
        logit_scale: The scale a, at most 100.
        learn_logit_scale: Whether a is trained (through its logarithm). weight_gradient: "sum" lets
            the gradient through k, so that a lone expert's gate has none (the Tutel version);
            "constant" does not (the DeepSpeed version).

    Source: Guo et al., 2024, arXiv:2405.14297, and the authors' code.
    """

    kind = "top-any"
    expert_dims: ClassVar[dict[str, int]] = {"weight": 0, "threshold": 0}
    log_scale: Tensor

    def __init__(
        self,
        num_experts: int,
        d_model: int,
        *,
        threshold: float,
        threshold_spread: float,
        logit_scale: float,
        learn_logit_scale: bool,
        weight_gradient: str,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(num_experts, d_model)))
        self.threshold = nn.Parameter(threshold + threshold_spread * torch.randn(num_experts))
        log_scale = torch.tensor(math.log(logit_scale))
        if learn_logit_scale:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale, persistent=False)
        self.learns_scale = learn_logit_scale
        self.weight_gradient = weight_gradient

    def signature(self) -> Hashable:
        """Returns the kind, whether the scale is trained, and the choice of weight gradient."""
        return (self.kind, self.learns_scale, self.weight_gradient)

    def runs_stacked(self) -> bool:
        """Tells that it does."""
        return True

    def route(self, tokens: Tensor, is_open: Tensor) -> Routing:
        """Returns the decision for float32 `tokens` (tokens, d_model)."""
        scale = self.log_scale.clamp(max=_MAX_LOG_SCALE).exp()
        logits = scale * cosines(tokens, self.weight)  # (tokens, experts)
        limit = sigmoid(scale * self.threshold)
        if self.training and tokens.dim() == 3:
            gate, mask, opened = _Gates.apply(  # type: ignore[no-untyped-call]
                logits, limit, is_open, self.weight_gradient
            )
        else:
            gate, mask, opened = self._gates(logits, limit, is_open)
        return decide(
            gate=gate,
            mask=mask,
            probs=opened,
            logits=logits,
            weight=self.weight,
            is_open=is_open,
        )

    def _gates(self, logits: Tensor, limit: Tensor, is_open: Tensor) -> tuple[Tensor, ...]:
        """Returns gate, mask and what is open before division."""
        score = sigmoid(logits) * is_open
        above = torch.relu(score - limit)
        mask = above > 0
        opened = mask.float() + (above - above.detach())  # 0 or 1, gradient of `above`
        divisor = opened.sum(-1, keepdim=True)
        if self.weight_gradient == "constant":
            divisor = divisor.detach()
        has_none = divisor == 0
        gate = opened / torch.where(has_none, 1.0, divisor)
        if not self.training:
            mask = or_best(mask, score, is_open)
            gate = torch.where(has_none, mask.float(), gate)
        return gate, mask, opened


class _Gates(torch.autograd.Function):
    """The same for stacked routers in training, where Python for each operation and its backward takes longest."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, limit: Tensor, is_open: Tensor, weight_gradient: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        share = sigmoid(logits)
        mask = share * is_open > limit
        opened = mask.float()
        divisor = opened.sum(-1, keepdim=True).clamp_(min=1.0)
        gate = opened / divisor
        ctx.weight_gradient = weight_gradient
        ctx.mark_non_differentiable(mask)
        ctx.save_for_backward(share, mask, gate, divisor)  # a closed slot is not in the mask
        return gate, mask, opened

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        share, mask, gate, divisor = ctx.saved_tensors
        of_gate, _, of_opened = gradients
        own = of_gate
        if ctx.weight_gradient == "sum":
            own = own - (of_gate * gate).sum(-1, keepdim=True)
        own = torch.where(mask, (own / divisor).add_(of_opened), 0.0)
        of_logits = (share * own).mul_(1 - share)
        return of_logits, own.sum(-2, keepdim=True).neg_(), None, None


def cosines(tokens: Tensor, rows: Tensor) -> Tensor:
    """Returns the cosine of every token with every row, (tokens, rows), 0 where one is shorter than 1e-12.

    Args:
        tokens: (tokens, d_model); those of stacked routers have a leading axis, and `rows` too.
        rows: (rows, d_model).
    """
    if tokens.dim() == 3:
        return _Cosines.apply(tokens, rows)  # type: ignore[no-any-return, no-untyped-call]
    return _cosines(tokens, rows * _per_length(rows), _per_length(tokens))


def _cosines(tokens: Tensor, unit: Tensor, per_token: Tensor) -> Tensor:
    return (tokens @ unit.mT) * per_token


class _Cosines(torch.autograd.Function):
    """Of stacked routers; autograd would go over the tokens five times for the backward of their length."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, rows: Tensor) -> Tensor:
        per_row, per_token = _per_length(rows), _per_length(tokens)
        unit = rows * per_row
        cosine = _cosines(tokens, unit, per_token)
        ctx.save_for_backward(tokens, unit, cosine, per_token, per_row)
        return cosine

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        tokens, unit, cosine, per_token, per_row = ctx.saved_tensors
        (upstream,) = gradients
        scaled = upstream * per_token
        along = (upstream * cosine).sum(-1, keepdim=True) * per_token.square()  # (tokens, 1)
        of_tokens = (scaled @ unit).sub_(tokens * along)
        of_unit = scaled.mT @ tokens  # (rows, d_model)
        across = of_unit - unit * (of_unit * unit).sum(-1, keepdim=True)
        return of_tokens, across * per_row


def _per_length(rows: Tensor) -> Tensor:
    """Returns one over the length of each of the `rows` (rows, d_model), (rows, 1); 0 if it is less than 1e-12."""
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    is_zero = length < 1e-12
    return torch.where(is_zero, 0.0, 1 / torch.where(is_zero, 1.0, length))
