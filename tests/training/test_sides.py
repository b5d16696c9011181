"""Packs in two halves, each computed by one of two threads: who is in which half changes no number."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from dynamoe_search.moe.asynchrony import running_ahead
from dynamoe_search.moe.threads import in_threads
from dynamoe_search.records import Candidate
from dynamoe_search.training import Trained, sides, train_leg
from dynamoe_search.training.population import Population
from tests.training.populations import (
    ADAPTIVE,
    SETTINGS,
    candidate,
    differing,
    digits,
    mixed_pack,
    train_population,
)


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sides, "FEWEST_TOKENS", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def halves(pack: list[Candidate]) -> list[list[int]]:
    """The ordinals of each half of a population."""
    population = Population(pack, digits(), SETTINGS)
    ordinals = iter(one.ordinal for one in pack)
    return [
        [next(ordinals) for _ in range(side.cohort.num_candidates)] for side in population._sides
    ]


def by_one_thread(pack: list[Candidate]) -> list[Trained]:
    torch.set_num_threads(1)
    assert not halves(pack)
    trained = train_population(pack, digits(), SETTINGS)
    torch.set_num_threads(2)
    return trained


@pytest.mark.parametrize("backbone", ["mlp", "vit"])
def test_halves_are_trained_and_evaluated_to_the_bits_of_the_whole(backbone: str) -> None:
    pack = mixed_pack(backbone)
    assert [len(half) > 1 for half in halves(pack)] == [True, True]
    trained = train_population(pack, digits(), SETTINGS)
    for one, other in zip(trained, by_one_thread(pack), strict=True):
        assert differing(one, other) == []


def test_experts_that_are_added_and_removed_and_those_who_leave_change_halves() -> None:
    adaptive = [candidate(n, experts=(3, 2), adaptive=ADAPTIVE, threshold=0.1) for n in range(3)]
    short = [candidate(n, "top-k", k=1 + n % 3, train={"epochs": 1}) for n in range(3, 7)]
    pack = [short[0], *adaptive, *short[1:], candidate(7, "relu")]
    trained = train_population(pack, digits(), SETTINGS)
    assert [one.outcome.epochs for one in trained if one.outcome is not None] == [
        one.train.epochs for one in pack
    ]
    for one, other in zip(trained, by_one_thread(pack), strict=True):
        assert differing(one, other) == []


def test_halves_go_on_from_states() -> None:
    pack = mixed_pack()[:6]
    whole = {one.ordinal: one for one in train_population(pack, digits(), SETTINGS)}
    first = train_leg(pack, digits(), SETTINGS, until=1)
    states = {one.ordinal: one.standing for one in first if one.standing is not None}
    for one in train_leg(pack, digits(), SETTINGS, until=2, start=states):
        assert differing(one, whole[one.ordinal]) == []


def test_work_is_divided_evenly() -> None:
    few = [candidate(n, "top-k", (6, 6), k=1) for n in range(4)]
    many = [candidate(n, "top-k", (6, 6), k=6) for n in range(4, 6)]
    assert halves([*few, *many]) == [[0, 1, 2, 3], [4, 5]]
    assert halves(few) == [[0, 1], [2, 3]]


def test_what_is_better_computed_as_a_whole_is() -> None:
    pack = mixed_pack()[:4]
    assert halves(pack)
    assert halves(pack[:3]) == [[0, 1, 2]]  # a half would have one member
    with running_ahead():
        assert not halves(pack)
    torch.set_num_threads(4)
    assert not halves(pack)


def test_a_pack_with_small_batches_is_not_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "FEWEST_TOKENS", 49)
    assert not halves(mixed_pack())  # batches of 48
    assert halves(mixed_pack("vit"))  # with several tokens an image
    monkeypatch.setattr(sides, "FEWEST_TOKENS", 48)
    assert halves(mixed_pack())


def test_few_candidates_and_many_come_to_the_same_bits() -> None:
    wide = {"batch_size": 400, "epochs": 1}
    pack = [
        replace(one, model=replace(one.model, d_model=24))
        for one in (candidate(n, "top-k", (6, 6), k=6, train=wide) for n in range(6))
    ]
    trained = train_population(pack, digits(800), SETTINGS)
    for few in ([0], [1, 5], [2, 3, 4]):
        alone = train_population([pack[n] for n in few], digits(800), SETTINGS)
        for number, one in zip(few, alone, strict=True):
            assert differing(one, trained[number]) == []


def test_an_error_in_a_half_is_raised_once_the_other_is_through() -> None:
    through = []

    def compute(part: int) -> None:
        if part == 0:
            raise ValueError(part)
        time.sleep(0.2)
        through.append(part)

    with pytest.raises(ValueError, match="0"):
        in_threads(compute, [0, 1])
    assert through == [1]


def test_an_error_in_a_half_is_raised() -> None:
    population = Population(mixed_pack()[:4], digits(), SETTINGS)
    with pytest.raises(RuntimeError):
        population._train_step(digits().train.x[:8, :, :3], digits().train.y[:8])
