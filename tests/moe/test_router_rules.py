"""Each routing rule against its slow loop, and the cases where rules are easy to get wrong."""

from collections.abc import Callable
from fractions import Fraction
from math import floor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dynamoe_search.moe.losses import sparsity_penalty
from dynamoe_search.moe.routers import Router
from dynamoe_search.moe.routers.selection import rank_of
from dynamoe_search.records import RouterConfig
from tests.moe.router_cases import D_MODEL, draw, learn_running_values, make, rows_of
from tests.oracles import routing as oracle

OPEN = torch.tensor([True, True, False, True, True, True])
ALL = torch.ones(6, dtype=torch.bool)
Rule = Callable[[list[list[float]], list[bool], RouterConfig], list[dict[int, float]]]


def per_token(rule: Callable[..., dict[int, float]], *settings: str) -> Rule:
    def all_tokens(
        rows: list[list[float]], is_open: list[bool], config: RouterConfig
    ) -> list[dict[int, float]]:
        return [rule(row, is_open, *(getattr(config, name) for name in settings)) for row in rows]

    return all_tokens


SOFT: dict[str, float] = {"temperature": 0.5, "noise": 0.0, "bias_rate": 0.0}
RULES: list[tuple[RouterConfig, Rule]] = [
    *(
        (RouterConfig(kind="percentile", tau=tau, **SOFT), per_token(oracle.percentile, "tau"))
        for tau in (0.1, 0.3, 0.5, 0.75, 0.99)
    ),
    *(
        (
            RouterConfig(kind="pooled-quantile", tau=tau, momentum=0.9, **SOFT),
            lambda rows, is_open, config: oracle.pooled_quantile(rows, is_open, config.tau),
        )
        for tau in (0.2, 0.5, 0.9)
    ),
    *(
        (
            RouterConfig(kind="relative-to-max", rho=rho, **SOFT),
            per_token(oracle.relative_to_max, "rho"),
        )
        for rho in (0.1, 0.5, 1.0)
    ),
    *(
        (
            RouterConfig(kind="range-fraction", tau=tau, **SOFT),
            per_token(oracle.range_fraction, "tau"),
        )
        for tau in (0.1, 0.5, 0.9)
    ),
    *(
        (
            RouterConfig(kind="top-p", p=p, temperature=0.5, bias_rate=0.0),
            per_token(oracle.top_p, "p"),
        )
        for p in (0.0, 0.3, 0.7, 0.95, 1.0)
    ),
    *(
        (
            RouterConfig(kind="top-k", k=k, softmax=order, **SOFT),
            per_token(oracle.top_k, "k", "softmax"),
        )
        for k in (1, 2, 5, 8)
        for order in ("before", "after")
    ),
    *(
        (
            RouterConfig(kind="expert-choice", capacity=c, temperature=0.5, momentum=0.9),
            lambda rows, is_open, config: oracle.expert_choice(rows, is_open, config.capacity),
        )
        for c in (0.01, 1.0, 2.3, 9.0)
    ),
    (RouterConfig(kind="relu", target_active=2.0, sparsity_step=1.2), per_token(oracle.relu)),
]


def name_of(case: object) -> str:
    if not isinstance(case, RouterConfig):
        return ""
    settings = (case.k, case.softmax, case.tau, case.rho, case.p, case.capacity)
    return "-".join([case.kind, *(str(value) for value in settings if value is not None)])


@pytest.mark.parametrize(("config", "rule"), RULES, ids=name_of)
@pytest.mark.parametrize("is_open", [ALL, OPEN, torch.arange(6) == 3], ids=["all", "some", "one"])
def test_equals_the_slow_loop(config: RouterConfig, rule: Rule, is_open: Tensor) -> None:
    router = make(config).train()
    tokens = 2 * draw(40, 3)
    routing = router(tokens, is_open)
    logits = (tokens @ router.get_parameter("weight").t()).double() / (config.temperature or 1)
    gate = rows_of(rule(logits.tolist(), is_open.tolist(), config), 6)
    assert torch.equal(routing.mask, gate > 0)
    torch.testing.assert_close(routing.gate, gate)


