"""Adaptive experts: the published cycle, the order of removing and adding, and a slow oracle."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamoe_search.moe.adaptive import (
    SlotUpdate,
    is_recording,
    is_update_due,
    update_slots,
)
from dynamoe_search.records import AdaptiveConfig
from tests.oracles.adaptive import update_slots_slowly

PUBLISHED = AdaptiveConfig(max_experts=16, period=900, record_from=300, update_at=600)


def update_one(
    is_open: list[int],
    routed: list[float],
    unrouted: list[float],
    *,
    exists: list[int] | None = None,
    add: bool = True,
    remove: bool = True,
    due: bool = True,
) -> SlotUpdate:
    """The update of a single candidate."""
    exists = [1] * len(is_open) if exists is None else exists
    return update_slots(
        torch.tensor([is_open]).bool(),
        torch.tensor([exists]).bool(),
        torch.tensor([routed], dtype=torch.float32),
        torch.tensor([unrouted], dtype=torch.float32),
        add=torch.tensor([add]),
        remove=torch.tensor([remove]),
        due=torch.tensor([due]),
    )


def test_the_published_cycle():
    recorded = [step for step in range(1, 2701) if is_recording(step, PUBLISHED)]
    assert recorded == [*range(301, 601), *range(1201, 1501), *range(2101, 2401)]
    due = [step for step in range(1, 2701) if is_update_due(step, PUBLISHED)]
    assert due == [600, 1500, 2400]


@pytest.mark.parametrize(
    ("step", "records", "updates"),
    [
        (1, False, False),
        (300, False, False),
        (301, True, False),
        (600, True, True),
        (601, False, False),
        (900, False, False),
        (1200, False, False),
        (1201, True, False),
        (1500, True, True),
        (1501, False, False),
    ],
)
def test_steps_around_the_published_numbers(step, records, updates):
    assert is_recording(step, PUBLISHED) is records
    assert is_update_due(step, PUBLISHED) is updates


def test_a_period_that_is_recorded_all_through():
    config = AdaptiveConfig(max_experts=4, period=5, record_from=0, update_at=5)
    assert all(is_recording(step, config) for step in range(1, 21))
    assert [step for step in range(1, 21) if is_update_due(step, config)] == [5, 10, 15, 20]


@given(st.integers(1, 50), st.data())
def test_every_update_has_records_of_the_same_number_of_steps(period, data):
    update_at = data.draw(st.integers(1, period))
    record_from = data.draw(st.integers(0, update_at - 1))
    config = AdaptiveConfig(
        max_experts=4, period=period, record_from=record_from, update_at=update_at
    )
    recorded = 0
    for step in range(1, 3 * period + 1):
        recorded += is_recording(step, config)
        if is_update_due(step, config):
            assert recorded == update_at - record_from
            recorded = 0
    assert recorded == 0


def test_slots_without_a_token_are_closed():
    update = update_one([1, 1, 1, 0], [5, 0, 1, 0], [0, 0])
    assert update.is_open.tolist() == [[True, False, True, False]]
    assert update.opened.tolist() == [-1]


def test_the_lowest_closed_slot_is_opened_and_points_at_the_unrouted_tokens():
    update = update_one([1, 0, 1, 0], [5, 0, 1, 0], [3, -4])
    assert update.is_open.tolist() == [[True, True, True, False]]
    assert update.opened.tolist() == [1]
    assert torch.allclose(update.router_row, torch.tensor([[0.6, -0.8]]))
    assert update.threshold.tolist() == [0.0]


def test_a_slot_just_removed_may_be_the_one_that_is_opened():
    update = update_one([1, 1, 1, 0], [5, 0, 0, 0], [1, 0])
    assert update.is_open.tolist() == [[True, True, False, False]]
    assert update.opened.tolist() == [1]


def test_a_full_layer_opens_nothing():
    update = update_one([1, 1], [1, 1], [1, 0])
    assert update.is_open.tolist() == [[True, True]]
    assert update.opened.tolist() == [-1]


def test_padding_is_never_opened():
    update = update_one([1, 1, 0, 0], [1, 1, 0, 0], [1, 0], exists=[1, 1, 0, 0])
    assert update.is_open.tolist() == [[True, True, False, False]]
    assert update.opened.tolist() == [-1]


def test_all_experts_may_go_and_the_next_update_opens_the_first_slot():
    update = update_one([1, 1, 1], [0, 0, 0], [1, 1], add=False)
    assert not update.is_open.any()
    update = update_one([0, 0, 0], [0, 0, 0], [1, 1])
    assert update.is_open.tolist() == [[True, False, False]]


def test_a_centred_sum_of_unrouted_tokens_still_opens_a_slot():
    assert update_one([0, 0], [0, 0], [1, -1]).opened.tolist() == [0]


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e30, 3e38])
def test_the_new_row_has_unit_length_for_any_size_of_the_sum(size):
    row = update_one([0], [0], [size, -size]).router_row
    assert torch.allclose(row, torch.tensor([[0.5**0.5, -(0.5**0.5)]]))


@st.composite
def packs(draw: st.DrawFn) -> list[dict]:
    """Arguments of an update, one dictionary per candidate; as many slots and features for all."""
    slots, width = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    few = st.sampled_from((0.0, 0.0, 1.0, 7.0))
    real = st.sampled_from((0.0, 0.0, -2.5, 1.0, 3.0))

    def candidate() -> dict:
        num_existing = draw(st.integers(1, slots))
        exists = [slot < num_existing for slot in range(slots)]
        is_open = [draw(st.booleans()) and each for each in exists]
        return {
            "is_open": is_open,
            "exists": exists,
            "routed": [draw(few) if each else 0.0 for each in is_open],
            "unrouted": [draw(real) for _ in range(width)],
            "add": draw(st.booleans()),
            "remove": draw(st.booleans()),
            "due": draw(st.sampled_from((True, True, False))),
        }

    return [candidate() for _ in range(draw(st.integers(1, 4)))]


@given(packs())
def test_a_pack_is_updated_as_the_oracle_updates_each_candidate(pack):
    stacked = {name: torch.tensor([one[name] for one in pack]) for name in pack[0]}
    update = update_slots(**stacked)
    for position, one in enumerate(pack):
        is_open, opened, row = update_slots_slowly(**one)
        assert update.is_open[position].tolist() == is_open
        assert update.opened[position].item() == opened
        assert update.router_row[position].tolist() == pytest.approx(row, abs=1e-6)


def test_a_neighbour_that_is_not_finite_changes_nothing_for_the_others():
    is_open = torch.tensor([[True, False], [True, False]])
    yes = torch.ones(2, dtype=torch.bool)
    update = update_slots(
        is_open,
        torch.ones_like(is_open),
        torch.tensor([[float("nan"), 0.0], [1.0, 0.0]]),
        torch.tensor([[float("nan")] * 2, [3.0, 4.0]]),
        add=yes,
        remove=yes,
        due=yes,
    )
    assert update.is_open[1].tolist() == [True, True]
    assert torch.allclose(update.router_row[1], torch.tensor([0.6, 0.8]))
