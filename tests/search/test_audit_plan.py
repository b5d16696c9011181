"""Which designs an audit trains: enough for every claim, each once, and all of the parent's kind."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamoe_search.auditing import CLAIMS, LEAST_UPDATES, AuditPlan
from dynamoe_search.errors import UsageError
from dynamoe_search.moe.adaptive import is_update_due
from dynamoe_search.records import FrontMember, LayerRouting
from dynamoe_search.search.audit_plan import DYNAMIC, epochs_to_settle, plan_audit, random_control
from dynamoe_search.specs import StudySpec
from tests.conftest import TINY

SPACE: dict[str, dict[str, Any]] = TINY | {
    "model": {"d_model": [8, 16, 32], "num_layers": 4, "d_expert": 8},
    "schedule": {"shape": ["uniform", "descending"], "min_experts": [1, 2], "max_experts": [4, 6]},
    "router": {"kind": ["top-p", "top-any"], "p": {"low": 0.2, "high": 0.6}},
}


def spec(**sections: dict[str, Any]) -> StudySpec:
    return StudySpec.model_validate(SPACE | sections)


def plan(
    claims: tuple[str, ...] = tuple(CLAIMS), own: StudySpec | None = None, **options: Any
) -> AuditPlan:
    return plan_audit(own or spec(), claims, **{"epochs": 3, "steps_per_epoch": 40} | options)


def test_everything_that_a_plan_names_is_trained_and_everything_is_trained_once() -> None:
    whole = plan()
    names = [one.name for one in whole.designs]
    assert len(set(names)) == len(names)
    assert max(Counter(one.candidate.design_hash for one in whole.designs).values()) == 1
    named = {name for shapes in whole.shapes.values() for name in shapes.values()}
    named |= {*whole.routers.values(), whole.adaptive}
    for curve in whole.curves:
        named |= {curve.design, *curve.rivals.values()}
    assert named == set(names)
    assert all(len(name) <= 80 for name in names)


def test_shapes_have_equal_totals_or_equal_maxima_between_the_ends_of_the_space() -> None:
    whole = plan(("schedule",))
    designs = {one.name: one.candidate for one in whole.designs}
    total = [designs[name].experts_per_layer for name in whole.shapes["total"].values()]
    most = [designs[name].experts_per_layer for name in whole.shapes["max"].values()]
    assert {sum(experts) for experts in total} == {14}
    assert (
        max(max(experts) for experts in most) == 6
    )  # which a pyramid of four layers does not reach
    assert min(min(experts) for experts in most) == 1
    assert {one.router.kind for one in designs.values()} == {"top-p"}
    assert {one.router.p for one in designs.values()} == {0.4}  # the middle
    assert {one.model.d_model for one in designs.values()} == {16}
    assert {one.train.epochs for one in designs.values()} == {3}


def test_routers_differ_in_the_routing_only_and_top_k_has_every_k() -> None:
    whole = plan(("variation", "activated"))
    designs = {one.name: one.candidate for one in whole.designs}
    assert set(whole.routers) == set(DYNAMIC)
    assert {designs[name].experts_per_layer for name in whole.routers.values()} == {(6, 6, 6, 6)}
    rivals = whole.curves[0].rivals
    assert list(rivals) == [1, 2, 3, 4, 5, 6]
    assert [designs[name].router.k for name in rivals.values()] == list(rivals)
    assert all(designs[name].losses.load_balance == 0.01 for name in rivals.values())
    wide = plan(("activated",), spec(schedule={"max_experts": 64}))
    assert list(wide.curves[0].rivals)[0::7] == [1, 64]
    assert len(wide.curves[0].rivals) == 8


@given(st.sets(st.sampled_from(tuple(CLAIMS)), min_size=1))
def test_fewer_claims_need_no_other_designs(claims: set[str]) -> None:
    part, whole = plan(tuple(claims)), plan()
    hashes = {one.candidate.design_hash for one in whole.designs}
    assert {one.candidate.design_hash for one in part.designs} <= hashes
    assert part.claims == tuple(claims)


def test_dynamic_designs_of_the_front_are_held_against_top_k_around_their_mean_k() -> None:
    one = {one.name: one.candidate for one in plan(("variation",)).designs}["relu"]
    routing = tuple(
        LayerRouting(
            layer=layer, num_experts=6, mean_k=2.4, std_k=1.0, k_histogram=(0, 1), load=(1.0,),
            load_cv=0.0, max_share=1.0,
        )
        for layer in range(4)
    )  # fmt: skip
    member = FrontMember(
        trial=17,
        ordinal=17,
        candidate=one,
        values={},
        metrics={"accuracy": 0.9},
        params={},
        routing=routing,
    )
    whole = plan(("activated",), front=[member])
    curve = whole.curves[-1]
    assert curve.label == "trial 17 (relu)"
    assert list(curve.rivals) == [1, 2, 3, 4]
    assert curve.design == "relu"  # the same design under the name that it has already
    assert curve.rivals[2] == "top-2"


def test_adaptive_experts_get_room_for_their_updates() -> None:
    for steps_per_epoch, period in ((40, 10), (10_000, 900)):
        whole = plan(("settling",), steps_per_epoch=steps_per_epoch)
        (design,) = whole.designs
        own = design.candidate.adaptive
        assert own is not None
        assert own.period == period
        steps = 3 * steps_per_epoch
        due = [step for step in range(1, steps + 1) if is_update_due(step, own)]
        assert min(sum(3 * s <= steps for s in due), sum(3 * s > 2 * steps for s in due)) >= 3


@given(st.integers(1, 60), st.integers(1, 40))
def test_a_plan_adapts_experts_only_if_their_settling_can_be_judged(
    epochs: int, steps_per_epoch: int
) -> None:
    length = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
    enough = epochs_to_settle(spec(), **length)
    assert (plan(("settling",), **length).adaptive is None) == (enough > epochs)
    (design,) = plan(("settling",), **length | {"epochs": enough}).designs
    steps, own = enough * steps_per_epoch, design.candidate.adaptive
    assert own is not None
    due = [step for step in range(1, steps + 1) if is_update_due(step, own)]
    thirds = sum(3 * s <= steps for s in due), sum(3 * s > 2 * steps for s in due)
    assert min(thirds) >= LEAST_UPDATES


def test_the_control_keeps_everything_but_the_router() -> None:
    like = plan(("variation",)).designs[0].candidate
    control = random_control(like, (0.0, 0.25, 0.75))
    assert control.router.kind == "random-k"
    assert control.router.histogram == (0.0, 0.25, 0.75)
    assert (control.model, control.train, control.experts_per_layer) == (
        like.model,
        like.train,
        like.experts_per_layer,
    )


def test_what_cannot_be_audited_is_refused_in_a_sentence() -> None:
    with pytest.raises(UsageError, match="networks of its own"):
        plan(own=spec(model=SPACE["model"] | {"backbone": "mine:Net"}))
    with pytest.raises(UsageError, match="one expert per layer"):
        plan(own=spec(schedule={"min_experts": 1, "max_experts": 1}))
