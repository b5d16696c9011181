"""Pruning rules as pure functions, against slow and obvious versions of what they promise."""

import math
import random
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamoe_search.errors import SpecError
from dynamoe_search.presets import read_study
from dynamoe_search.pruning import Decision, Rung, RungRecord, judge, usual_rungs
from dynamoe_search.specs import PrunerSection
from dynamoe_search.specs.vocabulary import PrunerKind

KINDS: tuple[PrunerKind, ...] = tuple(kind for kind in get_args(PrunerKind) if kind != "none")
RUNG = 3

coarse = st.integers(0, 6).map(float)  # few values, so that ties are common
finite = st.one_of(coarse, st.floats(0, 1e9))
anything = st.one_of(finite, st.sampled_from([math.nan, math.inf, -math.inf]))
kinds = st.sampled_from(KINDS)


def record(ordinal: int, error: float, loss: float, activated: float) -> RungRecord:
    return RungRecord(ordinal=ordinal, error=error, loss=loss, activated_params=activated)


def rungs(numbers: st.SearchStrategy[float], min_size: int = 1) -> st.SearchStrategy:
    rows = st.lists(st.tuples(numbers, numbers, numbers), min_size=min_size, max_size=40)
    return rows.map(lambda found: [record(i, *row) for i, row in enumerate(found)])


def settings(kind: PrunerKind, **changes: Any) -> PrunerSection:
    return PrunerSection.model_validate({"kind": kind, "min_records": 1, **changes})


def decide(
    rule: PrunerSection, records: Sequence[RungRecord], asked: Collection[int] | None = None
) -> list[Decision]:
    """Judges those asked, or everybody, at one rung."""
    chosen = [one.ordinal for one in records if asked is None or one.ordinal in asked]
    return judge(rule, {RUNG: records}, dict.fromkeys(chosen, RUNG))


def kept(decisions: Sequence[Decision]) -> set[int]:
    return {one.ordinal for one in decisions if one.keep}


def rivals_that_beat(one: RungRecord, records: Sequence[RungRecord]) -> list[RungRecord]:
    return [
        other
        for other in records
        if other.error < one.error
        and other.loss < one.loss
        and other.activated_params <= one.activated_params
    ]


def is_dominated(one: tuple[float, ...], others: Sequence[tuple[float, ...]]) -> bool:
    return any(
        other != one and all(a <= b for a, b in zip(other, one, strict=True)) for other in others
    )


def front(records: Sequence[RungRecord]) -> set[int]:
    points = {one.ordinal: (one.error, one.activated_params) for one in records}
    return {
        ordinal
        for ordinal, point in points.items()
        if not is_dominated(point, list(points.values()))
    }


@given(kinds, rungs(anything), st.randoms())
def test_the_order_of_records_decides_nothing(
    kind: PrunerKind, records: list[RungRecord], chance: random.Random
) -> None:
    mixed = list(records)
    chance.shuffle(mixed)
    assert decide(settings(kind), mixed) == decide(settings(kind), records)


@given(kinds, rungs(anything), st.sets(st.integers(0, 39)))
def test_asking_for_some_gives_what_asking_for_all_gives(
    kind: PrunerKind, records: list[RungRecord], asked: set[int]
) -> None:
    everybody = decide(settings(kind), records)
    assert [one.ordinal for one in everybody] == [one.ordinal for one in records]
    some = decide(settings(kind), records, asked)
    assert some == [one for one in everybody if one.ordinal in asked]


@given(rungs(anything), rungs(anything))
def test_each_rung_is_judged_by_its_own_records(
    low: list[RungRecord], high: list[RungRecord]
) -> None:
    rule = settings("pareto")
    standing = {one.ordinal: 1 for one in low} | {one.ordinal: 5 for one in high}
    together = judge(rule, {1: low, 5: high}, standing)
    apart = [
        one
        for rung, records in ((1, low), (5, high))
        for one in judge(
            rule, {rung: records}, {i: rung for i, stands in standing.items() if stands == rung}
        )
    ]
    assert together == sorted(apart, key=lambda one: one.ordinal)


