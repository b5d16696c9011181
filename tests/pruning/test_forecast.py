"""Estimates of what candidates would become: defined in every case, and calibrated where the truth is known."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamoe_search.pruning import Estimate, RungRecord, estimates

EPOCHS = 27

numbers = st.one_of(st.integers(0, 3).map(float), st.floats(0, 1), st.just(math.nan))
rows = st.lists(st.tuples(numbers, numbers, st.floats(0, 1e6)), max_size=12)


def record(ordinal: int, error: float, loss: float, activated: float) -> RungRecord:
    return RungRecord(ordinal=ordinal, error=error, loss=loss, activated_params=activated)


@given(rows, rows, st.sets(st.integers(0, 11)))
@settings(deadline=None)
def test_every_case_is_defined(low: list, high: list, finished: set[int]) -> None:
    first = [record(i, *row) for i, row in enumerate(low)]
    second = [record(i, *row) for i, row in enumerate(high[: len(low)])]
    finals = {one.ordinal: (one.error, 5.0) for one in second if one.ordinal in finished}
    standing = {one.ordinal: 1 for one in first if one.ordinal not in finals}
    found = estimates({1: first, 2: second}, finals, standing, epochs=EPOCHS)
    assert found.keys() <= standing.keys()
    finite = {
        one.ordinal
        for one in first
        if np.isfinite((one.error, one.loss, one.activated_params)).all()
    }
    assert finite & standing.keys() <= found.keys()
    for one in found.values():
        assert 0 <= one.error_low <= one.error <= one.error_high <= 1
        assert 0 < one.activated_low <= one.activated_params <= one.activated_high < math.inf


def curves(number: int, seed: int) -> tuple[dict[int, list[RungRecord]], list[tuple[float, float]]]:
    """Candidates that get better at a pace of their own, with noise; (by rung, ends)."""
    chance = random.Random(seed)
    rungs: dict[int, list[RungRecord]] = {1: [], 3: [], 9: []}
    ends = []
    for ordinal in range(number):
        quality, size = chance.gauss(-2, 0.5), math.exp(chance.gauss(8, 0.5))
        for rung, left in ((1, 1.5), (3, 0.8), (9, 0.3)):
            error = math.exp(quality + left + chance.gauss(0, 0.1 + 0.1 * left))
            shrunk = size * math.exp(0.1 * left + chance.gauss(0, 0.05 * left))
            rungs[rung].append(record(ordinal, min(error, 1.0), 3 * error, shrunk))
        ends.append((min(1.0, math.exp(quality + chance.gauss(0, 0.1))), size))
    return rungs, ends


def paused(
    rungs: dict[int, list[RungRecord]], num_finished: int
) -> tuple[dict[int, list[RungRecord]], dict[int, int], list[int]]:
    """Half of a rung goes on each time, the better half; returns (records, standing, finished)."""
    known, standing = {}, {}
    alive = [one.ordinal for one in rungs[1]]
    for rung, records in rungs.items():
        known[rung] = [one for one in records if one.ordinal in alive]
        ranked = sorted(known[rung], key=lambda one: one.error)
        alive = [one.ordinal for one in ranked[: len(ranked) // 2]]
        standing |= {one.ordinal: rung for one in ranked[len(ranked) // 2 :]}
    standing |= dict.fromkeys(alive[num_finished:], 9)
    return known, standing, alive[:num_finished]


@pytest.mark.parametrize("num_finished", [2, 8, 20])
def test_intervals_hold_what_simple_curves_become(num_finished: int) -> None:
    """On curves as simple as these they are too wide; `benchmarks/pruning/coverage.py` looks at real ones."""
    inside = []
    for seed in range(3):
        rungs, ends = curves(160, seed)
        known, standing, finished = paused(rungs, num_finished)
        found = estimates(known, {one: ends[one] for one in finished}, standing, epochs=EPOCHS)
        for ordinal, one in found.items():
            error, size = ends[ordinal]
            inside.append(
                (
                    one.error_low <= error <= one.error_high,
                    one.activated_low <= size <= one.activated_high,
                )
            )
    assert np.mean(inside, axis=0).min() > 0.9


def test_a_known_shift_is_learnt() -> None:
    first = [record(i, 0.5 + i / 100, 1.0 + i / 50, 1000.0 + i) for i in range(40)]
    finals = {i: (first[i].error / 2, 500.0) for i in range(0, 40, 2)}
    found = estimates({1: first}, finals, dict.fromkeys(range(1, 40, 2), 1), epochs=EPOCHS)
    for ordinal, one in found.items():
        assert one.error == pytest.approx(first[ordinal].error / 2, rel=0.1)
        assert one.activated_params == pytest.approx(500, rel=0.1)


@pytest.mark.parametrize("num_finished", [0, 1, 2])
def test_few_finished_candidates_are_enough(num_finished: int) -> None:
    rungs, ends = curves(16, 3)
    found = estimates(
        rungs, {i: ends[i] for i in range(num_finished)}, {15: 9, 14: 3}, epochs=EPOCHS
    )
    assert found.keys() == {14, 15}


def test_the_order_of_records_changes_nothing() -> None:
    rungs, ends = curves(30, 1)
    finals, standing = {i: ends[i] for i in range(5)}, dict.fromkeys(range(5, 30), 9)
    mixed = {rung: records[::-1] for rung, records in reversed(rungs.items())}
    found = estimates(mixed, finals, standing, epochs=EPOCHS)
    assert found == estimates(rungs, finals, standing, epochs=EPOCHS)


@given(st.randoms(), st.integers(0, 12))
@settings(deadline=None, max_examples=20)
def test_neither_order_nor_names_of_kinds_change_anything(
    chance: random.Random, num_finished: int
) -> None:
    rungs, ends = curves(24, 4)
    finals = {i: ends[i] for i in range(num_finished)}
    standing = dict.fromkeys(range(num_finished, 24), 3)
    kinds = {i: ("top-k", "top-any", "top-p")[i % 3] for i in range(24)}
    found = estimates(rungs, finals, standing, epochs=EPOCHS, kinds=kinds)
    mixed = {rung: chance.sample(records, len(records)) for rung, records in rungs.items()}
    renamed = {i: kind[::-1] for i, kind in chance.sample(sorted(kinds.items()), 24)}
    assert estimates(mixed, finals, standing, epochs=EPOCHS, kinds=renamed) == found


def test_who_is_of_a_kind_that_changes_nothing_is_expected_to_change_nothing() -> None:
    chance = random.Random(0)
    first, second, kinds, ends = [], [], {}, {}
    for i in range(60):
        size, quality = math.exp(chance.gauss(8, 0.5)), chance.uniform(0.1, 0.4)
        drift = 0.0 if i % 2 else chance.gauss(-0.3, 0.2)
        kinds[i] = "top-k" if i % 2 else "top-any"
        first.append(record(i, quality, 2 * quality, size))
        second.append(record(i, quality / 2, quality, size * math.exp(drift / 2)))
        ends[i] = (quality / 3, size * math.exp(drift))
    finals, standing = {i: ends[i] for i in range(20)}, dict.fromkeys(range(40, 60), 1)
    rungs = {1: first, 3: second[:40]}
    found = estimates(rungs, finals, standing, epochs=EPOCHS, kinds=kinds)
    blind = estimates(rungs, finals, standing, epochs=EPOCHS)

    def spread(one: Estimate) -> float:
        return math.log(one.activated_high / one.activated_low)

    for i in range(41, 60, 2):
        assert spread(found[i]) < 0.8 * spread(found[i - 1])
        assert spread(found[i]) < 0.8 * spread(blind[i])
        assert abs(math.log(found[i].activated_params / ends[i][1])) < 0.1


@pytest.mark.parametrize("epochs", [1, 3, 9, 10, 1000])
def test_any_number_of_epochs_is_defined(epochs: int) -> None:
    rungs, _ = curves(16, 5)
    found = estimates(rungs, {}, dict.fromkeys(range(16), 9), epochs=epochs)
    assert len(found) == 16
    for one in found.values():
        assert 0 <= one.error_low <= one.error <= one.error_high <= 1
        assert 0 < one.activated_low <= one.activated_params <= one.activated_high < math.inf


def test_the_end_is_farther_off_in_a_longer_training() -> None:
    rungs, _ = curves(40, 6)
    standing = dict.fromkeys(range(40), 9)
    short, long = (estimates(rungs, {}, standing, epochs=epochs) for epochs in (12, 100))
    assert all(long[i].error < short[i].error for i in standing)


def test_who_finished_has_its_result_and_who_reached_nothing_has_none() -> None:
    rungs, _ = curves(12, 2)
    found = estimates(rungs, {0: (0.25, 700.0)}, {0: 9, 99: 1}, epochs=EPOCHS)
    assert found.keys() == {0}
    assert (found[0].error_low, found[0].error_high) == pytest.approx((0.25, 0.25))
    assert found[0].activated_params == pytest.approx(700.0)
    assert estimates({}, {}, {}, epochs=EPOCHS) == {}


def test_losses_have_no_upper_bound() -> None:
    first = [record(i, 3.0 - 0.05 * i, 3.0 - 0.05 * i, 100.0) for i in range(20)]
    ends = {one.ordinal: 0.8 * one.error for one in first}
    finals = {i: (ends[i], 100.0) for i in range(0, 20, 2)}
    asked = dict.fromkeys(range(3, 19, 2), 1)
    found = estimates({1: first}, finals, asked, epochs=EPOCHS, highest=math.inf)
    for ordinal, one in found.items():
        assert one.error == pytest.approx(ends[ordinal], rel=0.05)
        assert 1.0 < one.error_low < one.error < one.error_high
