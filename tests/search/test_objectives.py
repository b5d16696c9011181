"""Values, constraints and hypervolume."""

import dataclasses
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamoe_search.errors import CandidateError
from dynamoe_search.records import Outcome, bytes_per_token, language_metrics
from dynamoe_search.search.objectives import (
    directions,
    front_hypervolume,
    reference_point,
    values,
    violations,
)
from dynamoe_search.specs import StudySpec

MakeSpec = Callable[..., StudySpec]
OUTCOME = Outcome(
    ordinal=0,
    status="complete",
    epochs=1,
    seconds=1.0,
    metrics={"accuracy": 0.75, "activated_params": 500.0, "validation_loss": 1.0},
)


def test_values_follow_the_order_of_the_study(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(study={"objectives": ["activated_params", "accuracy", "validation_loss"]})
    assert values(OUTCOME, spec) == (500.0, 0.75, 1.0)
    assert directions(spec) == ["minimize", "maximize", "minimize"]


def test_constraints_are_violated_upwards_and_downwards(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(study={"constraints": {"max_activated_params": 400, "min_accuracy": 0.5}})
    assert violations(OUTCOME, spec) == {"max_activated_params": 100.0, "min_accuracy": -0.25}


@pytest.mark.parametrize(("value", "reason"), [(None, "missing-metric"), (math.nan, "nan")])
def test_what_was_not_measured_fails_the_candidate(
    tiny_spec: MakeSpec, value: float | None, reason: str
) -> None:
    metrics = {"accuracy": 0.75} | ({} if value is None else {"activated_params": value})
    outcome = dataclasses.replace(OUTCOME, metrics=metrics)
    with pytest.raises(CandidateError, match="activated_params") as caught:
        values(outcome, tiny_spec())
    assert caught.value.reason == reason


def test_the_hypervolume_is_a_share_of_the_box(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec()
    reference = reference_point(spec, num_classes=10, max_params=1000, max_flops=1)
    assert reference == (0.1, 1000.0)
    assert front_hypervolume([], reference, spec) == 0.0
    assert front_hypervolume([reference], reference, spec) == 0.0
    assert front_hypervolume([(1.0, 0.0)], reference, spec) == pytest.approx(1.0)
    assert front_hypervolume([(0.55, 500.0)], reference, spec) == pytest.approx(0.25)
    assert front_hypervolume([(0.55, 2000.0)], reference, spec) == 0.0


def test_every_objective_has_a_reference(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(
        study={"objectives": ["validation_loss", "latency_ms", "peak_memory_mb", "flops_per_token"]}
    )
    point = reference_point(spec, num_classes=10, max_params=1000, max_flops=2000)
    assert point[0] == pytest.approx(math.log(10))
    assert point[3] == 2000.0
    assert all(math.isfinite(value) and value > 0 for value in point)


def language_spec(tiny_spec: MakeSpec, **study: object) -> StudySpec:
    return tiny_spec(
        study={"objectives": ["perplexity", "activated_params"], **study},
        data={"name": "docs"},
        model={"backbone": "gpt"},
    )


def test_a_perplexity_counts_by_its_logarithm(tiny_spec: MakeSpec) -> None:
    spec = language_spec(tiny_spec)
    reference = reference_point(spec, num_classes=256, max_params=1000, max_flops=1)
    assert reference == (pytest.approx(256), 1000.0)
    assert directions(spec) == ["minimize", "minimize"]
    assert front_hypervolume([], reference, spec) == 0.0
    assert front_hypervolume([reference], reference, spec) == 0.0
    assert front_hypervolume([(1.0, 0.0)], reference, spec) == pytest.approx(1.0)
    assert front_hypervolume([(16.0, 500.0)], reference, spec) == pytest.approx(0.25)


def test_bits_per_byte_have_the_uniform_guess_for_reference(tiny_spec: MakeSpec) -> None:
    spec = language_spec(tiny_spec, objectives=["bits_per_byte", "total_params"])
    point = reference_point(
        spec, num_classes=256, max_params=1000, max_flops=1, bytes_per_token=2.0
    )
    assert point == (pytest.approx(4.0), 1000.0)


@given(st.floats(1e-3, 1e3), st.floats(0.1, 20.0))
def test_what_is_told_of_a_language_model_goes_back(loss: float, length: float) -> None:
    told = language_metrics(loss, length)
    assert math.isfinite(told["perplexity"])
    assert told["bits_per_byte"] == pytest.approx(loss / math.log(2) / length)
    assert bytes_per_token(told | {"validation_loss": loss}) == pytest.approx(length)
