"""The one operation that sends tokens to experts: all experts of all candidates of a layer in one grouped product.

Legend: P candidates, T tokens, E slots (the widest candidate of the study), G = sum of the candidates' experts in this
layer, pairs = number of (token, expert) assignments.

Outside `torch.func.vmap` the pool holds one candidate. Under vmap the pool holds the experts of all candidates side by
side, a `PoolLayout` says where each candidate's begin, and the vmap rule computes the whole pack at once; counts are
ragged and nothing is padded. Two backends give the same result: `grouped` computes the chosen pairs only, `dense`
computes every expert for every token (worth it when most experts are chosen, and what `grouped` turns to where torch
has no grouped product: float64, and widths that are not multiples of 16 bytes, so of 4 in fp32 and of 8 in bf16). On a
CUDA device torch's grouped product is bf16 on Hopper and Blackwell (compute capability 9 and 10); of anything else it
makes one product after the other and waits for the device in between, so there `grouped` turns to `dense`, too.
"""

import math
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dynamoe_search.moe.activations import (
    Activation,
    activate,
    inner_width,
)
from dynamoe_search.moe.asynchrony import runs_ahead
from dynamoe_search.moe.candidate_axis import has_candidate_axis, with_candidate_axis
from dynamoe_search.moe.fixed_buffers import fixed_experts
from dynamoe_search.moe.grouped_experts import grouped_experts
from dynamoe_search.moe.layouts import PoolLayout

Backend = Literal["grouped", "dense"]

_DENSE_PART = 2**27
"""Numbers in a tensor (experts, tokens, width) of an evaluation on a CUDA device: half a gigabyte in fp32."""


class Experts(nn.Module):
    """A pool of two-layer experts of equal width, with GELU or, for language models, SwiGLU between the layers.

    Parameters: w1 (experts, d_model, inner), b1 (experts, inner), w2 (experts, d_expert, d_model),
    b2 (experts, d_model); inner is d_expert for `gelu` and 2 * d_expert for `swiglu`, see `moe.activations`.
    """

    def __init__(
        self, d_model: int, d_expert: int, num_experts: int, expert: Activation = "gelu"
    ) -> None:
        super().__init__()
        inner = inner_width(d_expert, expert)
        self.w1 = nn.Parameter(torch.randn(num_experts, d_model, inner) / math.sqrt(d_model))
        self.b1 = nn.Parameter(torch.zeros(num_experts, inner))
        self.w2 = nn.Parameter(torch.randn(num_experts, d_expert, d_model) / math.sqrt(d_expert))
        self.b2 = nn.Parameter(torch.zeros(num_experts, d_model))
        self.layout = PoolLayout([num_experts])
        self.backend: Backend = "grouped"

    def forward(self, tokens: Tensor, gate: Tensor, mask: Tensor) -> Tensor:
        """Returns the gate-weighted sum of the chosen experts' outputs, (tokens, d_model).

        All may have a leading candidates axis; then the pool is that of a pack.

        Args:
            tokens: (tokens, d_model).
            gate: (tokens, experts) mixing weights.
            mask: (tokens, experts) bool, which experts compute for which token.
        """
        pool = (self.w1, self.b1, self.w2, self.b2)
        dtype = tokens.dtype
        device = tokens.device.type
        if torch.is_autocast_enabled(device):  # grouped products keep fp32: cast on purpose
            low = torch.get_autocast_dtype(device)
            tokens, pool = tokens.to(low), tuple(weight.to(low) for weight in pool)  # type: ignore[assignment]
        if has_candidate_axis(tokens):
            out = _PackedExperts.apply(  # type: ignore[no-untyped-call]
                tokens, gate, mask, self.layout, self.backend, *pool
            )
        elif tokens.dim() == 3:
            out = pool_forward(tokens, gate, mask, self.layout, self.backend, *pool)
        else:
            out = pool_forward(
                tokens[None], gate[None], mask[None], self.layout, self.backend, *pool
            )[0]
        return out.to(dtype)  # type: ignore[no-any-return]


