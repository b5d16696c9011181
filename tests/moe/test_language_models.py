"""The language models: causal, fair before training, counted right, and their parts against plain torch."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynamoe_search.errors import CandidateError
from dynamoe_search.moe.accounting import count_parameters, flops_per_token
from dynamoe_search.moe.activations import activate, activation_gradient
from dynamoe_search.moe.backbones import build_model
from dynamoe_search.moe.backbones.gpt import CausalAttention
from dynamoe_search.moe.experts import Experts, pool_forward
from dynamoe_search.moe.formulas import formula_counts, formula_flops, num_tokens
from dynamoe_search.moe.norms import RMSNorm
from dynamoe_search.specs.vocabulary import LOOKS_ACROSS_TOKENS, ROUTER_KINDS
from tests.training.populations import candidate

LENGTH, VOCABULARY = 12, 50
VARIANTS = [
    {"backbone": "gpt"},
    {"backbone": "gpt", "moe_every": 3, "expert": "swiglu"},
    {"backbone": "gpt", "tie_embeddings": False, "moe_every": 2},
    {"backbone": "mlp-lm"},
    {"backbone": "mlp-lm", "tie_embeddings": False, "expert": "swiglu"},
]


def language_model(kind: str = "top-any", seed: int = 0, **changes: object):
    one = candidate(seed, kind, (3, 5))
    return replace(one, model=replace(one.model, **changes))


def tokens(seed: int, batch: int = 3, length: int = LENGTH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (batch, length), generator=generator)


def leaks(kind: str, backbone: str, training: bool) -> float:
    """By how much earlier logits change if later tokens do, at most over all places."""
    model = build_model(language_model(kind, backbone=backbone), (LENGTH,), VOCABULARY)
    for seed in range(3):  # running thresholds have values
        _, routings = model.train()(tokens(10 + seed))
        for layer, routing in zip(model.layers, routings, strict=True):
            for name, value in routing.state.items():
                layer.router.get_buffer(name).copy_(value)
    model.train(training)
    x = tokens(1, batch=4)
    worst = 0.0
    with torch.no_grad():
        before, _ = model(x)
        for place in range(1, LENGTH):
            changed = x.clone()
            changed[:, place:] = (changed[:, place:] + 1 + place) % VOCABULARY
            after, _ = model(changed)
            worst = max(worst, (after - before)[:, :place].abs().max().item())
    return worst


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("backbone", ["gpt", "mlp-lm"])
@pytest.mark.parametrize("kind", [kind for kind in ROUTER_KINDS if kind not in LOOKS_ACROSS_TOKENS])
def test_a_later_token_changes_no_earlier_logit(kind: str, backbone: str, training: bool) -> None:
    assert leaks(kind, backbone, training) < 1e-5


@pytest.mark.parametrize("kind", LOOKS_ACROSS_TOKENS)
def test_the_routers_that_are_refused_would_tell(kind: str) -> None:
    assert leaks(kind, "gpt", training=True) > 1e-3
    assert leaks(kind, "gpt", training=False) < 1e-5


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(VARIANTS),
    st.sampled_from([16, 64, 256]),
    st.sampled_from([257, 1000, 10_000]),
    st.integers(0, 5),
)
def test_before_training_the_loss_is_the_logarithm_of_the_vocabulary(
    variant: dict, width: int, vocabulary: int, seed: int
) -> None:
    one = language_model(seed=seed, d_model=width, **variant)
    model = build_model(one, (LENGTH,), vocabulary).eval()
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randint(vocabulary, (2, 40, LENGTH), generator=generator)
    with torch.no_grad():
        loss = F.cross_entropy(model(x)[0].flatten(0, 1), y.flatten()).item()
    assert loss == pytest.approx(math.log(vocabulary), rel=0.02)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", ROUTER_KINDS)
def test_the_formula_agrees_with_the_model(kind: str, variant: dict) -> None:
    one = language_model(kind, **variant)
    model = build_model(one, (LENGTH,), VOCABULARY)
    counts = count_parameters(model)
    assert counts == formula_counts(one, (LENGTH,), VOCABULARY)
    everything = sum(parameter.numel() for parameter in model.parameters())
    assert counts.total + counts.embedding == everything
    mean_k = (1.5, 0.25)
    formula = formula_flops(one, (LENGTH,), VOCABULARY, mean_k)
    assert flops_per_token(model, (LENGTH,), mean_k) == pytest.approx(formula)
    assert num_tokens(one, (LENGTH,)) == LENGTH


def test_a_gpt_counted_by_hand() -> None:
    one = language_model("top-k", backbone="gpt", moe_every=2, expert="swiglu", d_model=8)
    counts = formula_counts(one, (LENGTH,), VOCABULARY)
    expert = 8 * 24 + 24 + 12 * 8 + 8
    attention = 8 + 8 * 24 + 8 * 8
    assert counts.embedding == VOCABULARY * 8
    assert counts.expert_per_layer == (expert, expert)
    assert counts.shared == 4 * (attention + 8) + 2 * expert + 8
    flops = formula_flops(one, (LENGTH,), VOCABULARY, (1.0, 2.0))
    products = 4 * (4 * 64 + 2 * LENGTH * 8) + (2 + 3) * 3 * 8 * 12 + (3 + 5) * 8 + 8 * VOCABULARY
    assert flops == 2 * products


def test_heads_that_do_not_fit_the_width_are_refused() -> None:
    with pytest.raises(CandidateError, match="even parts"):
        build_model(language_model(backbone="gpt", d_model=12, num_heads=4), (LENGTH,), VOCABULARY)


def test_swiglu_and_its_gradient_are_those_of_torch() -> None:
    u = torch.randn(7, 24, dtype=torch.float64, requires_grad=True)
    gate, value = u.chunk(2, -1)
    expected = F.silu(gate) * value
    upstream = torch.randn(7, 12, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((expected * upstream).sum(), u)
    torch.testing.assert_close(activate(u, 12), expected)
    torch.testing.assert_close(activation_gradient(upstream, u.detach()), gradient)


def test_swiglu_experts_are_the_same_in_both_backends() -> None:
    torch.manual_seed(0)
    experts = Experts(8, 12, 3, "swiglu")
    pool = tuple(experts.parameters())
    rows, gate = torch.randn(1, 9, 8, requires_grad=True), torch.randn(1, 9, 3, requires_grad=True)
    mask = torch.rand(1, 9, 3) < 0.6
    found = []
    for backend in ("grouped", "dense"):
        y = pool_forward(rows, gate, mask, experts.layout, backend, *pool)
        found.append((y, *torch.autograd.grad(y.square().sum(), (rows, gate, *pool))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    alone = [
        F.silu((rows[0] @ experts.w1[e] + experts.b1[e])[:, :12])
        * (rows[0] @ experts.w1[e] + experts.b1[e])[:, 12:]
        @ experts.w2[e]
        + experts.b2[e]
        for e in range(3)
    ]
    weights = (gate * mask)[0]
    expected = sum(weights[:, e : e + 1] * alone[e] for e in range(3))
    torch.testing.assert_close(found[0][0][0], expected, rtol=1e-4, atol=1e-5)


def test_rms_norm_is_torchs() -> None:
    x = torch.randn(5, 16)
    expected = F.rms_norm(x, (16,), eps=1e-6)
    torch.testing.assert_close(RMSNorm(16)(x), expected)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5))
def test_attention_sees_how_far_tokens_are_apart_and_not_where(seed: int, shift: int) -> None:
    """The scores of rotary positions depend on differences: turned by `shift` more, the scores stay."""
    torch.manual_seed(seed)
    attention = CausalAttention(16, 2, 20)
    query, key = torch.randn(2, 1, 2, 10, 8)

    def scores(first: int) -> Tensor:
        padding = torch.zeros(1, 2, first, 8)
        turned = [
            attention._turned(torch.cat([padding, one], 2))[:, :, first:] for one in (query, key)
        ]
        return turned[0] @ turned[1].mT

    torch.testing.assert_close(scores(0), scores(shift), rtol=1e-4, atol=1e-4)
