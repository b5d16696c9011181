"""Latency and memory of a finished model."""

from dataclasses import replace

import pytest

from dynamoe_search.moe.backbones import build_model
from dynamoe_search.training.measurement import measure_module
from tests.training.populations import SETTINGS, candidate, digits, train_population


@pytest.mark.parametrize("backbone", ["mlp", "vit"])
def test_measures_are_positive_and_memory_grows_with_width(backbone: str) -> None:
    data = digits()
    peaks = []
    for width in (16, 64):
        design = candidate(0, "dense", (4, 4), backbone=backbone)
        design = replace(design, model=replace(design.model, d_model=width, d_expert=width))
        module = build_model(design, data.input_shape, data.num_classes)
        measured = measure_module(module, data)
        weights = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
        assert measured.keys() == {"latency_ms", "peak_memory_mb"}
        assert 0 < measured["latency_ms"] < 1000
        assert measured["peak_memory_mb"] * 1e6 > weights
        assert module.training  # the module itself is left as it was
        peaks.append(measured["peak_memory_mb"])
    assert peaks[1] > 2 * peaks[0]


def test_memory_holds_at_least_the_largest_tensors_of_a_pass() -> None:
    data = digits()
    design = candidate(0, "dense", (4,))
    module = build_model(design, data.input_shape, data.num_classes)
    tokens = min(256, len(data.validation.y))
    pairs = 4 * tokens  # every expert on every token, hidden values and outputs
    at_least = 4 * pairs * (design.model.d_expert + design.model.d_model)
    assert measure_module(module, data)["peak_memory_mb"] * 1e6 > at_least


def test_measures_are_taken_only_on_request() -> None:
    pack = [candidate(0, train={"epochs": 1})]
    (without,) = train_population(pack, digits(), SETTINGS)
    (measured,) = train_population(
        pack, digits(), replace(SETTINGS, measure=frozenset({"latency_ms"}))
    )
    assert "latency_ms" not in without.outcome.metrics
    assert measured.outcome.metrics["latency_ms"] > 0
