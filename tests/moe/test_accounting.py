"""Accounting: the formula agrees with real models, and both with counts by hand."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dynamoe_search.errors import UsageError
from dynamoe_search.moe.accounting import count_parameters, flops_per_token
from dynamoe_search.moe.backbones import build_model
from dynamoe_search.moe.formulas import formula_counts, formula_flops, num_tokens
from dynamoe_search.moe.layer import MoELayer
from dynamoe_search.moe.routers import build_router
from dynamoe_search.records import (
    AdaptiveConfig,
    Candidate,
    LossWeights,
    ModelConfig,
    RouterConfig,
    ScheduleConfig,
    TrainConfig,
)
from dynamoe_search.specs.sections import RouterSection
from dynamoe_search.specs.vocabulary import ROUTER_KINDS, ROUTER_SETTINGS

SHAPE = (3, 8, 8)
CLASSES = 5


def router_config(kind: str, **changes: object) -> RouterConfig:
    """A router with the defaults of a study file."""
    names = ROUTER_SETTINGS[kind]
    defaults = {name: getattr(RouterSection(), name) for name in names}
    return RouterConfig(kind=kind, **{**defaults, **changes})


def make(
    kind: str = "top-k",
    backbone: str = "mlp",
    experts: tuple[int, ...] = (2, 3, 4),
    *,
    adaptive: bool = False,
    **changes: object,
) -> Candidate:
    return Candidate(
        study_seed=0,
        ordinal=0,
        model=ModelConfig(
            backbone=backbone,
            d_model=8,
            num_layers=len(experts),
            d_expert=12,
            num_heads=2,
            patch_size=4,
        ),
        schedule=ScheduleConfig(shape="uniform", min_experts=1, max_experts=8),
        experts_per_layer=experts,
        router=router_config(kind, **changes),
        losses=LossWeights(),
        train=TrainConfig(epochs=1, batch_size=4, learning_rate=1e-3),
        adaptive=AdaptiveConfig(max_experts=6, period=9, record_from=3, update_at=6)
        if adaptive
        else None,
    )


VARIANTS = [
    *((kind, {}) for kind in ROUTER_KINDS),
    ("top-any", {"learn_logit_scale": True}),
    ("top-any", {"adaptive": True}),
    ("top-any", {"adaptive": True, "learn_logit_scale": True}),
    ("top-k", {"bias_rate": 0.1}),
]


@pytest.mark.parametrize("backbone", ["mlp", "vit"])
@pytest.mark.parametrize(("kind", "changes"), VARIANTS)
def test_the_formula_agrees_with_the_model(kind, changes, backbone):
    candidate = make(kind, backbone, **changes)
    model = build_model(candidate, SHAPE, CLASSES)
    counts = count_parameters(model)
    assert counts == formula_counts(candidate, SHAPE, CLASSES)
    if candidate.adaptive is None:
        assert counts.total == sum(parameter.numel() for parameter in model.parameters())
    mean_k = (1.5, 0.25, 2.0)
    formula = formula_flops(candidate, SHAPE, CLASSES, mean_k)
    assert flops_per_token(model, SHAPE, mean_k) == pytest.approx(formula)


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_the_formula_follows_experts_that_open_and_close(data):
    candidate = make("top-any", adaptive=True)
    model = build_model(candidate, SHAPE, CLASSES)
    layers = [part for part in model.modules() if isinstance(part, MoELayer)]
    for layer in layers:
        flags = data.draw(st.lists(st.booleans(), min_size=6, max_size=6))
        layer.is_open.copy_(torch.tensor(flags))
    num_open = [int(layer.is_open.sum()) for layer in layers]
    formula = formula_counts(candidate, SHAPE, CLASSES, open_per_layer=num_open)
    assert count_parameters(model) == formula
    expected = formula_flops(candidate, SHAPE, CLASSES, (1.0,) * 3, open_per_layer=num_open)
    assert flops_per_token(model, SHAPE, (1.0,) * 3) == pytest.approx(expected)


def test_an_mlp_counted_by_hand():
    counts = formula_counts(make("top-k", experts=(2, 3)), SHAPE, CLASSES)
    embed, head, norm = 192 * 8 + 8, 8 * 5 + 5, 2 * 8
    expert = 8 * 12 + 12 + 12 * 8 + 8
    assert counts.shared == embed + head + 3 * norm
    assert counts.router_per_layer == (2 * 8, 3 * 8)
    assert counts.router == 5 * 8
    assert counts.expert_per_layer == (expert, expert)
    assert counts.total == counts.shared + 5 * 8 + 5 * expert
    assert counts.activated((2.0, 0.5)) == counts.shared + 5 * 8 + 2.5 * expert
    assert counts.activated((2, 3)) == counts.total


def test_the_operations_of_a_vit_counted_by_hand():
    flops = formula_flops(make("top-any", "vit", (3,)), SHAPE, CLASSES, (1.5,))
    patch, attention_maps, attention = 48 * 8, 8 * 24 + 8 * 8, 2 * 4 * 8
    router, experts, head = 3 * 8, 1.5 * (8 * 12 + 12 * 8), 8 * 5 / 4
    assert flops == 2 * (patch + attention_maps + attention + router + experts + head)
    assert num_tokens(make(backbone="vit"), SHAPE) == 4


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.sampled_from(ROUTER_KINDS),
    st.sampled_from(("mlp", "vit")),
    st.data(),
)
def test_activated_is_between_shared_and_total(experts, kind, backbone, data):
    counts = formula_counts(make(kind, backbone, tuple(experts)), SHAPE, CLASSES)
    mean_k = [data.draw(st.floats(0, n)) for n in experts]
    assert counts.shared + counts.router <= counts.activated(mean_k) <= counts.total


class OwnBackbone(nn.Module):
    """A user's network: convolution, MoE layer over pixels, head on the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 2, stride=2)
        self.moe = MoELayer(8, 12, 3, build_router(router_config("top-k"), 3, 8))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list]:
        h, routing = self.moe(self.conv(x).flatten(2).transpose(1, 2))
        return self.head(h.mean(1)), [routing]


def test_a_users_own_network_is_counted_too():
    model = OwnBackbone()
    counts = count_parameters(model)
    assert counts.total == sum(parameter.numel() for parameter in model.parameters())
    assert counts.shared == 3 * 8 * 4 + 8 + 16 + 8 * 5 + 5
    products = 16 * (3 * 4 * 8 + 3 * 8 + 2 * (8 * 12 * 2)) + 8 * 5
    assert flops_per_token(model, SHAPE, (2.0,)) == 2 * products / 16
    assert model.training
    candidate = make()
    own = dataclasses.replace(candidate.model, backbone="mine:Net")
    with pytest.raises(UsageError, match="no formula for backbone 'mine:Net'"):
        formula_counts(dataclasses.replace(candidate, model=own), SHAPE, CLASSES)
