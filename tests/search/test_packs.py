"""Runs looked at pack by pack: everybody once, in parts that fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamoe_search.search.packs import by_packs


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 12), st.integers(1, 12))
def test_everybody_is_seen_once_in_parts_that_fit(keys: list[int], most: int, fits: int) -> None:
    runs = list(enumerate(keys))
    seen: list[tuple[int, int]] = []

    def look(part: list[tuple[int, int]]) -> None:
        assert len({key for _, key in part}) == 1
        assert len(part) <= most
        if len(part) > fits:
            raise MemoryError
        seen.extend(part)

    assert by_packs(runs, lambda run: run[1], look, most=most, should_stop=lambda: False)
    assert sorted(seen) == runs


def test_what_cannot_be_halved_or_is_another_error_is_raised() -> None:
    def look(part: list[int]) -> None:
        raise (MemoryError if part[0] else RuntimeError("another"))

    for runs, error in (([1, 1], MemoryError), ([0, 0], RuntimeError)):
        with pytest.raises(error):
            by_packs(runs, lambda _: 0, look, most=2, should_stop=lambda: False)


def test_a_stop_is_asked_for_before_every_part() -> None:
    seen: list[int] = []
    stopped = by_packs(
        range(6), lambda _: 0, seen.extend, most=2, should_stop=lambda: len(seen) >= 4
    )
    assert (stopped, seen) == (False, [0, 1, 2, 3])
