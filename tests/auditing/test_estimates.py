"""Intervals and tests against their definitions, against scipy, and against data with a known truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dynamoe_search.auditing.estimates import (
    blocked_anova,
    interpolate,
    jackknife,
    mean_estimate,
)

finite = st.floats(-1e3, 1e3)


@given(st.lists(finite, min_size=2, max_size=12))
def test_the_interval_of_a_mean_is_scipys(values: list[float]) -> None:
    estimate = mean_estimate(values)
    assert estimate.low <= estimate.effect <= estimate.high
    if np.std(values) > 1e-6:
        reference = stats.ttest_1samp(values, 0.0)
        assert estimate.p == pytest.approx(reference.pvalue)
        interval = reference.confidence_interval()
        assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))


def test_a_mean_of_less_than_two_finite_numbers_is_unknown() -> None:
    for values in ([], [1.0], [1.0, math.nan], [math.inf, 1.0]):
        assert math.isnan(mean_estimate(values).effect)


def test_two_levels_are_a_paired_t_test() -> None:
    table = np.random.default_rng(0).normal(size=(6, 2))
    result = blocked_anova(table)
    paired = stats.ttest_rel(table[:, 0], table[:, 1])
    assert result.f == pytest.approx(paired.statistic**2)
    assert result.p == pytest.approx(paired.pvalue)
    assert result.spread.p == pytest.approx(paired.pvalue, rel=1e-3)  # Tukey of two is t


def test_values_on_the_same_step_leave_the_variance_of_rounding() -> None:
    table = np.tile([90.0, 90.25, 90.25], (4, 1))
    sure, rounded = blocked_anova(table), blocked_anova(table, resolution=0.25)
    assert (sure.spread.low, sure.p) == (0.25, 0.0)
    assert 0 < rounded.half_width < 1
    assert rounded.spread.low == max(0.0, 0.25 - rounded.half_width)


def test_what_all_levels_of_a_block_share_changes_nothing() -> None:
    table = np.random.default_rng(1).normal(size=(5, 4))
    moved = table + np.array([[3.0], [-20.0], [7.0], [0.0], [1.0]])
    one, other = blocked_anova(table), blocked_anova(moved)
    assert other.f == pytest.approx(one.f)
    assert other.spread.effect == pytest.approx(one.spread.effect)
    assert other.share_high == pytest.approx(one.share_high)


def test_the_interval_of_omega_squared_covers_the_truth() -> None:
    draw = np.random.default_rng(2)
    effects = np.array([0.0, 0.3, 0.6, 0.9])
    true = effects.var() / (effects.var() + 1.0)
    inside = 0
    for _ in range(60):
        table = draw.normal(size=(5, 4)) + effects + draw.normal(size=(5, 1)) * 3
        result = blocked_anova(table)
        assert result.share_low <= result.share_high
        inside += result.share_low <= true <= result.share_high
    assert inside >= 0.88 * 60


def test_tables_without_noise_are_certain() -> None:
    equal = blocked_anova(np.ones((3, 4)))
    assert (equal.spread.effect, equal.p, equal.share) == (0.0, 1.0, 0.0)
    unequal = blocked_anova(np.tile([0.0, 2.0, 1.0], (3, 1)))
    assert (unequal.spread.low, unequal.spread.high, unequal.p) == (2.0, 2.0, 0.0)


@given(st.lists(finite, min_size=3, max_size=10))
def test_the_jackknife_of_a_mean_is_its_t_interval(values: list[float]) -> None:
    estimate = jackknife(lambda rows: float(np.mean([values[row] for row in rows])), len(values))
    plain = mean_estimate(values)
    assert estimate.effect == pytest.approx(plain.effect, abs=1e-6)
    assert estimate.low == pytest.approx(plain.low, abs=1e-6)


def test_interpolation_is_straight_inside_and_flat_outside() -> None:
    assert interpolate([4, 1], [8.0, 2.0], 2) == pytest.approx(4.0)
    assert interpolate([4, 1], [8.0, 2.0], 0) == 2.0
    assert interpolate([4, 1], [8.0, 2.0], 9) == 8.0