@given(rungs(st.one_of(coarse, st.floats(0, 1))), st.floats(0.01, 1))
def test_counts_are_those_of_a_slow_loop(records: list[RungRecord], share: float) -> None:
    counts = [len(rivals_that_beat(one, records)) for one in records]
    for one in decide(settings("pareto", share=share), records):
        ahead = rivals_that_beat(records[one.ordinal], records)
        num_better = sum(count < len(ahead) for count in counts)
        assert one.rung == RUNG
        assert one.rivals == len(records) - 1
        assert one.beaten == len(ahead)
        assert one.share == len(ahead) / len(records)
        assert math.floor(one.behind * len(records) + 1e-9) == num_better
        assert one.keep == (num_better == 0 or num_better / len(records) < share)
        if not ahead:
            assert one.strongest is None
            continue
        assert one.strongest is not None
        assert records[one.strongest] in ahead
        assert records[one.strongest].error == min(other.error for other in ahead)


@given(rungs(anything), st.lists(st.sets(st.integers(0, 39)), min_size=1, max_size=4))
def test_what_was_known_of_a_rung_gives_what_looking_again_gives(
    records: list[RungRecord], parts: list[set[int]]
) -> None:
    before = None
    for own in (*parts, set(range(40))):  # some come, some are taken out
        some = [one for one in records if one.ordinal in own]
        if some:
            before = Rung.of(some, before)
            assert before.num_ahead.tolist() == Rung.of(some).num_ahead.tolist()
    assert before is not None
    other = [record(one.ordinal, 1.0 - one.error, one.loss, 1.0) for one in records]
    assert Rung.of(other, before).num_ahead.tolist() == Rung.of(other).num_ahead.tolist()


@given(rungs(finite), st.floats(0.01, 1))
def test_with_perfect_values_nobody_on_the_final_front_is_lost(
    records: list[RungRecord], share: float
) -> None:
    decisions = decide(settings("pareto", share=share), records)
    assert front(records) <= kept(decisions)


@given(rungs(finite), st.floats(0.01, 0.5), st.floats(0, 0.5))
def test_the_share_goes_on_and_a_larger_share_lets_more_go_on(
    records: list[RungRecord], share: float, more: float
) -> None:
    few = decide(settings("pareto", share=share), records)
    many = decide(settings("pareto", share=share + more), records)
    assert len(kept(few)) >= share * len(records)
    assert kept(few) <= kept(many)


@given(rungs(finite))
def test_median_never_holds_back_the_front_nor_the_better_half(records: list[RungRecord]) -> None:
    decisions = decide(settings("median"), records)
    assert front(records) <= kept(decisions)
    assert 2 * len(kept(decisions)) >= len(records)


@given(rungs(finite), st.floats(0, 0.5))
def test_the_guard_drops_only_the_stated_worst_share(
    records: list[RungRecord], guard: float
) -> None:
    without = decide(settings("pareto", guard=0), records)
    with_guard = decide(settings("pareto", guard=guard), records)
    dropped = kept(without) - kept(with_guard)
    assert kept(with_guard) <= kept(without)
    assert len(dropped) <= math.ceil(guard * (len(records) - 1))
    assert not dropped or len(records) >= 8
    for ordinal in dropped:
        one = records[ordinal]
        num_as_bad = [
            sum(other.error >= one.error for other in records) - 1,
            sum(other.loss >= one.loss for other in records) - 1,
        ]
        assert max(num_as_bad) < guard * (len(records) - 1)


@given(rungs(st.floats(0, 4)), st.tuples(st.floats(0, 4), st.floats(0, 4)))
def test_who_only_guesses_does_not_go_on(
    records: list[RungRecord], constant: tuple[float, float]
) -> None:
    rule, standing = settings("pareto", share=1.0), {one.ordinal: RUNG for one in records}
    without = judge(rule, {RUNG: records}, standing)
    told = judge(rule, {RUNG: records}, standing, constant=constant)
    guessing = {
        one.ordinal for one in records if one.error >= constant[0] and one.loss >= constant[1]
    }
    assert kept(without) - kept(told) <= guessing
    if 2 * len(guessing) < len(records):
        assert not kept(told) & guessing
    else:  # nobody has learnt anything yet
        assert kept(told) == kept(without)


