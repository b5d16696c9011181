"""Values of a study file as Optuna distributions."""

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from dynamoe_search.search.distributions import (
    all_values,
    distribution_of,
    lies_in,
    middle_value,
    num_values,
    value_at,
)
from dynamoe_search.specs import FloatRange, IntRange

RANGES = st.one_of(
    st.builds(
        lambda low, width, step: IntRange(low=low, high=low + max(width, step), step=step),
        st.integers(1, 50),
        st.integers(0, 60),
        st.integers(1, 7),
    ),
    st.builds(
        lambda low, width: IntRange(low=low, high=low + width, log=True),
        st.integers(1, 50),
        st.integers(0, 60),
    ),
    st.builds(
        lambda low, width, log: FloatRange(low=low, high=low + width, log=log),
        st.floats(0.01, 10),
        st.floats(0, 10),
        st.booleans(),
    ),
    st.builds(
        lambda low, width, step: FloatRange(low=low, high=low + max(width, step), step=step),
        st.integers(0, 8).map(lambda number: number / 8),
        st.integers(0, 16).map(lambda number: number / 8),
        st.sampled_from([0.125, 0.25, 0.3]),
    ),
    st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple),
)


def test_the_three_forms() -> None:
    assert distribution_of(3) is None
    assert distribution_of((1, 2)) == CategoricalDistribution((1, 2))
    assert distribution_of(IntRange(low=2, high=8)) == IntDistribution(2, 8)
    assert distribution_of(FloatRange(low=0.1, high=1.0, log=True)) == FloatDistribution(
        0.1, 1.0, log=True
    )


@pytest.mark.parametrize("value", [(4,), (4, 4), IntRange(low=4, high=4)])
def test_what_can_take_one_value_is_fixed(value: object) -> None:
    assert distribution_of(value) is None
    assert middle_value(value) == 4


def test_the_end_of_a_stepped_range_is_one_that_steps_reach() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert distribution_of(IntRange(low=2, high=9, step=3)) == IntDistribution(2, 8, step=3)
        assert distribution_of(FloatRange(low=0.0, high=1.0, step=0.3)) == FloatDistribution(
            0.0, 0.9, step=0.3
        )


@given(RANGES)
def test_the_middle_lies_in_the_range(value: object) -> None:
    distribution = distribution_of(value)
    if distribution is not None:
        assert lies_in(distribution, middle_value(value))


def test_the_middle_of_a_logarithmic_range_is_geometric() -> None:
    assert middle_value(FloatRange(low=1e-4, high=1e-2, log=True)) == pytest.approx(1e-3)
    assert middle_value(IntRange(low=4, high=64, log=True)) == 16
    assert middle_value(("b", "a")) == "b"


@given(RANGES, st.floats(0, 1, exclude_max=True))
def test_a_point_gives_a_value_of_the_range(value: object, fraction: float) -> None:
    distribution = distribution_of(value)
    if distribution is not None:
        assert lies_in(distribution, value_at(distribution, fraction))


@given(RANGES)
def test_points_reach_every_value(value: object) -> None:
    distribution = distribution_of(value)
    count = None if distribution is None else num_values(distribution)
    if distribution is None or count is None:
        return
    points = [value_at(distribution, number / 4000) for number in range(4000)]
    if isinstance(value, IntRange | tuple):
        assert set(points) == set(all_values(value))
    assert len(set(points)) == count
