"""Self-attention as one operation whose vmap rule folds the candidates axis into the batch axis."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamoe_search.moe.asynchrony import runs_ahead
from dynamoe_search.moe.candidate_axis import has_candidate_axis, with_candidate_axis

_MOST = 65_535  # sequences that CUDA's kernels for attention take at a time: one side of a grid is no longer


def attend(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool = False) -> Tensor:
    """Returns scaled dot-product attention.

    Args:
        query: (batch, heads, tokens, width); `key` and `value` have the same shape.
        is_causal: Whether a token sees only itself and earlier ones.

    Source: Vaswani et al., 2017, arXiv:1706.03762, eq. 1.
    """
    if has_candidate_axis(query):
        return _Attend.apply(query, key, value, is_causal)  # type: ignore[no-any-return, no-untyped-call]
    return F.scaled_dot_product_attention(query, key, value, is_causal=is_causal)


class _Attend(torch.autograd.Function):
    """Reached only under vmap: `scaled_dot_product_attention` itself has no fast batching rule on the CPU."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        raise AssertionError("attend without a candidates axis takes the plain path")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        raise AssertionError("attend without a candidates axis takes the plain path")

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        is_causal: bool,
    ) -> tuple[Tensor, int]:
        num = info.batch_size
        parts = [
            with_candidate_axis(x, dim, num)
            for x, dim in zip((query, key, value), in_dims, strict=False)
        ]
        q, k, v = (x.flatten(0, 1) for x in parts)  # (candidates * batch, heads, tokens, width)
        size = _MOST if runs_ahead(query.device) else len(q)
        pieces = [slice(begin, begin + size) for begin in range(0, len(q), size)]
        outs = [
            F.scaled_dot_product_attention(q[one], k[one], v[one], is_causal=is_causal)
            for one in pieces
        ]
        out = outs[0] if len(outs) == 1 else torch.cat(outs)
        return out.view(parts[0].shape), 0
