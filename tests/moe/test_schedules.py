"""Schedules: bounds, order, exact totals, mirror images, and what short networks degenerate to."""

import dataclasses
import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dynamoe_search.errors import UsageError
from dynamoe_search.moe.schedules import (
    RAMPS,
    SHAPES,
    experts_per_layer,
    profile,
    total_experts,
)
from dynamoe_search.records import ScheduleConfig
from dynamoe_search.specs import vocabulary

BOTH = st.sampled_from(("max", "total"))


@st.composite
def schedules(draw: st.DrawFn, *, match: str, shapes: tuple[str, ...] = tuple(SHAPES)):
    """A schedule of any shape, and a number of layers."""
    lowest = draw(st.integers(1, 12))
    num_layers = draw(st.integers(1, 20))
    highest = draw(st.integers(lowest, 24))
    totals = st.none() | st.integers(num_layers, num_layers * (highest + 3))
    config = ScheduleConfig(
        shape=draw(st.sampled_from(shapes)),
        min_experts=lowest,
        max_experts=highest,
        ramp=draw(st.sampled_from(tuple(RAMPS))),
        cycles=draw(st.integers(1, 6)),
        match=match,
        total_experts=draw(totals) if match == "total" else None,
    )
    return config, num_layers


def schedule(shape: str, **changes) -> ScheduleConfig:
    return ScheduleConfig(**{"shape": shape, "min_experts": 2, "max_experts": 8, **changes})


def test_every_name_of_a_study_file_is_known():
    assert tuple(SHAPES) == vocabulary.SHAPES
    assert tuple(RAMPS) == vocabulary.get_args(vocabulary.Ramp)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("uniform", (8, 8, 8, 8)),
        ("descending", (8, 6, 4, 2)),
        ("ascending", (2, 4, 6, 8)),
        ("pyramid-up", (2, 6, 6, 2)),
        ("pyramid-down", (8, 4, 4, 8)),
        ("wave-up", (5, 8, 2, 5)),
        ("wave-down", (5, 2, 8, 5)),
    ],
)
def test_four_layers_that_share_their_highest_count(shape, expected):
    assert experts_per_layer(schedule(shape), 4) == expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("uniform", (5, 5, 5, 5)),
        ("descending", (8, 6, 4, 2)),
        ("pyramid-up", (3, 7, 7, 3)),
        ("pyramid-down", (7, 3, 3, 7)),
        ("wave-up", (5, 8, 2, 5)),
    ],
)
def test_four_layers_that_share_their_sum(shape, expected):
    assert experts_per_layer(schedule(shape, match="total"), 4) == expected


def test_the_ramp_bends_the_height():
    levels = {ramp: profile(schedule("ascending", ramp=ramp), 5) for ramp in RAMPS}
    assert levels["linear"] == (2.0, 3.5, 5.0, 6.5, 8.0)
    assert levels["quadratic"] == (2.0, 2.375, 3.5, 5.375, 8.0)
    assert levels["cosine"] == pytest.approx((2.0, 2.878680, 5.0, 7.121320, 8.0), abs=1e-6)


@given(schedules(match="max"))
def test_matched_on_the_maximum_all_counts_are_within_the_bounds(drawn):
    config, num_layers = drawn
    counts = experts_per_layer(config, num_layers)
    assert len(counts) == num_layers
    assert min(counts) >= config.min_experts
    assert max(counts) <= config.max_experts
    if config.shape in ("uniform", "descending", "pyramid-down"):
        assert counts[0] == config.max_experts


