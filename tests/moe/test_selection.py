"""Ranks and softmax over experts agree with the plain ways to compute them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamoe_search.moe.routers.selection import masked_softmax, place_of, rank_of

SIZES = st.integers(1, 20)


def scores(tokens: int, experts: int, seed: int) -> torch.Tensor:
    """Numbers with many ties."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, (tokens, experts), generator=generator).float()


@given(SIZES, SIZES, st.integers(0, 99), st.sampled_from([0, -1]))
def test_a_place_is_where_a_sort_puts_it(tokens: int, experts: int, seed: int, dim: int) -> None:
    order = scores(tokens, experts, seed).argsort(dim=dim, descending=True, stable=True)
    assert torch.equal(place_of(order, dim), order.argsort(dim=dim, stable=True))


@given(SIZES, SIZES, st.integers(0, 99))
def test_of_equals_the_earlier_is_first(tokens: int, experts: int, seed: int) -> None:
    x = scores(tokens, experts, seed)
    place = torch.arange(experts)
    ahead = (x[:, None] > x[..., None]) | ((x[:, None] == x[..., None]) & (place < place[:, None]))
    assert torch.equal(rank_of(x), ahead.sum(-1))


@given(SIZES, SIZES, st.integers(0, 99))
def test_softmax_is_over_what_is_kept(tokens: int, experts: int, seed: int) -> None:
    x = scores(tokens, experts, seed).requires_grad_()
    keep = scores(tokens, experts, seed + 100) > 0
    found = masked_softmax(x, keep)
    expected = torch.where(keep, x, -math.inf).softmax(-1).nan_to_num(0.0)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous()
    upstream = torch.linspace(-1, 1, experts).expand(tokens, experts)
    (slope,) = torch.autograd.grad(found, x, upstream)
    inner = (upstream * expected).sum(-1, keepdim=True)
    torch.testing.assert_close(slope, expected.detach() * (upstream - inner.detach()))


@pytest.mark.parametrize("tokens", [1, 37, 128])
def test_a_candidate_has_its_softmax_in_any_pack(tokens: int) -> None:
    logits = torch.randn(7, tokens, 5, generator=torch.Generator().manual_seed(0))
    softmax = torch.vmap(lambda x: masked_softmax(x, x > -1))
    whole = softmax(logits)
    for begin, end in ((0, 2), (3, 5), (1, 7)):
        assert torch.equal(softmax(logits[begin:end].clone()), whole[begin:end])
