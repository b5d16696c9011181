"""Experts added and removed in training, against a slow re-computation from what every step routed."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from dynamoe_search.moe.routing import Chosen
from dynamoe_search.records import AdaptiveConfig, Candidate
from dynamoe_search.training.population import Population
from tests.oracles.adaptive import update_slots_slowly
from tests.training.populations import ADAPTIVE, NUM_SLOTS, SETTINGS, candidate, digits

STEPS = 14


def adaptive(ordinal: int, experts: tuple[int, ...] = (3, 2), **settings: Any) -> Candidate:
    """Thresholds at 0.15 keep some tokens and some experts without a match."""
    config = replace(ADAPTIVE, **settings)
    return replace(candidate(ordinal, experts=experts, threshold=0.15), adaptive=config)


PACK = [
    adaptive(0),
    candidate(1, "top-k"),  # a neighbour that keeps its experts
    adaptive(2, (1, 5), period=6, record_from=2, update_at=5),
    adaptive(3, (2, 2), add=False),
    adaptive(4, (6, 3), remove=False),
    adaptive(5, (2, 3), new_expert="fresh", period=1, update_at=1),
]


class Record:
    """A population that is trained step by step; what every step routed, and the slots after it."""

    def __init__(self, pack: list[Candidate]) -> None:
        self.population = Population(pack, digits(), SETTINGS)
        self.cohort = self.population.cohort
        self.is_open = [self.slots()]
        self.chosen: list[list[Chosen]] = []
        self.before: dict[str, Tensor] = {}  # the first candidate between step and update

    def slots(self) -> list[list[list[bool]]]:
        """Which slots are open, by layer and candidate."""
        return [
            self.cohort.buffers[layer.path + "is_open"].tolist() for layer in self.cohort.layers
        ]

    def steps(self) -> Iterator[int]:
        """Makes training steps and yields their numbers, 1 first."""
        population = self.population
        x, y = digits().train.x, digits().train.y
        for step in range(1, STEPS + 1):
            rows = torch.arange(20 * step, 20 * step + 20) % len(y)
            population.cohort.train(True)
            _, chosen = population.gradients(x[rows], y[rows])
            population.optimizer.step(
                self.cohort.parameters, self.cohort.owner, population._rate_factors()
            )
            population.step += 1
            self.chosen.append(chosen)
            self.before = self.cohort.unstack(0)
            population.adaptation.after_step(step, chosen)
            self.is_open.append(self.slots())
            yield step


@pytest.fixture(scope="module")
def record() -> Record:
    whole = Record(PACK)
    for _ in whole.steps():
        pass
    return whole


def recorded_steps(config: AdaptiveConfig, until: int) -> list[int]:
    """Numbers of the steps that count for the update after step `until`, by counting."""
    first = until - (config.update_at - config.record_from) + 1
    return list(range(first, until + 1))


def is_due(config: AdaptiveConfig, step: int) -> bool:
    return step in range(config.update_at, STEPS + 1, config.period)


def test_slots_after_every_step_are_those_of_a_slow_recomputation(record: Record) -> None:
    changes = 0
    for position, design in enumerate(PACK):
        config = design.adaptive
        for number, layer in enumerate(record.cohort.layers):
            exists = (torch.arange(NUM_SLOTS) < record.cohort.slots[layer.path][position]).tolist()
            for step in range(1, STEPS + 1):
                before = record.is_open[step - 1][number][position]
                after = record.is_open[step][number][position]
                if config is None or not is_due(config, step):
                    assert after == before
                    continue
                seen = [record.chosen[s - 1][number] for s in recorded_steps(config, step)]
                routed = sum(one.mask[position].sum(0) for one in seen)
                unrouted = sum(one.unrouted[position].double() for one in seen)
                expected, *_ = update_slots_slowly(
                    before,
                    exists,
                    routed.tolist(),  # type: ignore[union-attr]
                    unrouted.tolist(),  # type: ignore[union-attr]
                    add=config.add,
                    remove=config.remove,
                    due=True,
                )
                assert after == expected, (position, number, step)
                changes += after != before
    assert changes > 5


def test_events_say_when_and_how_many(record: Record) -> None:
    for position, design in enumerate(PACK):
        events = record.population.adaptation.events(position)
        if design.adaptive is None:
            assert events == ()
            continue
        due = [step for step in range(1, STEPS + 1) if is_due(design.adaptive, step)]
        assert [step for step, _ in events] == [0, *due]
        for step, counts in events:
            opened = record.is_open[step]
            assert counts == tuple(sum(layer[position]) for layer in opened)
        assert events[0][1] == design.experts_per_layer


def test_who_only_adds_never_loses_and_who_only_removes_never_gains(record: Record) -> None:
    for position, sign in ((3, -1), (4, 1)):
        counts = [experts for _, experts in record.population.adaptation.events(position)]
        for earlier, later in pairwise(counts):
            assert all(sign * (b - a) >= 0 for a, b in zip(earlier, later, strict=True))


def rows_of(record: Record, name: str, position: int) -> Tensor:
    tensor = record.cohort.parameters[name].detach()
    return tensor[record.cohort.owner[name] == position].clone()


@pytest.mark.parametrize("new_expert", ["keep", "fresh"])
def test_an_opened_slot_starts_as_asked_for(new_expert: str) -> None:
    record = Record(
        [adaptive(0, (2, 2), new_expert=new_expert, remove=False, period=1, update_at=1)]
    )
    layer, optimizer = record.cohort.layers[0], record.population.optimizer
    opened = 0
    for step in record.steps():
        was, now = record.is_open[step - 1][0][0], record.is_open[step][0][0]
        new = [slot for slot in range(NUM_SLOTS) if now[slot] and not was[slot]]
        opened += len(new)
        state, before = record.cohort.unstack(0), record.before
        alone = record.chosen[-1][0].unrouted[0]
        for slot in range(NUM_SLOTS):
            row, threshold = f"{layer.path}router.weight", f"{layer.path}router.threshold"
            if slot in new:
                torch.testing.assert_close(state[row][slot], alone / alone.norm())
                assert state[threshold][slot] == 0
            else:
                assert torch.equal(state[row][slot], before[row][slot])
                assert torch.equal(state[threshold][slot], before[threshold][slot])
            for name in layer.pools:
                is_fresh = new_expert == "fresh" and slot in new
                assert is_fresh or torch.equal(state[name][slot], before[name][slot])
                assert bool((optimizer.powers[name][slot] == 1).all()) == is_fresh
                assert not (is_fresh and optimizer.mean[name][slot].any())
                assert not (is_fresh and optimizer.square[name][slot].any())
            if new_expert == "fresh" and slot in new:
                fresh = state[layer.pools[0]][slot]
                assert not torch.equal(fresh, before[layer.pools[0]][slot])
                assert abs(fresh.std() * fresh.shape[0] ** 0.5 - 1) < 0.3
    assert opened > 0


def test_fresh_experts_differ_by_slot_and_step_and_not_by_company() -> None:
    drawn = []
    for pack in ([PACK[5]], [PACK[0], PACK[5]]):
        record = Record(pack)
        position, layer = len(pack) - 1, record.cohort.layers[0]
        own = []
        for slot, step in ((0, 1), (1, 1), (0, 2)):
            with torch.no_grad():
                record.population.adaptation._draw_expert(layer, position, slot, step)
            own.append(rows_of(record, layer.pools[0], position)[slot])
        assert not torch.equal(own[0], own[1])
        assert not torch.equal(own[0], own[2])
        drawn.append(own)
    assert all(torch.equal(one, other) for one, other in zip(*drawn, strict=True))
