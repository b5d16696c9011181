"""Auxiliary losses against their formulas, at their extremes, and with a candidates axis."""

import math

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from dynamoe_search.moe.losses import (
    auxiliary_losses,
    diversity,
    dynamic,
    efficiency,
    load_balance,
    simplicity,
    sparsity_penalty,
    z,
)
from dynamoe_search.moe.routing import Routing
from dynamoe_search.records import RouterConfig
from dynamoe_search.specs.vocabulary import LOSS_NAMES, ROUTER_LOSSES
from tests.moe.router_cases import CASES, draw, make

OPEN = torch.tensor([True, True, False, True])


def routing_of(
    mask: Tensor, probs: Tensor, *, is_open: Tensor | None = None, null_load: float = 0.0
) -> Routing:
    """A routing with what the losses read, and logits from the probabilities."""
    return Routing(
        gate=probs * mask,
        mask=mask.bool(),
        probs=probs,
        logits=torch.where(probs > 0, probs, 1.0).log(),
        weight=torch.eye(mask.shape[1], 8),
        is_open=torch.ones(mask.shape[1], dtype=torch.bool) if is_open is None else is_open,
        unrouted=torch.zeros(8),
        state={},
        null_load=torch.tensor(null_load),
    )


def random_routing(seed: int = 0) -> Routing:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(10, 4, generator=generator)
    probs = logits.masked_fill(~OPEN, -math.inf).softmax(-1)
    mask = (torch.rand(10, 4, generator=generator) < 0.5) & OPEN
    routing = routing_of(mask, probs, is_open=OPEN)
    return routing._replace(logits=logits * OPEN, weight=torch.randn(4, 8, generator=generator))


def test_load_balance_equals_the_loop() -> None:
    routing = random_routing()
    total = 0.0
    for expert in (0, 1, 3):
        load = sum(bool(routing.mask[t, expert]) for t in range(10)) / 10
        total += load * sum(float(routing.probs[t, expert]) for t in range(10)) / 10
    mean_k = float(routing.mask.sum()) / 10
    assert load_balance(routing, False) == pytest.approx(3 * total)
    assert load_balance(routing, True) == pytest.approx(3 * total / max(mean_k, 1))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_perfect_balance_costs_one_or_k(k: int) -> None:
    mask = torch.stack([torch.roll(torch.arange(4) < k, shift) for shift in range(4)])
    routing = routing_of(mask, torch.full((4, 4), 0.25))
    assert load_balance(routing) == pytest.approx(1)
    assert load_balance(routing, False) == pytest.approx(k)


def test_imbalance_costs_more_than_balance() -> None:
    mask = (torch.arange(4) == 0).expand(8, 4)
    probs = torch.tensor([0.7, 0.1, 0.1, 0.1]).expand(8, 4)
    assert load_balance(routing_of(mask, probs)) == pytest.approx(2.8)


