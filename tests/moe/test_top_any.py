"""DynMoE's gate: against its slow loop, and where its gradient goes."""

import math

import pytest
import torch
from torch import Tensor

from dynamoe_search.moe.losses import auxiliary_losses, efficiency, load_balance
from dynamoe_search.moe.packs import RouterPack
from dynamoe_search.moe.routers import Router
from dynamoe_search.moe.routers.top_any import cosines
from dynamoe_search.records import RouterConfig
from tests.moe.router_cases import D_MODEL, draw, make, rows_of
from tests.oracles import routing as oracle

OPEN = torch.tensor([True, True, False, True, True, True])
THRESHOLD = 0.3


def top_any(num_experts: int = 6, **changes: object) -> Router:
    settings: dict[str, object] = {
        "threshold": THRESHOLD,
        "threshold_spread": 0.0,
        "logit_scale": 2.0,
        "learn_logit_scale": False,
        "weight_gradient": "sum",
    }
    return make(RouterConfig(kind="top-any", **(settings | changes)), num_experts)  # type: ignore[arg-type]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("threshold", [-2.0, 0.0, 0.3, 0.9])
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_equals_the_slow_loop(training: bool, threshold: float, scale: float) -> None:
    router = top_any(threshold=threshold, threshold_spread=0.2, logit_scale=scale).train(training)
    tokens = draw(60)
    routing = router(tokens, OPEN)
    rows = router.get_parameter("weight").double().tolist()
    limits = router.get_parameter("threshold").double().tolist()
    expected = [
        oracle.top_any(
            [oracle.cosine(token, row) for row in rows],
            OPEN.tolist(),
            limits,
            scale,
            training=training,
        )
        for token in tokens.double().tolist()
    ]
    gate = rows_of(expected, 6)
    assert torch.equal(routing.mask, gate > 0)
    torch.testing.assert_close(routing.gate, gate)


def test_starts_with_orthonormal_rows_and_scattered_thresholds() -> None:
    router = top_any(threshold_spread=0.5)
    rows = router.get_parameter("weight")
    torch.testing.assert_close(rows @ rows.t(), torch.eye(6))
    wide = top_any(500, threshold_spread=0.5)
    threshold = wide.get_parameter("threshold").detach()
    assert float(threshold.mean()) == pytest.approx(THRESHOLD, abs=0.1)
    assert float(threshold.std()) == pytest.approx(0.5, rel=0.1)
    assert (top_any().get_parameter("threshold") == THRESHOLD).all()


def test_scale_is_frozen_or_learned_and_at_most_a_hundred() -> None:
    frozen, learned = top_any(), top_any(learn_logit_scale=True, logit_scale=2.0)
    assert [name for name, _ in frozen.named_parameters()] == ["weight", "threshold"]
    assert "log_scale" in dict(learned.named_parameters())
    assert frozen.signature() != learned.signature()
    learned(draw(20), OPEN).probs.sum().backward()
    assert learned.get_parameter("log_scale").grad != 0
    with torch.no_grad():
        learned.get_parameter("log_scale").fill_(math.log(1e6))
    logits = learned(draw(20), OPEN).logits
    assert 50 < logits.abs().max() <= 100.001


def by_formula(router: Router, tokens: Tensor, upstream: Tensor, how: str) -> Tensor:
    """dL/dthreshold from dL/dgate, with the formulas written out."""
    scale = router.get_buffer("log_scale").exp()
    mask = router(tokens, OPEN).mask.float()
    k = mask.sum(-1, keepdim=True).clamp(min=1)
    if how == "constant":
        to_open = upstream / k
    else:
        mean = (upstream * mask).sum(-1, keepdim=True) / k
        to_open = (upstream - mean) / k
    opened = torch.sigmoid(scale * router.get_parameter("threshold"))
    return -(to_open * mask).sum(0) * scale * opened * (1 - opened)


@pytest.mark.parametrize("how", ["sum", "constant"])
def test_weight_gradient_follows_the_formula(how: str) -> None:
    router = top_any(weight_gradient=how, threshold=0.1).train()
    tokens, upstream = draw(50), draw(50, 1)[:, :6]
    (router(tokens, OPEN).gate * upstream).sum().backward()
    expected = by_formula(router, tokens, upstream, how)
    torch.testing.assert_close(router.get_parameter("threshold").grad, expected)


def test_a_lone_expert_gets_gradient_only_if_the_divisor_is_constant() -> None:
    token = torch.zeros(1, D_MODEL)
    for how in ("sum", "constant"):
        router = top_any(weight_gradient=how, threshold=0.5).train()
        alone = router.get_parameter("weight")[3].detach() + token  # cosine 1 with 3, 0 with others
        routing = router(alone, OPEN)
        assert routing.mask.nonzero().tolist() == [[0, 3]]
        (3 * routing.gate).sum().backward()
        gradient = router.get_parameter("threshold").grad
        assert gradient is not None
        assert (gradient[3] != 0) == (how == "constant")


