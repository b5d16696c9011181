"""The space of a study: what is sampled, what a sample means, how large the space is."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import optuna
import pytest

from dynamoe_search.records import Candidate, from_json, to_json
from dynamoe_search.search.designs import candidate_from
from dynamoe_search.search.space import Space, suggest
from dynamoe_search.specs import StudySpec
from dynamoe_search.specs.vocabulary import LOSS_NAMES, ROUTER_KINDS, ROUTER_LOSSES, ROUTER_SETTINGS
from dynamoe_search.store import quiet_optuna
from tests.training.populations import candidate

MakeSpec = Callable[..., StudySpec]

ALL_ROUTERS: dict[str, Any] = {
    "kind": list(ROUTER_KINDS),
    "k": {"low": 1, "high": 4},
    "softmax": ["before", "after"],
    "tau": {"low": 0.2, "high": 0.8},
    "rho": {"low": 0.2, "high": 0.8},
    "p": {"low": 0.2, "high": 0.8},
    "threshold": {"low": -1.0, "high": 1.0},
    "threshold_spread": {"low": 0.0, "high": 1.0},
    "logit_scale": {"low": 1.0, "high": 10.0, "log": True},
    "learn_logit_scale": [True, False],
    "weight_gradient": ["sum", "constant"],
    "capacity": {"low": 1.0, "high": 3.0},
    "target_active": {"low": 1.0, "high": 3.0},
    "sparsity_step": {"low": 1.1, "high": 1.5},
    "temperature": {"low": 0.5, "high": 2.0},
    "noise": {"low": 0.0, "high": 0.2},
    "bias_rate": [0.0, 0.001],
}
LOSSES: dict[str, Any] = {name: {"low": 0.001, "high": 0.1, "log": True} for name in LOSS_NAMES}


def draws(spec: StudySpec, number: int) -> list[dict[str, Any]]:
    """Samples of a space by a random sampler."""
    with quiet_optuna():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [suggest(study.ask(), spec) for _ in range(number)]


def test_open_values_are_named_by_their_path(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(
        model={"d_model": [8, 16]},
        router={"kind": "top-p", "p": {"low": 0.1, "high": 0.9}},
        losses={"load_balance": [0.0, 0.01]},
        train={"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
    )
    paths = {"model.d_model", "router.p", "losses.load_balance", "train.learning_rate"}
    assert set(Space(spec).distributions) == paths
    (params,) = draws(spec, 1)
    assert set(params) == paths
    candidate = candidate_from(params, spec, 5)
    assert candidate.ordinal == 5
    assert candidate.model.d_model == params["model.d_model"]
    assert candidate.router.p == params["router.p"]
    assert candidate.train.learning_rate == params["train.learning_rate"]


def test_a_router_has_the_settings_that_it_reads_and_no_others(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(router=ALL_ROUTERS, losses=LOSSES, adaptive={"enabled": [True, False]})
    seen = set()
    for number, params in enumerate(draws(spec, 150)):
        candidate = candidate_from(params, spec, number)
        kind = candidate.router.kind
        seen.add(kind)
        for name in ALL_ROUTERS.keys() - {"kind"}:
            is_read = name in ROUTER_SETTINGS[kind]  # type: ignore[index]
            assert (f"router.{name}" in params) == is_read
            assert (getattr(candidate.router, name) is not None) == is_read
        for name in LOSS_NAMES:
            has_gradient = name in ROUTER_LOSSES[kind]  # type: ignore[index]
            assert (f"losses.{name}" in params) == has_gradient
            assert (getattr(candidate.losses, name) > 0) == has_gradient
        assert ("adaptive.enabled" in params) == (kind == "top-any")
        assert (candidate.adaptive is not None) == params.get("adaptive.enabled", False)
        assert (candidate.router.histogram is not None) == (kind == "random-k")
    assert seen == set(ROUTER_KINDS)


def test_a_shape_has_the_settings_that_it_reads(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(
        model={"num_layers": 6},
        schedule={
            "shape": ["uniform", "descending", "wave-up"],
            "min_experts": [1, 2],
            "max_experts": {"low": 3, "high": 6},
            "ramp": ["linear", "cosine"],
            "cycles": [1, 2],
        },
    )
    for number, params in enumerate(draws(spec, 40)):
        candidate = candidate_from(params, spec, number)
        shape = params["schedule.shape"]
        assert ("schedule.min_experts" in params) == (shape != "uniform")
        assert ("schedule.ramp" in params) == (shape != "uniform")
        assert ("schedule.cycles" in params) == (shape == "wave-up")
        if shape == "uniform":
            assert candidate.experts_per_layer == (params["schedule.max_experts"],) * 6


def test_a_uniform_schedule_with_a_given_total_reads_the_total_alone(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(
        schedule={
            "min_experts": [1, 2],
            "max_experts": [4, 8],
            "match": "total",
            "total_experts": {"low": 4, "high": 9},
        }
    )
    params = draws(spec, 1)[0]
    assert set(params) == {"schedule.total_experts"}
    candidate = candidate_from(params, spec, 0)
    assert sum(candidate.experts_per_layer) == params["schedule.total_experts"]


def test_adaptive_experts_start_with_at_most_their_slots(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(
        schedule={"min_experts": 1, "max_experts": 4, "match": "total", "total_experts": 20},
        adaptive={"enabled": True, "max_experts": 6},
    )
    candidate = candidate_from({}, spec, 0)
    assert candidate.experts_per_layer == (6, 6)
    assert candidate.slots_per_layer == (6, 6)
    assert Space(spec).num_slots == 10  # a router that cannot adapt would have all of them


@pytest.mark.parametrize("match", ["max", "total"])
def test_no_layer_is_wider_than_num_slots(tiny_spec: MakeSpec, match: str) -> None:
    spec = tiny_spec(
        model={"num_layers": {"low": 1, "high": 6}},
        schedule={
            "shape": ["uniform", "descending", "pyramid-up", "wave-down"],
            "min_experts": [1, 3],
            "max_experts": [3, 7],
            "ramp": ["linear", "quadratic"],
            "match": match,
            **({"total_experts": {"low": 6, "high": 30}} if match == "total" else {}),
        },
    )
    space = Space(spec)
    widest = max(
        max(candidate_from(params, spec, 0).experts_per_layer) for params in draws(spec, 400)
    )
    assert widest <= space.num_slots
    assert space.num_slots == (30 if match == "total" else 7)


def test_the_size_of_a_finite_space_counts_designs(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(
        schedule={"shape": ["uniform", "descending"], "min_experts": [1, 2], "max_experts": [2, 3]},
        router={"kind": ["top-k", "dense"], "k": [1, 2, 3]},
        losses={"load_balance": [0.0, 0.01]},
    )
    # uniform: (2,2) (3,3); descending adds (2,1) (3,1) (3,2), while its (2,2) is the uniform one
    assert Space(spec).size == 5 * (3 * 2 + 1)
    designs = {candidate_from(params, spec, 0).design_hash for params in draws(spec, 600)}
    assert len(designs) == Space(spec).size


def test_a_continuous_setting_makes_the_space_infinite(tiny_spec: MakeSpec) -> None:
    assert Space(tiny_spec(router={"tau": {"low": 0.1, "high": 0.9}})).size == 1  # top-any: unread
    open_threshold = tiny_spec(router={"threshold": {"low": -1.0, "high": 1.0}})
    assert Space(open_threshold).size is None


def test_a_fixed_study_has_one_design(tiny_spec: MakeSpec) -> None:
    space = Space(tiny_spec())
    assert (space.size, space.distributions) == (1, {})
    assert candidate_from({}, space.spec, 0).experts_per_layer == (3, 3)


def test_a_missing_value_is_an_error(tiny_spec: MakeSpec) -> None:
    with pytest.raises(KeyError):
        candidate_from({}, tiny_spec(model={"d_model": [8, 16]}), 0)


def test_the_space_knows_its_own_designs(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(router=ALL_ROUTERS)
    space = Space(spec)
    for params in draws(spec, 20):
        candidate = candidate_from(params, spec, 0)
        assert space.contains(candidate, params)
        assert not space.contains(candidate, {**params, "router.kind": "none of them"})
        assert not space.contains(candidate, {})


def test_the_normalisation_of_an_absent_loss_makes_no_second_design(tiny_spec: MakeSpec) -> None:
    plain = candidate_from({}, tiny_spec(), 0)
    other = candidate_from({}, tiny_spec(losses={"normalize_load_balance": False}), 0)
    assert plain.design_hash == other.design_hash
    assert math.isclose(plain.losses.load_balance, 0.0)


def test_designs_of_earlier_versions_keep_their_hashes():
    """Computed before language models added fields; a study that goes on must know its designs again."""
    one = candidate(3, "top-k", (2, 3), backbone="vit")
    known = "5086f61ad9648d9433d8d4f66049fd3955052accae7986cbe30ad4f166226895"
    assert one.design_hash == known
    assert one.pack_key == "vit|16|2|12|2|4|48|0.0|False|auto|0"
    for change in ({"moe_every": 2}, {"expert": "swiglu"}, {"tie_embeddings": False}):
        other = replace(one, model=replace(one.model, **change))
        assert other.design_hash != known
        assert other.pack_key != one.pack_key
    text = to_json(one).replace(',"moe_every":1,"expert":"gelu","tie_embeddings":true', "")
    assert "moe_every" not in text
    assert from_json(Candidate, text) == one
