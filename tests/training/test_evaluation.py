"""Held-out metrics of a pack against the exported plain modules, one at a time and by hand."""

import statistics
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dynamoe_search.data import Split
from dynamoe_search.moe.formulas import formula_counts, formula_flops
from dynamoe_search.moe.routing import Routing
from dynamoe_search.records import LayerRouting
from dynamoe_search.training.evaluation import EVALUATION_BATCH, evaluate
from dynamoe_search.training.population import Population
from tests.training.populations import SETTINGS, digits, mixed_pack, train_population


@pytest.fixture(scope="module", params=["mlp", "vit"])
def population(request: pytest.FixtureRequest) -> Population:
    """A pack of every kind after one epoch."""
    trained = Population(mixed_pack(request.param), digits(), SETTINGS)
    trained.train_epoch()
    return trained


def summarise_slowly(routing: Routing) -> dict[str, object]:
    """The statistics of one layer from a plain routing, with plain Python."""
    mask, is_open = routing.mask.tolist(), routing.is_open.tolist()
    used = [sum(row) for row in mask]
    counts = Counter(used)
    load = [sum(row[slot] for row in mask) / len(mask) for slot in range(len(is_open))]
    opened = [share for share, now in zip(load, is_open, strict=True) if now]
    return {
        "num_experts": sum(is_open),
        "mean_k": statistics.fmean(used),
        "std_k": statistics.pstdev(used),
        "k_histogram": tuple(counts[k] for k in range(len(is_open) + 1)),
        "load": tuple(load),
        "load_cv": statistics.pstdev(opened) / statistics.fmean(opened),
        "max_share": max(opened) / sum(opened),
    }


def check_layer(record: LayerRouting, routing: Routing) -> None:
    for name, value in summarise_slowly(routing).items():
        assert getattr(record, name) == pytest.approx(value, abs=1e-6), name
    tokens = len(routing.mask)
    assert sum(record.k_histogram) == tokens
    assert sum(record.load) == pytest.approx(record.mean_k)


def run(module: nn.Module, split: Split) -> tuple[torch.Tensor, list[Routing]]:
    with torch.no_grad():
        logits, routings = module(split.x)
    return logits, routings


def test_a_pack_measures_what_its_plain_modules_do(population: Population) -> None:
    split = population.data.validation
    for position, evaluation in enumerate(population.evaluate()):
        logits, routings = run(population.plain_model(position), split)
        correct = int((logits.argmax(1) == split.y).sum())
        assert evaluation.accuracy == correct / len(split.y)
        assert evaluation.loss == pytest.approx(F.cross_entropy(logits, split.y).item(), rel=1e-5)
        assert evaluation.mean_k == tuple(layer.mean_k for layer in evaluation.routing)
        for record, routing in zip(evaluation.routing, routings, strict=True):
            check_layer(record, routing)


def test_examples_are_read_in_parts_of_a_fixed_size(population: Population) -> None:
    split = population.data.validation
    times = -(-2 * EVALUATION_BATCH // len(split.y))
    long = Split(x=split.x.repeat(times, 1, 1, 1), y=split.y.repeat(times))
    once, often = population.evaluate(), evaluate(population.cohort, long)
    for candidate, one, other in zip(population.candidates, once, often, strict=False):
        if candidate.router.kind == "random-k":
            continue  # it draws anew in every part
        assert other.accuracy == pytest.approx(one.accuracy)
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.mean_k == pytest.approx(one.mean_k)


@pytest.mark.parametrize("backbone", ["mlp", "vit"])
def test_measured_sizes_agree_with_the_formula(backbone: str) -> None:
    pack = [replace(one, train=replace(one.train, epochs=1)) for one in mixed_pack(backbone)]
    where = (digits().input_shape, digits().num_classes)
    for one, trained in zip(pack, train_population(pack, digits(), SETTINGS), strict=True):
        metrics, routing = trained.outcome.metrics, trained.outcome.routing
        mean_k = [layer.mean_k for layer in routing]
        opened = tuple(layer.num_experts for layer in routing)
        counts = formula_counts(one, *where, open_per_layer=opened)
        assert metrics["activated_params"] == pytest.approx(counts.activated(mean_k))
        assert metrics["total_params"] == counts.total
        assert metrics["shared_params"] == counts.shared
        assert metrics["router_params"] == counts.router
        flops = formula_flops(one, *where, mean_k, open_per_layer=opened)
        assert metrics["flops_per_token"] == pytest.approx(flops)
        # of the last update on, as many experts are open as were counted
        assert not trained.outcome.expert_events or trained.outcome.expert_events[-1][1] == opened


def test_a_layer_in_which_nobody_is_open_has_statistics_too() -> None:
    population = Population(mixed_pack()[:2], digits(), SETTINGS)
    for layer in population.cohort.layers:
        population.cohort.buffers[layer.path + "is_open"][0] = False
    first, second = population.evaluate()
    for layer in first.routing:
        assert (layer.num_experts, layer.mean_k, layer.load_cv, layer.max_share) == (0, 0, 0, 0)
        assert layer.k_histogram[0] == len(digits().validation.y)
    assert second.routing[0].mean_k > 0