@given(schedules(match="total"))
def test_matched_on_the_total_the_sum_is_exact_and_bounds_hold_where_they_can(drawn):
    config, num_layers = drawn
    counts = experts_per_layer(config, num_layers)
    total = total_experts(config, num_layers)
    assert sum(counts) == total
    assert min(counts) >= min(config.min_experts, total // num_layers) >= 1
    assert max(counts) <= max(config.max_experts, -(-total // num_layers))


@given(BOTH.flatmap(lambda match: schedules(match=match)))
def test_where_the_shape_is_higher_there_are_never_fewer_experts(drawn):
    config, num_layers = drawn
    steps = max(1, num_layers - 1)
    shape = SHAPES[config.shape]
    heights = [round(shape(layer / steps, config.cycles), 9) for layer in range(num_layers)]
    counts = experts_per_layer(config, num_layers)
    for (low, few), (high, many) in itertools.permutations(zip(heights, counts, strict=True), 2):
        assert low >= high or few <= many


@given(BOTH.flatmap(lambda match: schedules(match=match)))
def test_counts_are_close_to_the_unrounded_profile(drawn):
    config, num_layers = drawn
    pairs = zip(experts_per_layer(config, num_layers), profile(config, num_layers), strict=True)
    distance = max(abs(count - level) for count, level in pairs)
    assert distance <= 0.5 if config.match == "max" else distance < 2


@given(schedules(match="total", shapes=("descending", "ascending")))
def test_falling_and_rising_counts_at_an_exact_total(drawn):
    config, num_layers = drawn
    counts = experts_per_layer(config, num_layers)
    assert list(counts) == sorted(counts, reverse=config.shape == "descending")


@given(schedules(match="total", shapes=("pyramid-up", "pyramid-down")))
def test_a_pyramid_has_one_slope_on_each_side(drawn):
    config, num_layers = drawn
    counts = experts_per_layer(config, num_layers)
    sign = 1 if config.shape == "pyramid-up" else -1
    steps = [sign * (after - before) for before, after in itertools.pairwise(counts)]
    half = (num_layers - 1) / 2
    assert all(step >= 0 for layer, step in enumerate(steps) if layer + 1 <= half)
    assert all(step <= 0 for layer, step in enumerate(steps) if layer >= half)


@given(BOTH.flatmap(lambda m: schedules(match=m, shapes=("uniform", "pyramid-up", "pyramid-down"))))
def test_mirror_images_of_themselves_stay_so_as_far_as_possible(drawn):
    config, num_layers = drawn
    counts = experts_per_layer(config, num_layers)
    difference = sum(abs(a - b) for a, b in zip(counts, reversed(counts), strict=True))
    assert difference in (0, 2)  # 2: the two layers of one pair differ by one
    if config.match == "max" or (num_layers % 2 == 0 and sum(counts) % 2 == 0):
        assert difference == 0
    if config.shape == "uniform" and num_layers % 2:
        assert difference == 0


@pytest.mark.parametrize(
    ("shape", "total", "expected"),
    [
        ("pyramid-up", 25, (3, 6, 7, 6, 3)),  # largest remainder alone would give 3 6 8 6 2
        ("pyramid-up", 24, (2, 6, 8, 6, 2)),
        ("pyramid-up", 39, (8, 8, 8, 8, 7)),  # 8 8 7 8 8 would turn the pyramid round
        ("pyramid-down", 39, (8, 8, 7, 8, 8)),
        ("uniform", 13, (3, 2, 3, 2, 3)),
    ],
)
def test_five_layers_at_a_given_total(shape, total, expected):
    config = schedule(shape, match="total", total_experts=total)
    assert experts_per_layer(config, 5) == expected


@given(BOTH.flatmap(lambda match: schedules(match=match, shapes=("descending", "wave-up"))))
def test_the_opposite_shape_is_the_same_read_backwards(drawn):
    config, num_layers = drawn
    assume(num_layers > 1)  # one layer has t = 0, whichever way it is read
    opposite = {"descending": "ascending", "wave-up": "wave-down"}[config.shape]
    backwards = experts_per_layer(dataclasses.replace(config, shape=opposite), num_layers)
    assert backwards[::-1] == experts_per_layer(config, num_layers)


@pytest.mark.parametrize(
    ("shape", "one", "two", "three"),
    [
        ("uniform", (8,), (8, 8), (8, 8, 8)),
        ("descending", (8,), (8, 2), (8, 5, 2)),
        ("ascending", (2,), (2, 8), (2, 5, 8)),
        ("pyramid-up", (2,), (2, 2), (2, 8, 2)),
        ("pyramid-down", (8,), (8, 8), (8, 2, 8)),
        ("wave-up", (5,), (5, 5), (5, 5, 5)),
        ("wave-down", (5,), (5, 5), (5, 5, 5)),
    ],
)
def test_short_networks(shape, one, two, three):
    assert experts_per_layer(schedule(shape), 1) == one
    assert experts_per_layer(schedule(shape), 2) == two
    assert experts_per_layer(schedule(shape), 3) == three


@pytest.mark.parametrize("shape", tuple(SHAPES))
def test_a_total_out_of_reach_is_spread_evenly(shape):
    assert experts_per_layer(schedule(shape, match="total", total_experts=40), 4) == (10,) * 4
    assert experts_per_layer(schedule(shape, match="total", total_experts=4), 4) == (1,) * 4


def test_the_total_is_half_way_between_the_bounds_unless_it_is_given():
    assert total_experts(schedule("uniform", max_experts=5), 3) == 11  # 10.5
    assert total_experts(schedule("uniform", total_experts=7), 3) == 7


@pytest.mark.parametrize(
    ("config", "num_layers", "message"),
    [
        (
            schedule("uniform", min_experts=9),
            4,
            r"min_experts must be between 1 and .*\(8\), got 9",
        ),
        (schedule("uniform", match="total", total_experts=3), 4, r"one per layer \(4\), got 3"),
        (schedule("uniform"), 0, "num_layers must be at least 1, got 0"),
    ],
)
def test_impossible_schedules_are_refused(config, num_layers, message):
    with pytest.raises(UsageError, match=message):
        experts_per_layer(config, num_layers)
