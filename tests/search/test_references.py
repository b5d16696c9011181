"""Reference designs: what they are, and what of them lies in the space."""

from collections.abc import Callable

from dynamoe_search.search.references import reference_designs
from dynamoe_search.search.space import Space
from dynamoe_search.specs import StudySpec

MakeSpec = Callable[..., StudySpec]
ALL = {"references": ["dense", "top-1", "top-2", "uniform"]}


def test_the_four_designs(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(
        study=ALL,
        schedule={"shape": ["descending", "uniform"], "max_experts": {"low": 2, "high": 6}},
        router={"kind": ["top-p", "top-k"], "temperature": {"low": 0.5, "high": 2.0}},
        train={"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
    )
    dense, top_1, top_2, uniform = [one.candidate for one in reference_designs(Space(spec))]
    assert [dense.reference, top_1.reference, top_2.reference, uniform.reference] == ALL[
        "references"
    ]
    assert [one.ordinal for one in (dense, top_1, top_2, uniform)] == [0, 1, 2, 3]
    assert dense.experts_per_layer == (1, 1)
    assert dense.router.kind == "dense"
    assert top_1.experts_per_layer == top_2.experts_per_layer == (6, 6)
    assert (top_1.router.k, top_1.router.softmax) == (1, "before")
    assert (top_2.router.k, top_2.router.softmax) == (2, "after")
    assert top_1.losses.load_balance == top_2.losses.load_balance == 0.01
    assert top_1.router.temperature == 1.0
    assert uniform.experts_per_layer == (4, 4)
    assert uniform.router.kind == "top-p"
    assert abs(dense.train.learning_rate - 1e-3) < 1e-9


def test_only_values_that_the_space_could_propose_are_recorded(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(
        study=ALL,
        schedule={"max_experts": {"low": 2, "high": 6}},
        router={"kind": ["top-k", "top-any"], "k": [1, 2], "softmax": ["before", "after"]},
        losses={"load_balance": {"low": 0.05, "high": 0.1}},
    )
    space = Space(spec)
    dense, _, top_2, uniform = reference_designs(space)
    assert dense.params == {}  # neither its router nor its expert count can be proposed
    assert top_2.params == {
        "schedule.max_experts": 6,
        "router.kind": "top-k",
        "router.k": 2,
        "router.softmax": "after",
    }  # the load-balance weight of 0.01 is below the range
    assert not space.contains(dense.candidate, dense.params)
    assert not space.contains(top_2.candidate, top_2.params)
    assert space.contains(uniform.candidate, uniform.params)


def test_equal_designs_are_trained_once(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(study=ALL, schedule={"max_experts": 1}, router={"kind": "dense"})
    designs = reference_designs(Space(spec))
    assert [one.candidate.reference for one in designs] == ["dense", "top-1", "top-2"]
    assert [one.candidate.ordinal for one in designs] == [0, 1, 2]


def test_a_matched_total_does_not_change_the_dense_design(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(
        study=ALL,
        schedule={
            "shape": ["uniform", "ascending"],
            "max_experts": 4,
            "match": "total",
            "total_experts": [6, 8],
        },
    )
    dense, top_1, _, uniform = [one.candidate for one in reference_designs(Space(spec))]
    assert dense.experts_per_layer == (1, 1)
    assert sum(top_1.experts_per_layer) == 8
    assert sum(uniform.experts_per_layer) == 8  # the larger of the two totals
