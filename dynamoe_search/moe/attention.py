"""Self-attention as one operation whose vmap rule folds the candidates axis into the batch axis."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamoe_search.moe.candidate_axis import has_candidate_axis, with_candidate_axis


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
        folded = [x.flatten(0, 1) for x in parts]  # (candidates * batch, heads, tokens, width)
        out = F.scaled_dot_product_attention(folded[0], folded[1], folded[2], is_causal=is_causal)
        return out.view(parts[0].shape), 0
