"""Experts: both backends against a loop over pairs, alone and as a pack."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from dynamoe_search.moe.asynchrony import running_ahead
from dynamoe_search.moe.experts import Experts, pool_forward
from dynamoe_search.moe.fixed_buffers import fixed_experts
from dynamoe_search.moe.grouped_experts import grouped_experts
from dynamoe_search.moe.layer import MoELayer
from dynamoe_search.moe.layouts import PoolLayout
from dynamoe_search.moe.routers import Router
from dynamoe_search.moe.routers.controls import Dense
from tests.oracles.experts import run_pool_slowly

D_MODEL, D_EXPERT, TOKENS = 8, 12, 7
NAMES = ("tokens", "gate", "w1", "b1", "w2", "b2")
RAGGED = ([3], [1], [1, 1], [2, 5, 1], [4, 4])


def draw(counts: list[int], dtype: torch.dtype = torch.float32, share: float = 0.5) -> Any:
    """Inputs of a pool whose candidates have these numbers of experts: leaves, mask, layout."""
    seed = torch.Generator().manual_seed(len(counts) * 100 + sum(counts))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=seed).to(dtype).requires_grad_()

    num, total, slots = len(counts), sum(counts), max(counts)
    leaves = (
        normal(num, TOKENS, D_MODEL),
        normal(num, TOKENS, slots),
        normal(total, D_MODEL, D_EXPERT),
        normal(total, D_EXPERT),
        normal(total, D_EXPERT, D_MODEL),
        normal(total, D_MODEL),
    )
    mask = torch.rand(num, TOKENS, slots, generator=seed) < share
    mask &= torch.arange(slots) < torch.tensor(counts)[:, None, None]
    return leaves, mask, PoolLayout(counts)


def results(run: Callable[[], Tensor], leaves: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The output and the gradient of every input of a fixed weighted sum of it."""
    y = run()
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(y.dtype)
    gradients = torch.autograd.grad((y * upstream).sum(), leaves, allow_unused=True)
    own = {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for name, leaf, gradient in zip(NAMES, leaves, gradients, strict=True)
    }
    return {"y": y.detach(), **own}


def close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    for name, expected in other.items():
        torch.testing.assert_close(
            one[name].double(), expected.double(), rtol=tolerance, atol=tolerance, msg=name
        )


@pytest.mark.parametrize("backend", ["grouped", "dense"])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("counts", RAGGED, ids=str)
def test_values_and_gradients_are_those_of_a_loop(
    counts: list[int], share: float, backend: Any
) -> None:
    leaves, mask, layout = draw(counts, share=share)
    tokens, gate, *pool = leaves
    fast = results(lambda: pool_forward(tokens, gate, mask, layout, backend, *pool), leaves)
    exact = tuple(leaf.detach().double().requires_grad_() for leaf in leaves)
    slow = results(
        lambda: run_pool_slowly(exact[0], exact[1], mask, list(layout.start), *exact[2:]), exact
    )
    close(fast, slow, 1e-5)
    if share == 0:
        assert not any(value.any() for value in fast.values())


@pytest.mark.parametrize("backend", ["grouped", "dense"])
def test_gradients_agree_with_finite_differences(backend: Any) -> None:
    leaves, mask, layout = draw([2, 1], torch.float64)

    def run(tokens: Tensor, gate: Tensor, *pool: Tensor) -> Tensor:
        return pool_forward(
            tokens, gate, mask, layout, backend, *pool
        )  # both dense: no grouped fp64

    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


@pytest.mark.parametrize("d_expert", [6, 10])
def test_widths_that_torch_cannot_group_are_computed_all_the_same(d_expert: int) -> None:
    tokens, gate, mask = torch.randn(1, 5, 8), torch.rand(1, 5, 2), torch.rand(1, 5, 2) < 0.5
    experts = Experts(8, d_expert, 2)
    pool = tuple(experts.parameters())
    y = experts(tokens[0], gate[0], mask[0])
    slow = run_pool_slowly(tokens, gate, mask, [0, 2], *pool)[0]
    torch.testing.assert_close(y, slow)


@pytest.mark.parametrize("backend", ["grouped", "dense"])
def test_what_was_not_chosen_may_hold_anything(backend: Any) -> None:
    leaves, _, layout = draw([2])
    tokens, gate, *pool = leaves
    mask = torch.tensor([True, False]).expand(1, TOKENS, 2)
    other = gate.detach().clone()
    other[..., 1] = 1e30
    one, two = (pool_forward(tokens, g, mask, layout, backend, *pool) for g in (gate, other))
    assert torch.equal(one, two)


