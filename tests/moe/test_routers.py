"""What every router promises: alone, padded, in a pack, with closed slots, in training and out."""

import math

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from dynamoe_search.moe.losses import auxiliary_losses
from dynamoe_search.moe.packs import RouterGroup, RouterPack
from dynamoe_search.moe.routers import ROUTERS, Router, build_router
from dynamoe_search.moe.routers.relu import Relu
from dynamoe_search.moe.routing import Routing
from dynamoe_search.records import RouterConfig
from dynamoe_search.specs.vocabulary import LOSS_NAMES, ROUTER_KINDS
from tests.moe.router_cases import (
    CASES,
    D_MODEL,
    WIDTHS,
    draw,
    learn_running_values,
    make,
    padded,
    run_padded,
    tensors_of,
)

each_case = pytest.mark.parametrize("case", CASES)
each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
OPEN = torch.tensor([True, True, False, True, True, True])


def score(routing: Routing, target: Tensor) -> Tensor:
    """A number whose gradient reaches everything that a loss could reach."""
    task = ((routing.gate.sum(-1) - 1).square() + (routing.gate * target).sum(-1)).mean()
    return task + sum(auxiliary_losses(routing, LOSS_NAMES).values())


def assert_same_decision(one: Routing, other: Routing) -> None:
    assert torch.equal(one.mask, other.mask)
    for field in ("gate", "probs", "logits", "weight"):
        torch.testing.assert_close(getattr(one, field), getattr(other, field))
    assert one.null_load is not None
    assert other.null_load is not None
    torch.testing.assert_close(one.null_load, other.null_load)
    assert one.state.keys() == other.state.keys()
    for name in one.state:
        torch.testing.assert_close(one.state[name], other.state[name])


def narrow(routing: Routing, router: Router, width: int) -> Routing:
    """A padded routing without its padding."""
    state = {
        name: value.narrow(router.expert_dims[name], 0, width)
        if name in router.expert_dims
        else value
        for name, value in routing.state.items()
    }
    fields = {
        name: getattr(routing, name)[:, :width] for name in ("gate", "mask", "probs", "logits")
    }
    return routing._replace(
        **fields, weight=routing.weight[:width], is_open=routing.is_open[:width], state=state
    )


def test_every_kind_has_a_router_and_a_case() -> None:
    assert set(ROUTERS) == set(ROUTER_KINDS)
    assert {configs[0].kind for configs in CASES.values()} == set(ROUTER_KINDS)


@each_case
@each_mode
def test_shapes_types_and_consistency(case: str, training: bool) -> None:
    tokens = draw(16)
    for seed, config in enumerate(CASES[case]):
        router = make(config, seed=seed)
        learn_running_values(router, tokens, OPEN)
        routing = router.train(training)(tokens, OPEN)
        assert routing.gate.shape == routing.mask.shape == (16, 6)
        assert routing.gate.dtype == routing.probs.dtype == routing.logits.dtype == torch.float32
        assert routing.mask.dtype == torch.bool
        assert routing.weight.shape == (6, D_MODEL)
        assert routing.unrouted.shape == (D_MODEL,)
        assert not routing.mask[:, ~OPEN].any()
        assert (routing.gate[~routing.mask] == 0).all()
        assert (routing.probs[:, ~OPEN] == 0).all()
        assert (routing.logits[:, ~OPEN] == 0).all()
        assert bool(routing.state) <= training
        assert set(routing.state) <= {name for name, _ in router.named_buffers()}
        assert not any(value.requires_grad for value in routing.state.values())
        assert set(router.state_dict()) >= set(routing.state)


