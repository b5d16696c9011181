"""Attention of a pack: that of each candidate, in pieces where a GPU's kernels take no more at a time."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dynamoe_search.moe.asynchrony import running_ahead
from dynamoe_search.moe.attention import attend


@pytest.mark.parametrize("is_causal", [False, True])
def test_a_large_pack_comes_in_pieces_on_a_device_with_the_same_results(
    is_causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watched(query: Tensor, *others: Tensor, **options: Any) -> Tensor:
        sizes.append(len(query))
        return attention(query, *others, **options)

    def gradients() -> tuple[Tensor, ...]:
        own = [leaf.clone().requires_grad_() for leaf in leaves]
        run = torch.func.vmap(lambda *some: attend(*some, is_causal=is_causal))
        out = run(*own)
        return out.detach(), *torch.autograd.grad(out.square().sum(), own)

    sizes: list[int] = []
    attention = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    source = torch.Generator().manual_seed(0)
    leaves = [torch.randn(3, 30_000, 1, 2, 2, generator=source) for _ in range(3)]
    whole = gradients()
    with running_ahead():
        pieces = gradients()
    assert sizes == [90_000, 65_535, 24_465]
    for one, other in zip(whole, pieces, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0)