@pytest.mark.parametrize("backend", ["grouped", "dense"])
def test_a_pack_under_vmap_is_each_pool_alone(backend: Any) -> None:
    leaves, mask, layout = draw([2, 5, 1])
    tokens, gate, *pool = leaves
    experts = Experts(D_MODEL, D_EXPERT, 1)
    experts.backend = backend
    experts.layout = layout
    shared = dict(zip(("w1", "b1", "w2", "b2"), pool, strict=True))
    packed = results(
        lambda: vmap(
            lambda *own: functional_call(experts, shared, own)  # the pool itself is not mapped
        )(tokens, gate, mask),
        leaves,
    )
    slow = results(lambda: run_pool_slowly(tokens, gate, mask, list(layout.start), *pool), leaves)
    close(packed, slow, 1e-5)


class Operations(TorchDispatchMode):
    """Notes the names of all that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("run", [grouped_experts, fixed_experts])
def test_no_loop_grows_with_the_experts_and_no_gradient_is_put_by_indices(run: Any) -> None:
    found = []
    for counts in ([2, 1], [9, 7, 8]):
        (tokens, gate, *pool), mask, layout = draw(counts)
        with Operations() as watched:
            run(tokens, gate, mask, layout, *pool).sum().backward()
        found.append(watched.names)
    assert found[0] == found[1]
    assert sum("_grouped_mm" in name for name in found[0]) == (8 if run is fixed_experts else 6)
    assert not any("index_put" in name for name in found[0])


def test_sums_of_many_pairs_in_bf16_do_not_stop_growing() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(1, 4096, 8)
    gate, mask = torch.ones(1, 4096, 1), torch.ones(1, 4096, 1, dtype=torch.bool)
    pool = [weight.detach() for weight in Experts(8, 8, 1).parameters()]
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        own = [weight.to(dtype).detach().requires_grad_() for weight in pool]
        y = pool_forward(tokens.to(dtype), gate, mask, PoolLayout([1]), "grouped", *own)
        y.sum().backward()
        gradients.append([weight.grad for weight in own])
    for exact, rounded in zip(*gradients, strict=True):
        assert exact is not None
        assert rounded is not None
        assert (exact - rounded).abs().max() <= 0.03 * exact.abs().max()


def test_a_layer_adds_its_experts_to_its_input_and_sums_up_who_chose_nobody() -> None:
    torch.manual_seed(0)
    router: Router = Dense(2, 8)
    layer = MoELayer(8, 8, 2, router, num_open=1)
    x = torch.randn(3, 5, 8)
    y, routing = layer(x)
    tokens = layer.norm(x).view(1, 15, 8)
    alone = run_pool_slowly(
        tokens, routing.gate[None], routing.mask[None], [0, 2], *layer.experts.parameters()
    )
    torch.testing.assert_close(y, x + alone.view(x.shape))
    assert routing.mask.tolist() == [[True, False]] * 15
    assert not routing.unrouted.any()
    layer.is_open[:] = False
    y, routing = layer(x)
    assert torch.equal(y, x)
    torch.testing.assert_close(routing.unrouted, tokens[0].sum(0))


def test_an_evaluation_in_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves, mask, layout = draw([2, 5, 1, 3])
    tokens, gate, *pool = leaves
    whole = pool_forward(tokens, gate, mask, layout, "dense", *pool)
    monkeypatch.setattr("dynamoe_search.moe.experts._DENSE_PART", 2 * TOKENS * D_EXPERT)
    with torch.no_grad(), running_ahead():
        parts = pool_forward(tokens, gate, mask, layout, "dense", *pool)
    torch.testing.assert_close(parts, whole.detach())


def test_idle_rows_may_hold_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves, mask, layout = draw([2, 5, 1])
    tokens, gate, *pool = leaves
    clean = results(lambda: grouped_experts(tokens, gate, mask, layout, *pool), leaves)
    product, spoiled = F.grouped_mm, 0

    def spoil(left: Tensor, right: Tensor, *, offs: Tensor) -> Tensor:
        nonlocal spoiled
        out = product(left, right, offs=offs)
        if right.dim() == 3:
            spoiled += len(out) - int(offs[-1])
            out[int(offs[-1]) :] = torch.nan
        return out

    monkeypatch.setattr(F, "grouped_mm", spoil)
    dirty = results(lambda: grouped_experts(tokens, gate, mask, layout, *pool), leaves)
    assert spoiled > 0
    for name, value in clean.items():
        assert torch.equal(dirty[name], value), name


def test_what_is_kept_for_backward_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves, mask, layout = draw([2, 5, 1])
    tokens, gate, *pool = leaves
    kept = results(lambda: grouped_experts(tokens, gate, mask, layout, *pool), leaves)
    monkeypatch.setattr("dynamoe_search.moe.grouped_experts._KEPT", 0)
    again = results(lambda: grouped_experts(tokens, gate, mask, layout, *pool), leaves)
    for name, value in kept.items():
        assert torch.equal(again[name], value), name
