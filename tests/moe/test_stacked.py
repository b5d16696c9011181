"""Backbones that run on a pack as they are: with the numbers of their candidates one by one, up to rounding."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from dynamoe_search.moe.backbones import build_model
from dynamoe_search.moe.backbones.mlp import MLPMoE
from dynamoe_search.moe.stacked import stack
from dynamoe_search.training.population import Population
from tests.training.populations import SETTINGS, candidate, digits, gradients, mixed_pack


@pytest.mark.parametrize("is_training", [True, False])
def test_a_pack_computes_what_its_candidates_compute_one_by_one(is_training: bool) -> None:
    pack = [*mixed_pack(), candidate(90, dropout=0.3)]
    x, y = digits().train.x[:48], digits().train.y[:48]
    told = []
    for mode in ("vmap", "loop"):
        population = Population(pack, digits(), SETTINGS)
        assert population.cohort._is_stacked
        population.cohort.mode = mode
        population.cohort.train(is_training)
        losses, chosen = population.gradients(x, y)
        told.append((losses, chosen, [gradients(population, i) for i in range(len(pack))]))
    (losses, chosen, own), (others_losses, others_chosen, others) = told
    torch.testing.assert_close(losses, others_losses)
    for layer, same in zip(chosen, others_chosen, strict=True):
        assert torch.equal(layer.mask, same.mask)
        torch.testing.assert_close(layer.unrouted, same.unrouted)
        torch.testing.assert_close(layer.state, same.state)
    for one, other in zip(own, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


class _Inherited(MLPMoE):
    """Whose `forward` may be anything."""


def test_only_what_is_known_is_stacked() -> None:
    model = build_model(candidate(0), (1, 8, 8), 10)
    names = [name for name, _ in model.named_parameters()]
    assert stack(model)
    assert [name for name, _ in model.named_parameters()] == names
    own = build_model(candidate(0), (1, 8, 8), 10)
    own.norm = nn.BatchNorm1d(16)
    assert not stack(own)
    without_bias = build_model(candidate(0), (1, 8, 8), 10)
    without_bias.head = nn.Linear(16, 10, bias=False)
    assert not stack(without_bias)
    inherited = build_model(candidate(0), (1, 8, 8), 10)
    inherited.__class__ = _Inherited
    assert not stack(inherited)
    one = candidate(0)
    vit = replace(one, model=replace(one.model, backbone="vit", patch_size=4))
    assert not stack(build_model(vit, (1, 8, 8), 10))