class _PackedExperts(torch.autograd.Function):
    """Reached only under vmap; its rule sees the whole pack."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        raise AssertionError("experts without a candidates axis take the plain path")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        raise AssertionError("experts without a candidates axis take the plain path")

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        tokens: Tensor,
        gate: Tensor,
        mask: Tensor,
        layout: PoolLayout,
        backend: Backend,
        *pool: Tensor,
    ) -> tuple[Tensor, int]:
        parts = [
            with_candidate_axis(x, dim, info.batch_size)
            for x, dim in zip((tokens, gate, mask), in_dims, strict=False)
        ]
        return pool_forward(parts[0], parts[1], parts[2], layout, backend, *pool), 0


def pool_forward(
    tokens: Tensor,
    gate: Tensor,
    mask: Tensor,
    layout: PoolLayout,
    backend: Backend,
    *pool: Tensor,
) -> Tensor:
    """Runs the pool of a whole pack.

    Args:
        tokens: (candidates, tokens, d_model).
        gate: (candidates, tokens, slots).
        mask: (candidates, tokens, slots) bool; slots that a candidate lacks must be False.
        layout: Where each candidate's experts lie in the pool.
        backend: `grouped` or `dense`.
        pool: w1, b1, w2, b2 of all experts, leading axis G.

    Returns:
        (candidates, tokens, d_model).
    """
    if backend == "dense" or not _has_grouped_product(pool[2]):
        return _dense(tokens, gate, mask, layout, *pool)
    if runs_ahead(tokens.device):
        return fixed_experts(tokens, gate, mask, layout, *pool)
    return grouped_experts(tokens, gate, mask, layout, *pool)


def _has_grouped_product(w2: Tensor) -> bool:
    """Tells whether torch can multiply matrices of this type and width in groups."""
    if w2.device.type == "cuda" and not _has_fast_product(w2.device, w2.dtype):
        return False
    widths = w2.shape[1:]
    return w2.element_size() <= 4 and all(n * w2.element_size() % 16 == 0 for n in widths)


@cache
def _has_fast_product(device: torch.device, dtype: torch.dtype) -> bool:
    """Tells whether a CUDA device multiplies in groups without waiting; the rule is torch's own, read in 2.13."""
    return dtype == torch.bfloat16 and torch.cuda.get_device_capability(device)[0] in (9, 10)


def _dense(tokens: Tensor, gate: Tensor, mask: Tensor, layout: PoolLayout, *pool: Tensor) -> Tensor:
    """Every expert on every token; the gate of what was not chosen counts as 0."""
    places = layout.places(gate.shape[-1], tokens.device)
    whole = (places.owner, places.slot, *pool)  # leading axis G each
    num_experts, num_numbers = len(pool[0]), tokens.shape[1] * max(pool[0].shape[1:])
    size = max(1, _DENSE_PART // num_numbers)
    total, gate = tokens.new_zeros(tokens.shape), gate * mask
    if torch.is_grad_enabled() or size >= num_experts or not runs_ahead(tokens.device):
        return _dense_part(total, tokens, gate, *whole)
    for begin in range(0, num_experts, size):  # evaluation, whose batches are large
        part = (tensor[begin : begin + size] for tensor in whole)
        total = _dense_part(total, tokens, gate, *part)
    return total


def _dense_part(
    total: Tensor, tokens: Tensor, gate: Tensor, owner: Tensor, slot: Tensor, *pool: Tensor
) -> Tensor:
    """Returns `total` with what experts of these owners and slots add to it."""
    w1, b1, w2, b2 = pool
    inner = torch.baddbmm(b1[:, None], tokens.index_select(0, owner), w1)
    hidden = activate(inner, w2.shape[1])
    out = torch.baddbmm(b2[:, None], hidden, w2)  # (experts, tokens, d_model)
    token = torch.arange(tokens.shape[1], device=tokens.device)
    pair = (owner[:, None] * len(token) + token) * gate.shape[-1] + slot[:, None]
    # not by transposing: the gate's gradient must be contiguous, or the layout decides how the router adds it up
    weight = gate.reshape(-1).index_select(0, pair.reshape(-1)).view_as(pair)
    return total.index_add(0, owner, out * weight[..., None].to(out.dtype))