@pytest.mark.parametrize("k", [1, 3, 20])
def test_null_experts_equal_the_slow_loop(k: int) -> None:
    config = RouterConfig(kind="null-experts", k=k, null_experts=3, temperature=0.5, bias_rate=0.0)
    router = make(config)
    tokens = draw(40, 3)
    routing = router(tokens, OPEN)
    rows = (tokens @ router.get_parameter("weight").t() / 0.5).double().tolist()
    null_rows = (tokens @ router.get_parameter("null_weight").t() / 0.5).double().tolist()
    answers = [
        oracle.null_experts(row, OPEN.tolist(), null, k)
        for row, null in zip(rows, null_rows, strict=True)
    ]
    gate = rows_of([real for real, _ in answers], 6)
    assert torch.equal(routing.mask, gate > 0)
    torch.testing.assert_close(routing.gate, gate)
    num_null = sum(count for _, count in answers)
    assert routing.null_load == pytest.approx(num_null / 3 / 40)
    assert (routing.mask.sum(-1) == 0).any() == (k < 20)


# Experts per token of the percentile rule, from counting in a numerical experiment: one row per
# number of experts, one column per tau.
TAUS = (0.25, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9)
COUNTS = {
    2: (1, 1, 1, 1, 1, 1, 1),
    3: (2, 1, 1, 1, 1, 1, 1),
    4: (3, 2, 2, 1, 1, 1, 1),
    6: (4, 3, 2, 2, 2, 1, 1),
    8: (6, 4, 3, 3, 2, 2, 1),
    16: (12, 8, 6, 5, 4, 3, 2),
}


@pytest.mark.parametrize("num_experts", COUNTS)
def test_percentile_gives_every_token_the_same_number(num_experts: int) -> None:
    for tau, count in zip(TAUS, COUNTS[num_experts], strict=True):
        router = make(RouterConfig(kind="percentile", tau=tau, **SOFT), num_experts)
        mask = router(draw(200), torch.ones(num_experts, dtype=torch.bool)).mask
        assert (mask.sum(-1) == count).all()


@given(num_experts=st.integers(1, 40), tau=st.integers(1, 99), noise=st.sampled_from([0.0, 0.3]))
def test_percentile_selects_what_top_k_selects(num_experts: int, tau: int, noise: float) -> None:
    exact = Fraction(tau, 100)
    k = max(num_experts - 1 - floor((num_experts - 1) * exact), 1)
    settings = SOFT | {"noise": noise}
    one = make(RouterConfig(kind="percentile", tau=float(exact), **settings), num_experts)
    other = make(RouterConfig(kind="top-k", k=k, softmax="before", **SOFT), num_experts)
    is_open = torch.ones(num_experts, dtype=torch.bool)
    tokens = 0.3 * draw(16)
    mask = one.train()(tokens, is_open).mask
    assert (mask.sum(-1) == k).all()
    if noise == 0:
        assert torch.equal(mask, other(tokens, is_open).mask)


def test_percentile_falls_back_on_exact_ties() -> None:
    router = make(RouterConfig(kind="percentile", tau=0.5, **SOFT))
    mask = router(torch.zeros(3, D_MODEL), OPEN).mask
    assert torch.equal(mask, (torch.arange(6) == 0).expand(3, 6))


def with_probabilities(router: Router, probs: list[float]) -> Tensor:
    """Sets the router up so that one token gets these probabilities; returns that token."""
    with torch.no_grad():
        weight = router.get_parameter("weight").zero_()
        weight[: len(probs), 0] = torch.tensor(probs).log()
    return torch.eye(1, D_MODEL)


@pytest.mark.parametrize(
    ("p", "count"), [(0.0, 1), (0.49, 1), (0.5, 2), (0.74, 2), (0.75, 3), (0.875, 4), (1.0, 4)]
)
def test_top_p_is_strict_and_keeps_the_expert_that_crosses(p: float, count: int) -> None:
    router = make(RouterConfig(kind="top-p", p=p, temperature=1.0, bias_rate=0.0), 4)
    token = with_probabilities(router, [0.125, 0.5, 0.125, 0.25])
    routing = router(token, torch.ones(4, dtype=torch.bool))
    assert routing.probs[0].tolist() == [0.125, 0.5, 0.125, 0.25]  # exact, so the ties are real
    assert routing.mask.sum() == count
    assert torch.equal(routing.gate, routing.probs * routing.mask)
    assert routing.mask[0, 1]


def test_top_k_among_equals_takes_the_first() -> None:
    for order in ("before", "after"):
        router = make(RouterConfig(kind="top-k", k=2, softmax=order, **SOFT))
        mask = router(torch.zeros(2, D_MODEL), OPEN).mask
        assert torch.equal(mask, (torch.arange(6) < 2).expand(2, 6))


def test_rank_breaks_ties_by_position() -> None:
    scores = torch.tensor([[1.0, 3.0, 1.0, 3.0, 2.0]])
    assert rank_of(scores).tolist() == [[3, 0, 4, 1, 2]]


