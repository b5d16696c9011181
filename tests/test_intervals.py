"""Intervals cover what they say, corrections keep their promise, and rankings are compared as Kendall did."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dynamoe_search.intervals import (
    holm,
    mean_interval,
    paired_difference,
    rank_agreement,
    split_agreement,
)

NUMBERS = st.floats(-1e3, 1e3)


def test_interval_is_that_of_scipy() -> None:
    values = [0.91, 0.93, 0.90, 0.95, 0.92]
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert (found.mean, found.number) == (pytest.approx(0.922), 5)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    draws = generator.normal(3.0, 2.0, size=(4000, 4))
    covered = [found.low <= 3.0 <= found.high for found in map(mean_interval, draws.tolist())]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)


def test_one_value_says_nothing_of_the_spread() -> None:
    found = mean_interval([0.5])
    assert (found.mean, found.number) == (0.5, 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(mean_interval([]).mean)
    assert paired_difference([1.0], [0.0]).p == 1.0


def test_difference_is_that_of_scipy() -> None:
    first, second = [0.91, 0.93, 0.90, 0.95], [0.90, 0.90, 0.89, 0.96]
    theirs = stats.ttest_rel(first, second)
    found = paired_difference(first, second)
    assert found.p == pytest.approx(theirs.pvalue)
    interval = theirs.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_equal_steps_do_not_prove_a_difference() -> None:
    first, second = [0.91, 0.91], [0.90, 0.90]
    assert paired_difference(first, second).p == 0.0  # exact numbers
    read_off = paired_difference(first, second, resolution=0.01)
    assert read_off.p > 0.1
    assert read_off.low < 0 < read_off.high
    assert mean_interval([0.9, 0.9], resolution=0.01).low < 0.9


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=8))
def test_difference_turns_round_with_its_sides(pairs: list[tuple[float, float]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert there.mean == pytest.approx(-back.mean, abs=1e-9)
    assert there.low == pytest.approx(-back.high, abs=1e-9)
    assert there.p == back.p
    assert 0 <= there.p <= 1
    assert there.low <= there.mean <= there.high


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_only_raises_and_keeps_the_order(p_values: list[float]) -> None:
    found = holm(p_values)
    assert all(p <= adjusted <= 1 for p, adjusted in zip(p_values, found, strict=True))
    order = sorted(range(len(found)), key=lambda index: p_values[index])
    assert [found[index] for index in order] == sorted(found)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_equal_rankings_agree_and_opposite_ones_do_not() -> None:
    values = [[1.0, 1.1], [2.0, 2.1], [3.0, 3.1], [4.0, 4.1]]
    same = rank_agreement(values, values)
    assert (same.tau, same.low, same.high, same.number) == (1.0, 1.0, 1.0, 4)
    assert rank_agreement(values, [[-x for x in row] for row in values]).high == -1.0


def test_noise_makes_the_interval_of_an_agreement_wide() -> None:
    generator = np.random.default_rng(3)
    quality = np.arange(8.0)[:, None]
    quiet = rank_agreement(
        quality + generator.normal(0, 0.1, (8, 5)), quality + generator.normal(0, 0.1, (8, 5))
    )
    loud = rank_agreement(
        quality + generator.normal(0, 9, (8, 5)), quality + generator.normal(0, 9, (8, 5))
    )
    assert quiet.low > 0.8
    assert loud.low < 0.2
    assert loud.high - loud.low > quiet.high - quiet.low


@given(st.integers(2, 12), st.integers(0, 1000))
def test_agreement_is_the_tau_of_the_library(number: int, seed: int) -> None:
    first, second = np.random.default_rng(seed).integers(0, 6, (2, number, 1))
    expected = float(stats.kendalltau(first, second).statistic)
    assert rank_agreement(first, second).tau == pytest.approx(expected, nan_ok=True)


def test_halves_of_the_seeds_agree_as_far_as_designs_differ() -> None:
    noise = np.random.default_rng(1).normal(0, 1, (12, 6))
    quality = np.arange(12.0)[:, None]
    assert split_agreement(100 * quality + noise) == 1.0
    assert abs(split_agreement(noise)) < 0.5
    assert split_agreement(quality + noise) > 0.6
    assert math.isnan(split_agreement(noise[:, :1]))
    assert math.isnan(split_agreement(noise[:1]))


def test_no_order_is_no_agreement() -> None:
    assert math.isnan(rank_agreement([[1.0], [1.0]], [[1.0], [2.0]]).tau)
    assert math.isnan(rank_agreement([[1.0]], [[2.0]]).tau)
    with pytest.raises(ValueError, match="both sides"):
        rank_agreement([[1.0], [2.0]], [[1.0]])