@each_case
@each_mode
def test_a_pack_equals_each_router_alone(case: str, training: bool) -> None:
    tokens = [draw(16, seed) for seed in range(3)]
    target = draw(16, 9)[:, :6]
    routers = [
        make(config, width, seed)
        for seed, (config, width) in enumerate(zip(CASES[case], WIDTHS, strict=True))
    ]
    for seed, router in enumerate(routers):
        if "stream" in tensors_of(router):
            router.get_buffer("stream").fill_(seed)
        learn_running_values(router, tokens[seed], torch.ones(WIDTHS[seed], dtype=torch.bool))
        router.train(training)
    assert len({router.signature() for router in routers}) == 1
    wide = [padded(router, 6) for router in routers]
    names = [name for name, _ in routers[0].named_parameters()]
    parameters = {name: torch.stack([own[name] for own in wide]).detach() for name in names}
    buffers = {
        name: torch.stack([own[name] for own in wide]) for name in wide[0] if name not in names
    }
    is_open = torch.arange(6) < torch.tensor([[4], [5], [2]])

    def run(own: dict[str, Tensor], more: dict[str, Tensor], x: Tensor, opened: Tensor) -> Routing:
        routing: Routing = functional_call(routers[0], own | more, (x, opened))
        return routing

    def loss(own: dict[str, Tensor], more: dict[str, Tensor], x: Tensor, opened: Tensor) -> Tensor:
        return score(run(own, more, x, opened), target)

    pack = vmap(run)(parameters, buffers, torch.stack(tokens), is_open)
    gradients = vmap(grad(loss))(parameters, buffers, torch.stack(tokens), is_open)
    for i, router in enumerate(routers):
        own = Routing(
            *(
                {name: value[i] for name, value in field.items()}
                if isinstance(field, dict)
                else field[i]
                for field in pack
            )
        )
        width = WIDTHS[i]
        alone = router(tokens[i], is_open[i, :width])
        assert_same_decision(narrow(own, router, width), alone)
        loss_alone = score(alone, target[:, :width])
        if not names:
            continue
        expected = torch.autograd.grad(loss_alone, list(router.parameters()), allow_unused=True)
        for name, wanted in zip(names, expected, strict=True):
            dim = router.expert_dims.get(name)
            got = gradients[name][i]
            got = got if dim is None else got.narrow(dim, 0, width)
            right = torch.zeros_like(got) if wanted is None else wanted
            torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-6)


@each_case
@each_mode
def test_padding_changes_nothing(case: str, training: bool) -> None:
    tokens = draw(16)
    for seed, config in enumerate(CASES[case]):
        router = make(config, 4, seed)
        learn_running_values(router, tokens, torch.ones(4, dtype=torch.bool))
        router.train(training)
        wide = run_padded(router, 9, tokens, 4)
        plain = router(tokens, torch.ones(4, dtype=torch.bool))
        assert_same_decision(narrow(wide, router, 4), plain)
        one, other = (auxiliary_losses(routing, LOSS_NAMES) for routing in (plain, wide))
        for name in LOSS_NAMES:
            torch.testing.assert_close(one[name], other[name])


@each_case
@each_mode
def test_gradients_are_finite_in_hard_places(case: str, training: bool) -> None:
    hard = torch.cat([torch.zeros(2, D_MODEL), draw(2), 1e4 * draw(2), 1e-20 * draw(2)])
    places = [OPEN, torch.zeros(6, dtype=torch.bool), torch.arange(6) == 3]
    for config in CASES[case]:
        for is_open in places:
            router = make(config).train(training)
            tokens = hard.clone().requires_grad_()
            routing = router(tokens, is_open)
            assert routing.mask.any() <= is_open.any()
            loss = score(routing, torch.ones(8, 6))
            assert loss.isfinite()
            if loss.requires_grad:
                loss.backward()
                found = [tokens.grad, *(p.grad for p in router.parameters())]
                assert all(g is None or g.isfinite().all() for g in found)


@each_case
def test_a_token_routes_alike_in_any_company_in_evaluation(case: str) -> None:
    if case == "random-k":
        pytest.skip("its numbers belong to positions of a batch")
    tokens = draw(32)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    for config in CASES[case]:
        router = make(config)
        learn_running_values(router, draw(32, 5), OPEN)
        router.eval()
        whole = router(tokens, OPEN)
        shuffled = router(tokens[order], OPEN)
        assert torch.equal(whole.mask[order], shuffled.mask)
        torch.testing.assert_close(whole.gate[order], shuffled.gate)
        alone = torch.cat([router(token[None], OPEN).mask for token in tokens])
        assert torch.equal(whole.mask, alone)