def test_the_useless_smallest_model_is_reached() -> None:
    records = [record(i, 0.1 + i / 1e4, 0.5 + i / 1e4, 5000.0) for i in range(8)]
    records.append(record(8, 0.9, 2.3, 100.0))
    by_guard = decide(settings("pareto", share=1.0, guard=0.05), records)
    assert [one.reason for one in by_guard] == [None] * 8 + ["worst"]
    by_constant = judge(
        settings("pareto"), {RUNG: records}, {8: RUNG}, constant=(0.9, math.log(10) - 0.1)
    )
    assert by_constant[0].reason == "useless"
    (free,) = decide(settings("pareto"), records, {8})
    assert free.keep


@given(kinds, st.tuples(finite, finite, finite), st.integers(1, 40))
def test_equals_and_a_lone_candidate_go_on(
    kind: PrunerKind, row: tuple[float, float, float], number: int
) -> None:
    records = [record(ordinal, *row) for ordinal in range(number)]
    decisions = decide(settings(kind, share=0.01), records)
    assert all(one.keep and one.beaten == 0 and one.strongest is None for one in decisions)
    assert all(one.behind < 1 / number for one in decisions)


@pytest.mark.parametrize("kind", get_args(PrunerKind))
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["error", "loss", "activated_params"])
@pytest.mark.parametrize("num_rivals", [0, 20])
def test_what_is_not_finite_never_goes_on(
    kind: PrunerKind, bad: float, field: str, num_rivals: int
) -> None:
    numbers = {"error": 0.0, "loss": 0.0, "activated_params": 0.0, field: bad}
    records = [RungRecord(ordinal=0, **numbers)]
    records += [record(1 + i, 0.1, 0.2, 100.0) for i in range(num_rivals)]
    decisions = decide(PrunerSection(kind=kind), records)
    assert kept(decisions) == set(range(1, num_rivals + 1))
    assert decisions[0].reason == "not-finite"
    assert decisions[0].behind == math.inf


@given(kinds, rungs(finite), st.integers(1, 60))
def test_a_rung_of_few_records_holds_nobody_back(
    kind: PrunerKind, records: list[RungRecord], min_records: int
) -> None:
    decisions = decide(settings(kind, min_records=min_records), records)
    assert len(records) >= min_records or kept(decisions) == {one.ordinal for one in records}


@given(kinds, rungs(finite), st.booleans())
def test_who_does_not_go_on_is_paused_or_stopped_as_told(
    kind: PrunerKind, records: list[RungRecord], pause: bool
) -> None:
    decisions = decide(settings(kind, pause=pause), records)
    assert {one.action for one in decisions} <= {"go", "pause" if pause else "stop"}
    assert all(one.keep == (one.reason is None) for one in decisions)


def test_nobody_at_the_rung_is_no_error() -> None:
    assert judge(settings("pareto"), {RUNG: []}, {}) == []


def test_auto_is_pareto() -> None:
    records = [record(i, 0.1 * i, 0.2 * i, 100.0) for i in range(9)]
    auto = PrunerSection(min_records=1)
    assert auto.kind == "auto"
    assert decide(auto, records) == decide(settings("pareto"), records)


def slow_moasha(records: Sequence[RungRecord], eta: float) -> set[int]:
    """The published rule word for word, on different points."""
    points = {one.ordinal: (one.error, one.activated_params) for one in records}
    low = [min(point[axis] for point in points.values()) for axis in (0, 1)]
    span = [max(point[axis] for point in points.values()) - low[axis] or 1.0 for axis in (0, 1)]

    def distance(one: int, other: int) -> float:
        return math.hypot(*((points[one][a] - points[other][a]) / span[a] for a in (0, 1)))

    order: list[int] = []
    left = sorted(points, key=lambda ordinal: points[ordinal])
    while left:
        members = [
            one for one in left if not is_dominated(points[one], [points[other] for other in left])
        ]
        net = [members[0]]
        while len(net) < len(members):
            away = {
                one: min(distance(one, chosen) for chosen in net)
                for one in members
                if one not in net
            }
            net.append(max(away, key=lambda one: away[one]))
        order += net
        left = [one for one in left if one not in members]
    return {one for place, one in enumerate(order) if place / len(order) <= 1 / eta}


