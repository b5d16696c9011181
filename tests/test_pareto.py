"""Dominance, ranks, hypervolume and knee, against slow and obvious versions."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamoe_search.pareto import (
    front_indices,
    hypervolume,
    is_non_dominated,
    knee_point,
    pareto_ranks,
)

Points = list[list[float]]


def dominates(one: Sequence[float], other: Sequence[float], maximise: Sequence[bool]) -> bool:
    pairs = [(a, b) if up else (-a, -b) for a, b, up in zip(one, other, maximise, strict=True)]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def slow_front(points: Points, maximise: Sequence[bool]) -> list[int]:
    whole = [point for point in points if not any(map(math.isnan, point))]
    return [
        index
        for index, point in enumerate(points)
        if not any(map(math.isnan, point))
        and not any(dominates(other, point, maximise) for other in whole)
    ]


@st.composite
def clouds(draw: st.DrawFn, max_objectives: int = 4) -> tuple[Points, list[bool]]:
    """Points on a coarse grid, so that ties and equal points are common, some with NaN or infinity."""
    size = draw(st.integers(1, max_objectives))
    value = st.integers(-3, 3).map(float) | st.sampled_from([math.nan, math.inf, -math.inf])
    points = draw(st.lists(st.lists(value, min_size=size, max_size=size), max_size=20))
    return points, draw(st.lists(st.booleans(), min_size=size, max_size=size))


@given(clouds())
def test_front_is_what_nobody_dominates(cloud: tuple[Points, list[bool]]) -> None:
    points, maximise = cloud
    assert front_indices(points, maximise).tolist() == slow_front(points, maximise)


@given(clouds())
def test_ranks_are_fronts_peeled_off_one_by_one(cloud: tuple[Points, list[bool]]) -> None:
    points, maximise = cloud
    expected = [-1] * len(points)
    left = {index for index, point in enumerate(points) if not any(map(math.isnan, point))}
    rank = 0
    while left:
        order = sorted(left)
        peeled = {order[i] for i in slow_front([points[index] for index in order], maximise)}
        for index in peeled:
            expected[index] = rank
        left -= peeled
        rank += 1
    assert pareto_ranks(points, maximise).tolist() == expected


@given(clouds())
def test_front_is_the_one_that_optuna_finds(cloud: tuple[Points, list[bool]]) -> None:
    points, maximise = cloud
    points = [point for point in points if not any(map(math.isnan, point))]
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["maximize" if up else "minimize" for up in maximise])
    optuna.logging.set_verbosity(before)
    for point in points:
        study.add_trial(optuna.trial.create_trial(values=point))
    best = sorted(trial.number for trial in study.best_trials)
    assert front_indices(points, maximise).tolist() == best


@given(clouds(max_objectives=3))
def test_hypervolume_counts_the_grid_cells_that_are_dominated(
    cloud: tuple[Points, list[bool]],
) -> None:
    points, maximise = cloud
    points = [point for point in points if not any(map(math.isinf, point))]
    reference = [-4.0 if up else 4.0 for up in maximise]
    corners = product(*[range(-4, 3) if up else range(4, -3, -1) for up in maximise])
    cells = sum(
        any(
            all(value >= at + 1 if up else value <= at - 1 for value, at, up in cell)
            for cell in (list(zip(point, corner, maximise, strict=True)) for point in points)
        )
        for corner in corners
    )
    assert hypervolume(points, maximise, reference) == pytest.approx(cells)


def test_hypervolume_refuses_a_reference_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="one value per objective"):
        hypervolume([[1.0, 2.0]], [True, False], [0.0])
    with pytest.raises(ValueError, match="finite"):
        hypervolume([[1.0, 2.0]], [True, False], [0.0, math.inf])


def test_points_beyond_the_reference_add_nothing() -> None:
    assert hypervolume([[0.9, 200.0]], [True, False], [0.0, 100.0]) == 0.0
    assert hypervolume([], [True, False], [0.0, 100.0]) == 0.0


def test_equal_points_are_all_on_the_front() -> None:
    mask = is_non_dominated([[0.9, 10.0], [0.9, 10.0], [0.8, 10.0]], [True, False])
    assert mask.tolist() == [True, True, False]


def test_shape_must_fit_the_directions() -> None:
    with pytest.raises(ValueError, match="2 objectives"):
        is_non_dominated([[1.0, 2.0, 3.0]], [True, False])
    with pytest.raises(ValueError, match="objectives"):
        is_non_dominated([1.0, 2.0], [True, False])


def test_values_are_left_as_they_were() -> None:
    values = np.array([[0.5, 3.0], [0.7, 5.0]])
    before = values.copy()
    front_indices(values, [True, False])
    pareto_ranks(values, [True, False])
    hypervolume(values, [True, False], [0.0, 10.0])
    assert np.array_equal(values, before)


def test_knee_is_farthest_from_the_line_between_the_ends() -> None:
    accuracy = np.array([0.50, 0.80, 0.90, 0.94, 0.95])
    params = np.array([100.0, 200.0, 300.0, 600.0, 1100.0])
    x, y = (params - 100) / 1000, (accuracy - 0.5) / 0.45
    distances = (y - x) / math.sqrt(2)  # the ends are (0, 0) and (1, 1)
    values = np.stack([accuracy, params], axis=1)
    assert knee_point(values, [True, False]) == int(distances.argmax()) == 2


def test_knee_of_few_points_and_of_none() -> None:
    assert knee_point([], [True, False]) is None
    assert knee_point([[math.nan, 1.0]], [True, False]) is None
    assert knee_point([[0.5, math.inf]], [True, False]) is None
    assert knee_point([[0.1, 9.0], [0.5, 3.0]], [True, False]) == 1
    assert knee_point([[0.5, 3.0], [0.6, 4.0]], [True, False]) == 0
    assert knee_point([[0.5], [0.7], [0.7]], [True]) == 1


@given(clouds())
def test_knee_is_a_point_of_the_front(cloud: tuple[Points, list[bool]]) -> None:
    points, maximise = cloud
    finite = [index for index in slow_front(points, maximise) if np.isfinite(points[index]).all()]
    knee = knee_point(points, maximise)
    assert knee in finite if finite else knee is None
