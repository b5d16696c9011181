"""The one operation that sends tokens to experts: all experts of all candidates of a layer in one grouped product.

Legend: P candidates, T tokens, E slots (the widest candidate of the study), G = sum of the candidates' experts in this
layer, pairs = number of (token, expert) assignments.

Outside `torch.func.vmap` the pool holds one candidate. Under vmap the pool holds the experts of all candidates side by
side, `start` says where each candidate's begin, and the vmap rule computes the whole pack at once; counts are ragged
and nothing is padded. Two backends give the same result: `grouped` computes the chosen pairs only, `dense` computes
every expert for every token (worth it when most experts are chosen, and what `grouped` turns to where torch has no
grouped product: float64, and widths that are not multiples of 16 bytes, so of 4 in fp32 and of 8 in bf16).
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamoe_search.moe.candidate_axis import has_candidate_axis, with_candidate_axis
from dynamoe_search.moe.grouped_experts import grouped_experts

Backend = Literal["grouped", "dense"]


class Experts(nn.Module):
    """A pool of two-layer GELU experts of equal width.

    Parameters: w1 (experts, d_model, d_expert), b1 (experts, d_expert), w2 (experts, d_expert, d_model),
    b2 (experts, d_model).
    """

    start: Tensor

    def __init__(self, d_model: int, d_expert: int, num_experts: int) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(num_experts, d_model, d_expert) / math.sqrt(d_model))
        self.b1 = nn.Parameter(torch.zeros(num_experts, d_expert))
        self.w2 = nn.Parameter(torch.randn(num_experts, d_expert, d_model) / math.sqrt(d_expert))
        self.b2 = nn.Parameter(torch.zeros(num_experts, d_model))
        self.register_buffer("start", torch.tensor([0, num_experts]), persistent=False)
        self.backend: Backend = "grouped"

    def forward(self, tokens: Tensor, gate: Tensor, mask: Tensor) -> Tensor:
        """Returns the gate-weighted sum of the chosen experts' outputs, (tokens, d_model).

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
                tokens, gate, mask, self.start, self.backend, *pool
            )
        else:
            out = pool_forward(
                tokens[None], gate[None], mask[None], self.start, self.backend, *pool
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
        start: Tensor,
        backend: Backend,
        *pool: Tensor,
    ) -> tuple[Tensor, int]:
        parts = [
            with_candidate_axis(x, dim, info.batch_size)
            for x, dim in zip((tokens, gate, mask), in_dims, strict=False)
        ]
        return pool_forward(parts[0], parts[1], parts[2], start, backend, *pool), 0


def pool_forward(
    tokens: Tensor, gate: Tensor, mask: Tensor, start: Tensor, backend: Backend, *pool: Tensor
) -> Tensor:
    """Runs the pool of a whole pack.

    Args:
        tokens: (candidates, tokens, d_model).
        gate: (candidates, tokens, slots).
        mask: (candidates, tokens, slots) bool; slots that a candidate lacks must be False.
        start: (candidates + 1,) where each candidate's experts begin in the pool.
        backend: `grouped` or `dense`.
        pool: w1, b1, w2, b2 of all experts, leading axis G.

    Returns:
        (candidates, tokens, d_model).
    """
    if backend == "dense" or not _has_grouped_product(pool[0]):
        return _dense(tokens, gate, mask, start, *pool)
    return grouped_experts(tokens, gate, mask, start, *pool)


def _has_grouped_product(w1: Tensor) -> bool:
    """Tells whether torch can multiply matrices of this type and width in groups."""
    widths = w1.shape[1:]
    return w1.element_size() <= 4 and all(n * w1.element_size() % 16 == 0 for n in widths)


def _dense(tokens: Tensor, gate: Tensor, mask: Tensor, start: Tensor, *pool: Tensor) -> Tensor:
    """Every expert on every token; the gate of what was not chosen counts as 0."""
    w1, b1, w2, b2 = pool
    slots = torch.arange(gate.shape[-1], device=tokens.device)
    exists = slots < (start[1:] - start[:-1])[:, None]  # (candidates, slots)
    owner, slot = exists.nonzero(as_tuple=True)  # (G,) each
    hidden = F.gelu(torch.baddbmm(b1[:, None], tokens.index_select(0, owner), w1))
    out = torch.baddbmm(b2[:, None], hidden, w2)  # (G, tokens, d_model)
    token = torch.arange(tokens.shape[1], device=tokens.device)
    pair = (owner[:, None] * len(token) + token) * gate.shape[-1] + slot[:, None]  # (G, tokens)
    # not by transposing: the gate's gradient must be contiguous, or the layout decides how the router adds it up
    weight = (gate * mask).reshape(-1).index_select(0, pair.reshape(-1)).view_as(pair)
    total = tokens.new_zeros(tokens.shape)
    return total.index_add(0, owner, out * weight[..., None].to(out.dtype))