def test_null_experts_enter_the_load_balance_as_one_group() -> None:
    """Against the published form: real and null experts in a row, null loads averaged."""
    config = RouterConfig(kind="null-experts", k=4, null_experts=3, temperature=1.0, bias_rate=0.0)
    router = make(config, 5)
    tokens = 2 * draw(64)
    rows = torch.cat([router.get_parameter("weight"), router.get_parameter("null_weight")])
    probs = (tokens @ rows.t()).softmax(-1)
    chosen = torch.zeros(64, 8).scatter(1, probs.topk(4).indices, 1.0)
    load = chosen.mean(0)
    load[5:] = load[5:].mean()
    published = 8 * (load * probs.mean(0)).sum()
    wanted = torch.autograd.grad(published, list(router.parameters()))
    ours = load_balance(router(tokens, torch.ones(5, dtype=torch.bool)), False)
    torch.testing.assert_close(ours, published * 5 / 8)
    found = torch.autograd.grad(ours, list(router.parameters()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other * 5 / 8)


def test_null_experts_learn_from_the_load_balance_alone() -> None:
    router = make(CASES["null-experts"][1])
    routing = router(draw(32), torch.ones(6, dtype=torch.bool))
    routing.gate.square().sum().backward(retain_graph=True)
    null_weight = router.get_parameter("null_weight")
    assert null_weight.grad is None or (null_weight.grad == 0).all()
    load_balance(routing).backward()
    assert null_weight.grad is not None
    assert (null_weight.grad != 0).any()


def test_diversity_equals_the_loop_and_ignores_closed_rows() -> None:
    routing = random_routing()
    total = 0.0
    for one in (0, 1, 3):
        for other in (0, 1, 3):
            if one != other:
                a, b = routing.weight[one], routing.weight[other]
                total += float(a @ b / a.norm() / b.norm()) ** 2
    assert diversity(routing) == pytest.approx(math.sqrt(total))


def test_diversity_of_orthonormal_rows_is_flat_zero() -> None:
    weight = torch.linalg.qr(draw(8))[0].T.clone().requires_grad_()
    routing = routing_of(torch.ones(3, 8), torch.full((3, 8), 1 / 8))._replace(weight=weight)
    loss = diversity(routing)
    loss.backward()
    assert loss == 0
    assert weight.grad is not None
    assert (weight.grad == 0).all()


def test_simplicity_counts_closed_rows_but_no_zero_rows() -> None:
    routing = random_routing()
    assert simplicity(routing) == pytest.approx(float(routing.weight.norm(dim=1).mean()))
    weight = torch.cat([routing.weight, torch.zeros(3, 8)])
    assert simplicity(routing._replace(weight=weight)) == simplicity(routing)
    assert simplicity(routing._replace(weight=torch.zeros(4, 8))) == 0


def test_efficiency_is_the_active_share_with_the_gradient_of_the_scores() -> None:
    routing = random_routing()
    probs = routing.probs.clone().requires_grad_()
    loss = efficiency(routing._replace(probs=probs))
    assert float(loss.detach()) == pytest.approx(float(routing.mask.sum()) / 30)
    loss.backward()
    torch.testing.assert_close(probs.grad, torch.full((10, 4), 1 / 30))


def test_dynamic_is_the_mean_entropy() -> None:
    routing = random_routing()
    expected = torch.distributions.Categorical(routing.probs[:, OPEN]).entropy().mean()
    torch.testing.assert_close(dynamic(routing), expected)
    certain = torch.eye(4, requires_grad=True)
    loss = dynamic(routing_of(torch.eye(4), certain))
    loss.backward()
    assert loss == 0
    assert certain.grad is not None
    assert certain.grad.isfinite().all()


def test_z_is_the_mean_squared_log_sum_exp() -> None:
    routing = random_routing()
    expected = routing.logits[:, OPEN].logsumexp(-1).square().mean()
    torch.testing.assert_close(z(routing), expected)
    assert z(routing._replace(is_open=torch.zeros(4, dtype=torch.bool))) == 0


def test_sparsity_penalty_with_an_even_load_is_the_mean_gate_sum_over_experts() -> None:
    probs = torch.stack([torch.roll(torch.tensor([2.0, 1.0, 0, 0]), shift) for shift in range(4)])
    assert sparsity_penalty(probs, torch.tensor(0.5)) == pytest.approx(0.5 * 3 / 4)
    both = sparsity_penalty(torch.stack([probs, 2 * probs]), torch.tensor([0.5, 0.1]))
    assert both.tolist() == pytest.approx([0.375, 0.15])
    assert sparsity_penalty(torch.zeros(3, 4), torch.tensor(1.0)) == 0


def test_sparsity_penalty_pushes_busy_experts_down_more() -> None:
    probs = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    sparsity_penalty(probs, torch.tensor(1.0)).backward()
    assert probs.grad is not None
    torch.testing.assert_close(probs.grad, torch.tensor([[0.25, 0.25 / 3]]).expand(3, 2))


def test_a_candidates_axis_and_vmap_give_each_its_own() -> None:
    routings = [random_routing(seed) for seed in range(3)]
    stacked = Routing(
        *(
            torch.stack([getattr(one, name) for one in routings]) if name != "state" else {}
            for name in Routing._fields
        )
    )
    normalize = torch.tensor([True, False, True])
    batched = auxiliary_losses(stacked, LOSS_NAMES, normalize)
    mapped = vmap(lambda one, flag: auxiliary_losses(one, LOSS_NAMES, flag))(stacked, normalize)
    assert tuple(batched) == LOSS_NAMES
    for position, one in enumerate(routings):
        alone = auxiliary_losses(one, LOSS_NAMES, bool(normalize[position]))
        for name in LOSS_NAMES:
            torch.testing.assert_close(batched[name][position], alone[name])
            torch.testing.assert_close(mapped[name][position], alone[name])


def test_an_unknown_loss_is_an_error() -> None:
    with pytest.raises(KeyError):
        auxiliary_losses(random_routing(), ["balance"])


@pytest.mark.parametrize("case", CASES)
def test_a_loss_that_is_offered_for_a_kind_has_a_gradient_there(case: str) -> None:
    config = CASES[case][1]
    for name in LOSS_NAMES:
        router = make(config).train()
        with torch.no_grad():  # away from the orthonormal start, where diversity is flat
            for parameter in router.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
        loss = auxiliary_losses(router(draw(32), torch.ones(6, dtype=torch.bool)), [name])[name]
        has_gradient = False
        if loss.requires_grad:
            found = torch.autograd.grad(loss, list(router.parameters()), allow_unused=True)
            has_gradient = any(g is not None and bool((g != 0).any()) for g in found)
        if name in ROUTER_LOSSES[config.kind]:  # type: ignore[index]
            assert has_gradient, name
