"""Experts in buffers of fixed size, as on a CUDA device: as from the path that counts the pairs."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynamoe_search.moe.fixed_buffers import fixed_experts
from dynamoe_search.moe.grouped_experts import grouped_experts
from dynamoe_search.moe.layouts import PoolLayout
from tests.oracles.experts import run_pool_slowly

TOKENS, WIDTH, HIDDEN = 9, 8, 16
NAMES = ("tokens", "gate", "w1", "b1", "w2", "b2")


def draw(counts: list[int], share: float, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Tokens, gate and pool of candidates with these numbers of experts, and the mask."""
    source = torch.Generator().manual_seed(seed)
    num, total, slots = len(counts), sum(counts), max(counts) + 1
    shapes = [(num, TOKENS, WIDTH), (num, TOKENS, slots)]
    shapes += [(total, WIDTH, HIDDEN), (total, HIDDEN), (total, HIDDEN, WIDTH), (total, WIDTH)]
    chosen = torch.rand(num, TOKENS, slots, generator=source) < share
    exists = torch.arange(slots) < torch.tensor(counts)[:, None, None]
    return [torch.randn(shape, generator=source) for shape in shapes], chosen & exists


def results(run: object, leaves: list[Tensor]) -> dict[str, Tensor]:
    own = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    y: Tensor = run(*own)  # type: ignore[operator]
    gradients = torch.autograd.grad((y.float().square() + y.float()).sum(), own)
    return {"y": y.detach(), **dict(zip(NAMES, gradients, strict=True))}


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    share=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    most_groups=st.integers(1, 12),
)
def test_results_are_those_of_the_present_path(
    counts: list[int], share: float, most_groups: int
) -> None:
    leaves, mask = draw(counts, share)
    layout = PoolLayout(counts)
    known = results(lambda x, g, *pool: grouped_experts(x, g, mask, layout, *pool), leaves)
    fixed = results(
        lambda x, g, *pool: fixed_experts(x, g, mask, layout, *pool, most_groups=most_groups),
        leaves,
    )
    for name, expected in known.items():
        scale = 1 + float(expected.abs().max())  # biases are added in another order
        torch.testing.assert_close(fixed[name], expected, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_what_a_device_does_not_write_reaches_no_result(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(a: Tensor, b: Tensor, *, offs: Tensor) -> Tensor:
        out = grouped_mm(a, b, offs=offs)
        if b.dim() == 3:
            out[int(offs[-1]) :] = torch.nan  # rows behind the last pair
        else:
            out[offs.diff(prepend=offs.new_zeros(1)) == 0] = torch.nan  # experts without a pair
        return out

    def run(x: Tensor, g: Tensor, *pool: Tensor) -> Tensor:
        return fixed_experts(x, g, mask, layout, *pool)

    leaves, mask = draw([3, 1, 4], share)
    grouped_mm, layout = F.grouped_mm, PoolLayout([3, 1, 4])
    known = results(run, leaves)
    monkeypatch.setattr(F, "grouped_mm", careless)
    for name, found in results(run, leaves).items():
        assert torch.equal(found, known[name]), name


def test_bf16_is_as_near_to_float64_as_its_own_rounding() -> None:
    leaves, mask = draw([3, 1, 4], 0.5)
    layout = PoolLayout([3, 1, 4])
    low = [
        leaf.bfloat16() if name != "gate" else leaf
        for name, leaf in zip(NAMES, leaves, strict=True)
    ]
    found = results(lambda x, g, *pool: fixed_experts(x, g, mask, layout, *pool), low)
    exact = [leaf.double() for leaf in low]
    slow = results(
        lambda x, g, *pool: run_pool_slowly(x, g, mask, list(layout.start), *pool), exact
    )
    assert found["y"].dtype == torch.float32
    for name, expected in slow.items():
        scale = float(expected.abs().max())
        assert float((found[name].double() - expected).abs().max()) < 0.02 * scale, name


def test_room_is_as_many_pairs_as_there_can_be() -> None:
    leaves, _ = draw([4, 4], 1.0)
    mask = torch.zeros(2, TOKENS, 5, dtype=torch.bool)
    mask[0, :, 1] = True  # top-1
    mask[1, :, :2] = True  # top-2
    bounded = PoolLayout([4, 4], [1, 2])
    one, other = (
        results(lambda x, g, *pool, own=own: fixed_experts(x, g, mask, own, *pool), leaves)
        for own in (bounded, PoolLayout([4, 4]))
    )
    assert bounded.most == (1, 2)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_candidate_that_is_not_a_number_leaves_the_others_alone() -> None:
    counts = [2, 3, 2]
    leaves, mask = draw(counts, 0.4)
    whole = results(
        lambda x, g, *pool: fixed_experts(x, g, mask, PoolLayout(counts), *pool), leaves
    )
    broken = [leaf.clone() for leaf in leaves]
    broken[0][2], broken[1][2] = torch.nan, torch.nan
    for leaf in broken[2:]:
        leaf[5:] = torch.nan
    found = results(
        lambda x, g, *pool: fixed_experts(x, g, mask, PoolLayout(counts), *pool), broken
    )
    for name, expected in whole.items():
        end = 2 if name in ("y", "tokens", "gate") else 5
        torch.testing.assert_close(found[name][:end], expected[:end], rtol=1e-6, atol=1e-6)
    assert found["y"][2].isnan().any()


@pytest.mark.parametrize("most", [1, 5, 1023])
def test_parts_are_whole_candidates_within_the_limit(most: int) -> None:
    counts = [1, 4, 4, 2, 5, 1, 1, 6]
    runs = PoolLayout(counts).runs(most)
    assert [one for begin, end in runs for one in range(begin, end)] == list(range(len(counts)))
    for begin, end in runs:
        assert sum(counts[begin:end]) <= most or end - begin == 1


def test_no_product_on_a_device_has_1024_experts() -> None:
    layout = PoolLayout([8] * 300)
    sizes = [layout.start[end] - layout.start[begin] for begin, end in layout.runs()]
    assert sum(sizes) == 2400
    assert max(sizes) < 1024
