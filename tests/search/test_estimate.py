"""What `check` says of a study, against what the study then is."""

from collections.abc import Callable

import pytest

from dynamoe_search.data import describe
from dynamoe_search.errors import DeviceError
from dynamoe_search.moe.formulas import formula_counts
from dynamoe_search.search import estimate
from dynamoe_search.search.estimate import largest_design
from dynamoe_search.search.machine import library_versions, resolve_device
from dynamoe_search.search.sampling import Proposer
from dynamoe_search.search.space import Space
from dynamoe_search.specs import StudySpec

MakeSpec = Callable[..., StudySpec]


def test_trials_cohorts_and_epochs(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(
        study={"trials": 7},
        router={"threshold": {"low": -1.0, "high": 1.0}},
        train={"epochs": 3},
    )
    found = estimate(spec)
    assert (found.trials, found.cohorts, found.epochs) == (7, 4, 21)
    assert found.seconds is None
    assert found.memory_bytes > 0 < found.disk_bytes


def test_a_space_that_is_smaller_than_the_study_is_noted(tiny_spec: MakeSpec) -> None:
    found = estimate(tiny_spec(study={"trials": 9}, model={"d_expert": [8, 12]}))
    assert found.trials == 2
    assert any("at most 2 designs" in note for note in found.notes)


@pytest.mark.parametrize("backbone", ["mlp", "vit"])
def test_no_design_is_larger_than_the_largest(tiny_spec: MakeSpec, backbone: str) -> None:
    spec = tiny_spec(
        study={"references": ["dense", "top-1", "top-2", "uniform"]},
        model={"backbone": backbone, "d_model": [8, 16], "num_layers": {"low": 1, "high": 4}},
        schedule={"shape": ["uniform", "wave-up"], "max_experts": {"low": 2, "high": 9}},
        router={"kind": ["top-k", "top-any", "null-experts"], "learn_logit_scale": [True, False]},
        train={"learning_rate": {"low": 1e-4, "high": 1e-2}},
    )
    space, info = Space(spec), describe(spec.data)
    bound = largest_design(space, info).parameters
    proposer = Proposer(space)
    sizes = []
    for _ in range(60):
        proposal = proposer.propose()
        assert proposal is not None
        counts = formula_counts(proposal.candidate, info.input_shape, info.num_classes)
        sizes.append(counts.total)
    assert max(sizes) <= bound
    assert max(sizes) > bound / 3  # a bound that says something


def test_the_time_is_measured_if_asked_for(tiny_spec: MakeSpec) -> None:
    found = estimate(tiny_spec(), measure=True, device="cpu")
    assert found.seconds is not None
    assert 0 < found.seconds < 600


def test_devices() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda:0")
    for name in ("abacus", "cuda:99", "meta"):
        with pytest.raises(DeviceError, match=name):
            resolve_device(name)


def test_versions_are_those_that_compute() -> None:
    assert {"python", "torch", "numpy", "optuna"} <= library_versions().keys()