def test_inactive_experts_get_no_gradient_from_the_task() -> None:
    for training in (True, False):
        router = top_any(weight_gradient="constant").train(training)
        tokens = draw(4)
        routing = router(tokens, OPEN)
        is_used = routing.mask.any(0)
        assert is_used.any()
        assert not is_used.all()
        (routing.gate * draw(4, 2)[:, :6]).sum().backward()
        for name in ("weight", "threshold"):
            gradient = router.get_parameter(name).grad
            assert gradient is not None
            assert (gradient[~is_used] == 0).all()


def test_tokens_without_experts_are_safe_in_training_and_served_in_evaluation() -> None:
    router = top_any(threshold=4.0)
    tokens = draw(10).requires_grad_()
    routing = router.train()(tokens, OPEN)
    assert not routing.mask.any()
    assert (routing.gate == 0).all()
    losses = auxiliary_losses(routing, ["load_balance", "diversity", "simplicity", "efficiency"])
    assert losses["load_balance"] == 0
    (routing.gate.sum() + sum(losses.values())).backward()
    assert tokens.grad is not None
    assert tokens.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in router.parameters())
    served = router.eval()(tokens, OPEN)
    assert (served.mask.sum(-1) == 1).all()
    assert torch.equal(served.gate, served.mask.float())


def test_the_fallback_goes_by_score_and_not_by_margin() -> None:
    router = top_any(2, threshold=0.0).eval()
    with torch.no_grad():
        router.get_parameter("weight").copy_(torch.eye(2, D_MODEL))
        router.get_parameter("threshold").copy_(torch.tensor([1.5, 1.1]))
    token = torch.zeros(1, D_MODEL)
    token[0, :2] = torch.tensor([1.0, 0.9])  # expert 0 has the score, expert 1 the margin
    assert router(token, torch.ones(2, dtype=torch.bool)).mask.tolist() == [[True, False]]


def test_efficiency_and_load_balance_reach_the_router_through_active_experts() -> None:
    for how in ("sum", "constant"):
        router = top_any(weight_gradient=how, threshold=0.1).train()
        tokens = draw(50)
        routing = router(tokens, OPEN)
        assert efficiency(routing) == routing.mask.float().sum() / 50 / 5
        efficiency(routing).backward(retain_graph=True)
        upstream = torch.full((50, 6), 1 / 50 / 5) * routing.mask.sum(-1, keepdim=True)
        expected = by_formula(router, tokens, upstream, "constant")
        threshold = router.get_parameter("threshold")
        torch.testing.assert_close(threshold.grad, expected)
        threshold.grad = None
        has_some = routing.mask.any(-1)
        load_balance(routing, False).backward()
        upstream = 5 * routing.mask[has_some].float().mean(0) / has_some.sum()
        expected = by_formula(router, tokens, upstream.expand(50, 6), "constant")
        torch.testing.assert_close(threshold.grad, expected)


def stacked(routers: list[Router], tokens: Tensor, is_open: Tensor) -> dict[str, Tensor]:
    """Gate, mask, what is open and the gradients of a weighted sum of all, of a pack that decides as one."""
    pack = RouterPack(routers, num_slots=6).train()
    tokens = tokens.clone().requires_grad_()
    routing = pack(tokens, is_open)
    parts = {"gate": routing.gate, "probs": routing.probs, "logits": routing.logits}
    sum(of(part) for part in parts.values()).backward()  # type: ignore[union-attr]
    own = {name: tensor.grad for name, tensor in pack.named_parameters()}
    return {**parts, "mask": routing.mask, "tokens": tokens.grad, **own}  # type: ignore[dict-item]


def of(part: Tensor) -> Tensor:
    weights = torch.randn(part.shape[-2:], generator=torch.Generator().manual_seed(part.shape[-1]))
    return (part * weights).sum()


@pytest.mark.parametrize("weight_gradient", ["sum", "constant"])
def test_a_pack_has_the_values_and_gradients_of_its_routers(weight_gradient: str) -> None:
    routers = [
        top_any(
            threshold=threshold,
            threshold_spread=0.3,
            weight_gradient=weight_gradient,
            learn_logit_scale=True,
        ).train()
        for threshold in (-0.5, 0.1, 0.6)
    ]
    tokens = draw(3 * 40).view(3, 40, D_MODEL)
    tokens[:, 0] = 0.0  # without a direction
    found = stacked(routers, tokens, OPEN.expand(3, -1))
    assert found["mask"].any(-1).logical_not().any()  # some open nobody
    for position, router in enumerate(routers):
        own = tokens[position].clone().requires_grad_()
        routing = router(own, OPEN)
        (of(routing.gate) + of(routing.probs) + of(routing.logits)).backward()
        assert torch.equal(found["mask"][position], routing.mask)
        expected = {"gate": routing.gate, "probs": routing.probs, "tokens": own.grad}
        expected |= {f"g0_{name}": tensor.grad for name, tensor in router.named_parameters()}
        for name, value in expected.items():
            torch.testing.assert_close(found[name][position], value, rtol=1e-4, atol=1e-6, msg=name)


def test_the_gradient_of_cosines_agrees_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(2)
    tokens, rows = (
        torch.randn(2, number, 5, generator=generator, dtype=torch.float64).requires_grad_()
        for number in (7, 3)
    )
    assert torch.autograd.gradcheck(cosines, (tokens, rows))