@each_case
def test_only_kinds_that_say_so_depend_on_the_batch_in_training(case: str) -> None:
    tokens = draw(32)
    changed = False
    for config in CASES[case]:
        router = make(config).train()
        if "noise" in tensors_of(router):
            router.get_buffer("noise").zero_()
        whole = router(tokens, OPEN).mask[:4]
        other = router(torch.cat([tokens[:4], 5 * draw(28, 3)]), OPEN).mask[:4]
        changed |= not torch.equal(whole, other)
    if case == "random-k":  # which depends on a token's place, and not on the other tokens
        changed = not torch.equal(router(draw(32), OPEN).mask[:4], router(draw(16), OPEN).mask[:4])
    assert changed == router.is_batch_dependent


@each_case
def test_is_float32_under_autocast(case: str) -> None:
    tokens = draw(16).bfloat16()
    router = make(CASES[case][1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = router(tokens, OPEN)
    high = router(tokens.float(), OPEN)
    assert_same_decision(low, high)
    assert low.gate.dtype == torch.float32


@each_case
def test_numbers_of_a_candidate_are_tensors_outside_the_state(case: str) -> None:
    router = make(CASES[case][0])
    running = set(make(CASES[case][0]).train()(draw(4), OPEN).state)
    parameters = {name for name, _ in router.named_parameters()}
    assert set(router.state_dict()) == parameters | running
    for name, tensor in router.named_buffers():
        assert tensor.ndim == 0 or name in router.expert_dims


def test_noise_and_experts_are_drawn_from_the_stream() -> None:
    tokens = draw(16)
    for case in ("percentile, noisy", "top-k, after", "random-k"):
        router = make(CASES[case][1]).train()
        first = router(tokens, OPEN)
        assert torch.equal(first.gate, router(tokens, OPEN).gate)
        router.get_buffer("stream").fill_(7)
        assert not torch.equal(first.gate, router(tokens, OPEN).gate)


def test_build_router_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="top-p"):
        build_router(RouterConfig(kind="hash"), 4, D_MODEL)
    with pytest.raises(ValueError, match="temperature, bias_rate"):
        build_router(RouterConfig(kind="top-p", p=0.4), 4, D_MODEL)


def test_the_bias_evens_out_the_load_and_leaves_weights_alone() -> None:
    tokens = draw(256) + 1
    for case in ("percentile", "relative-to-max", "range-fraction", "top-k, before", "top-p"):
        router = make(CASES[case][1]).train()

        def imbalance(router: Router = router) -> float:
            load = router(tokens, OPEN).mask.float().mean(0)[OPEN]
            return float(load.std() / load.mean())

        before = imbalance()
        for _ in range(200):
            learn_running_values(router, tokens, OPEN)
        assert imbalance() < before / 2, case
        routing = router(tokens, OPEN)
        assert (router.get_buffer("bias")[~OPEN] == 0).all()
        if case == "top-k, before":
            assert torch.equal(routing.gate, routing.probs * routing.mask)
        router.get_buffer("bias_rate").zero_()
        assert torch.equal(router(tokens, OPEN).state["bias"], router.get_buffer("bias"))


def test_without_a_rate_the_bias_stays_zero() -> None:
    router = make(CASES["top-k, after"][1])
    for step in range(3):
        learn_running_values(router, draw(32, step), OPEN)
    assert (router.get_buffer("bias") == 0).all()


def test_running_cutoffs_start_unset_and_then_follow_the_batches() -> None:
    router = make(CASES["pooled-quantile"][1])
    assert router.get_buffer("cutoff") == -math.inf
    assert torch.equal(router.eval()(draw(4), OPEN).mask, OPEN.expand(4, 6))
    learn_running_values(router, draw(64), OPEN)
    first = router.get_buffer("cutoff").clone()
    now = make(CASES["pooled-quantile"][1]).train()(draw(64, 1), OPEN).state["cutoff"]
    router.get_buffer("bias").zero_()
    learn_running_values(router, draw(64, 1), OPEN)
    torch.testing.assert_close(router.get_buffer("cutoff"), 0.9 * first + 0.1 * now)


@each_case
@pytest.mark.parametrize("num_tokens", [37, 997])
def test_a_member_of_a_stack_gets_the_same_bits_at_any_place(case: str, num_tokens: int) -> None:
    # Odd sizes: on the CPU some functions compute the end of a tensor by other code than the rest.
    torch.manual_seed(0)
    router = build_router(CASES[case][1], 5, D_MODEL)
    tokens, slope = torch.randn(num_tokens, D_MODEL), torch.randn(num_tokens, 5)
    is_open = torch.arange(5) < 4
    names = [name for name, _ in router.named_parameters()]

    def run(size: int, place: int) -> list[Tensor]:
        state = {**dict(router.named_parameters()), **dict(router.named_buffers())}
        stacked = {key: x.detach().expand(size, *x.shape).clone() for key, x in state.items()}
        others = torch.randn(size, num_tokens, D_MODEL)
        others[place] = tokens
        leaves = [others.requires_grad_(), *(stacked[name].requires_grad_() for name in names)]
        group = RouterGroup(range(size), router)
        own = [stacked[name] for name in group.names]
        fields, new = group.run(others, is_open.expand(size, 5), own)
        gate, mask, probs, logits, *_ = fields
        total = (gate * slope).sum() + (logits * slope).sum()
        gradients: tuple[Tensor | None, ...] = ()
        if total.requires_grad:  # the controls learn nothing
            gradients = torch.autograd.grad(total, leaves, allow_unused=True)
        whole = [gate, mask, probs, *gradients, *new.values()]
        return [x[place] for x in whole if x is not None]

    first = run(2, 0)
    for size, place in ((2, 1), (3, 2), (5, 4), (17, 16)):
        for one, other in zip(first, run(size, place), strict=True):
            assert torch.equal(one, other)


@each_case
@each_mode
@pytest.mark.parametrize("num", [1, 2, 5])
def test_a_rule_decides_for_a_stack_what_it_decides_for_each(
    case: str, training: bool, num: int
) -> None:
    configs = [CASES[case][i % len(WIDTHS)] for i in range(num)]
    widths = [WIDTHS[i % len(WIDTHS)] for i in range(num)]
    routers = [make(*own, seed) for seed, own in enumerate(zip(configs, widths, strict=True))]
    tokens = torch.stack([draw(16, seed) for seed in range(num)])
    for i, router in enumerate(routers):
        learn_running_values(router, tokens[i], torch.ones(widths[i], dtype=torch.bool))
    pack = RouterPack(routers, 6).train(training)
    (group,) = pack.groups.values()
    is_open = torch.arange(6) < torch.tensor(widths)[:, None]
    own = [getattr(pack, f"g0_{name}") for name in group.names]
    fields, state = group.run(tokens, is_open, own)
    for i, router in enumerate(routers):
        alone = router.train(training)(tokens[i], is_open[i, : widths[i]])
        slots = slice(widths[i])
        gate, mask, probs, logits, weight, null_load = (field[i] for field in fields)
        assert torch.equal(mask[:, slots], alone.mask)
        assert not mask[:, widths[i] :].any()
        pairs = [(gate, alone.gate), (probs, alone.probs), (logits, alone.logits)]
        for got, wanted in pairs:
            torch.testing.assert_close(got[:, slots], wanted)
        torch.testing.assert_close(weight[slots], alone.weight)
        torch.testing.assert_close(null_load, alone.null_load)
        for name, value in alone.state.items():
            got = state[name][i]
            torch.testing.assert_close(got[slots] if got.dim() else got, value)


def test_a_rule_that_inherits_from_ours_is_not_taken_for_it() -> None:
    class Own(Relu):
        pass

    own = [Own(4, 8, target_active=2.0, sparsity_step=1.1) for _ in range(2)]
    plain = [Relu(4, 8, target_active=2.0, sparsity_step=1.1) for _ in range(2)]
    packs = [RouterPack(some, 4) for some in (own, plain)]
    assert [pack.groups[0].is_stacked for pack in packs] == [False, True]