def test_pooled_quantile_fixes_the_mean_and_lets_tokens_differ() -> None:
    router = make(RouterConfig(kind="pooled-quantile", tau=0.6, momentum=0.9, **SOFT))
    mask = router.train()(4 * draw(500), ALL).mask
    counts = mask.sum(-1)
    assert counts.min() >= 1
    assert len(counts.unique()) > 1
    assert counts.float().mean() == pytest.approx(0.4 * 6, rel=0.05)


def test_cutoffs_at_inference_use_as_many_experts_as_training() -> None:
    configs = [
        RouterConfig(kind="pooled-quantile", tau=0.6, momentum=0.9, **(SOFT | {"noise": 0.1})),
        RouterConfig(kind="expert-choice", capacity=2.0, temperature=0.5, momentum=0.9),
    ]
    for config in configs:
        router = make(config)
        for step in range(30):
            learn_running_values(router, draw(256, step), OPEN)
        in_training = router.train()(draw(2000, 99), OPEN).mask.sum(-1).float().mean()
        at_inference = router.eval()(draw(2000, 99), OPEN).mask.sum(-1).float().mean()
        assert at_inference == pytest.approx(float(in_training), rel=0.1)


def test_expert_choice_gives_every_open_expert_the_same_load() -> None:
    router = make(RouterConfig(kind="expert-choice", capacity=2.0, temperature=1.0, momentum=0.9))
    routing = router.train()(draw(100), OPEN)
    assert routing.mask.sum(0).tolist() == [40, 40, 0, 40, 40, 40]
    accepted = torch.where(routing.mask, routing.probs, 2.0).amin(0)
    assert torch.equal(routing.state["cutoff"][OPEN], accepted[OPEN])


@pytest.mark.parametrize("target", [1.0, 2.5])
def test_relu_is_steered_to_its_target(target: float) -> None:
    config = RouterConfig(kind="relu", target_active=target, sparsity_step=1.2)
    router = make(config, 8).train()
    optimizer = torch.optim.SGD(router.parameters(), lr=0.03)
    wanted = draw(8, 5)  # the task asks for gates that are positive for about half of the experts
    is_open = torch.ones(8, dtype=torch.bool)
    means = []
    for step in range(500):
        tokens = draw(64, step)
        tokens[:, 0] = 1.0  # a rule without intercept cannot be sparse on inputs that lie evenly
        routing = router(tokens, is_open)
        task = (routing.gate - torch.relu(tokens @ wanted)).square().sum(-1).mean()
        loss = task + sparsity_penalty(routing.probs, routing.state["sparsity"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        router.get_buffer("sparsity").copy_(routing.state["sparsity"])
        means.append(float(routing.mask.sum(-1).float().mean()))
    assert means[0] > 3
    assert sum(means[-200:]) / 200 == pytest.approx(target, rel=0.15)


def test_relu_coefficient_moves_by_its_step_within_limits() -> None:
    router = make(RouterConfig(kind="relu", target_active=0.5, sparsity_step=1.5)).train()
    tokens = draw(50)
    sparsity = router.get_buffer("sparsity")
    assert sparsity == pytest.approx(1e-8)
    assert router(tokens, ALL).state["sparsity"] == pytest.approx(1.5e-8)
    router.get_buffer("target_active").fill_(5.9)
    assert router(tokens, ALL).state["sparsity"] == pytest.approx(1e-8 / 1.5)
    for _ in range(20):
        learn_running_values(router, tokens, ALL)
    assert sparsity == pytest.approx(1e-10)


def test_random_k_follows_its_histogram_and_uses_experts_alike() -> None:
    histogram = (0.1, 0.2, 0.0, 0.3, 0.4)
    router = make(RouterConfig(kind="random-k", histogram=histogram))
    routing = router(draw(20_000), ALL)
    counts = routing.mask.sum(-1)
    measured = [float((counts == k).float().mean()) for k in range(6)]
    assert measured == pytest.approx([*histogram, 0.0], abs=0.015)
    load = routing.mask.float().mean(0)
    assert load.tolist() == pytest.approx([float(load.mean())] * 6, rel=0.03)
    assert torch.equal(routing.gate.sum(-1).round(decimals=5), (counts > 0).float())
    assert not list(router.parameters())
    few = router(draw(1000), torch.arange(6) < 2).mask.sum(-1)
    assert few.max() == 2


def test_dense_weighs_all_open_experts_with_the_root_of_their_number() -> None:
    router = make(RouterConfig(kind="dense"))
    routing = router(draw(3), OPEN)
    torch.testing.assert_close(routing.gate, OPEN.expand(3, 6) * 5**-0.5)
    assert not list(router.parameters())