@pytest.mark.parametrize("eta", [1.5, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_moasha_is_the_published_rule(eta: float, seed: int) -> None:
    chance = random.Random(seed)
    records = [
        record(i, chance.random(), chance.random(), 1e5 * chance.random()) for i in range(30)
    ]
    assert kept(decide(settings("moasha", eta=eta), records)) == slow_moasha(records, eta)


def test_the_usual_rungs_are_four_early_ones() -> None:
    assert usual_rungs(1) == ()
    assert usual_rungs(3) == (1, 2)
    assert usual_rungs(10) == (1, 2, 3, 5)
    assert usual_rungs(27) == (1, 2, 3, 5)
    assert usual_rungs(100) == (5, 8, 12, 18)


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ("rungs=[1, 4]", "rungs", "must be below train.epochs (4)"),
        ("rungs=[1, 9]", "rungs", "must be below train.epochs (4)"),
        ("rungs=[0, 2]", "rungs", "must be epochs, which count from 1"),
        ("rungs=[2, 1]", "rungs", "must increase"),
        ("rungs=[2, 2]", "rungs", "must increase"),
        ("rungs=[]", "rungs", "must have an epoch; leave it out"),
        ("rungs=[1.5]", "rungs[0]", "must be a whole number"),
        ("share=0.0", "share", "must be above 0"),
        ("share=1.5", "share", "must be at most 1"),
        ("guard=1.0", "guard", "must be below 1"),
        ("eta=1.0", "eta", "must be above 1"),
        ("min_records=0", "min_records", "must be at least 1"),
        ("shrae=0.1", "shrae", "did you mean share? known are kind, rungs, share"),
    ],
)
def test_bad_plans_are_told(tmp_path: Path, change: str, path: str, words: str) -> None:
    file = tmp_path / "study.toml"
    file.write_text('[study]\nname = "s"\n[train]\nepochs = 4\n[search.pruner]\nkind = "pareto"\n')
    with pytest.raises(SpecError) as caught:
        read_study(str(file), [f"search.pruner.{change}"])
    (problem,) = caught.value.problems
    assert problem.path == f"search.pruner.{path}"
    assert words in problem.allowed


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ('study.objectives=["accuracy", "latency_ms"]', "latency_ms"),
        ("study.constraints.max_total_params=900", "max_total_params"),
    ],
)
def test_what_a_pruner_cannot_see_is_told(tmp_path: Path, change: str, name: str) -> None:
    file = tmp_path / "study.toml"
    file.write_text('[study]\nname = "s"\n[search.pruner]\nkind = "median"\n')
    with pytest.raises(SpecError) as caught:
        read_study(str(file), [change])
    (problem,) = caught.value.problems
    assert problem.path == "search.pruner.kind"
    assert f"could stop the best in {name}" in problem.allowed
    assert (
        read_study(str(file), [change, "search.pruner.kind=none"]).spec.search.pruner.rungs is None
    )


def test_a_bad_plan_is_of_no_interest_while_pruning_is_off(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('[study]\nname = "s"\n[search.pruner]\nkind = "none"\nrungs = [5, 90]\n')
    assert read_study(str(file)).spec.search.pruner.kind == "none"


def test_a_scarce_budget_serves_the_ends_of_the_front_first() -> None:
    front = [(0.9, 10.0), (0.5, 30.0), (0.45, 40.0), (0.42, 45.0), (0.1, 1000.0)]
    records = [record(i, error, error, size) for i, (error, size) in enumerate(front)]
    records.append(record(5, 0.95, 0.95, 1000.0))
    decisions = decide(settings("pareto", share=0.5), records)
    by_chance = [one.ordinal for one in sorted(decisions, key=lambda one: one.behind)]
    assert by_chance[:2] == [4, 0]
    assert by_chance[-1] == 5


@given(st.integers(1, 60), st.floats(0.01, 1))
def test_so_many_go_on_in_any_case(number: int, share: float) -> None:
    records = [record(i, 0.1 + i / 100, 0.1 + i / 100, 100.0 + i) for i in range(number)]
    decisions = decide(settings("pareto", share=share, min_records=16), records)
    assert len(kept(decisions)) >= min(16, number)
    assert len(kept(decisions)) <= max(16, math.ceil(share * number))
