"""Recorded steps, with a recorder for the CPU that knows addresses only, as a CUDA graph does."""

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from dynamoe_search.moe.asynchrony import running_ahead
from dynamoe_search.records import Candidate
from dynamoe_search.training.graphs import Graph, Result, record_on_cuda
from dynamoe_search.training.population import Population
from tests.training.populations import SETTINGS, candidate, digits, mixed_pack
from tests.training.recorded import Recorded

Record = Callable[[Callable[[], None]], Graph]


@pytest.fixture(autouse=True)
def ahead() -> Iterator[None]:
    with running_ahead():
        yield


def small_batches(pack: list[Candidate]) -> list[Candidate]:
    return [replace(one, train=replace(one.train, batch_size=16, epochs=4)) for one in pack]


def trained(
    pack: list[Candidate], record: Record | None, keep: list[int] | None = None
) -> Population:
    population = Population(pack, digits(100), SETTINGS)
    population._steps.record = record
    population.train_epoch()
    if keep is not None:
        population.keep(keep)
        population._steps.record = record
    population.train_epoch()
    return population


def assert_same(one: Population, other: Population) -> None:
    for mine, theirs in zip(one.states(), other.states(), strict=True):
        assert mine.tensors.keys() == theirs.tensors.keys()
        for name, tensor in mine.tensors.items():
            assert torch.equal(tensor, theirs.tensors[name]), name
        assert mine.events == theirs.events


@pytest.mark.parametrize("keep", [None, [0, 3, 12, 13]])
def test_recorded_steps_are_the_steps(keep: list[int] | None) -> None:
    pack = small_batches(mixed_pack())
    plain = trained(pack, None, keep)
    recorded = trained(pack, Recorded, keep)
    assert recorded._steps.refusal is None
    assert recorded._steps.num_replays >= 3
    assert_same(plain, recorded)


def test_a_graph_is_recorded_anew_when_the_room_changes() -> None:
    pack = small_batches([candidate(i, "top-p", (6, 6), p=0.05, dropout=0.1) for i in range(8)])
    plain, recorded = trained(pack, None), trained(pack, Recorded)
    assert recorded._rooms.version > 0
    assert recorded._steps.num_replays > 0
    assert_same(plain, recorded)


class Broken:
    """A graph that forgets what it should do."""

    def __init__(self, run: Callable[[], None]) -> None:
        run()

    def replay(self) -> None:
        pass


def refuses(_: Callable[[], None]) -> Graph:
    raise RuntimeError("operation not permitted when stream is capturing\nand more")


@pytest.mark.parametrize(
    ("record", "reason"), [(Broken, "other numbers"), (refuses, "not permitted")]
)
def test_what_cannot_be_recorded_is_done_without_and_said_once(
    record: Record, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    pack = small_batches([candidate(i, "top-any") for i in range(2)])
    plain = trained(pack, None)
    with caplog.at_level(logging.WARNING):
        recorded = trained(pack, record)
    assert len([one for one in caplog.messages if reason in one]) == 1
    assert reason in (recorded._steps.refusal or "")
    assert_same(plain, recorded)


class Activations:
    """What a pass keeps in memory until it is over."""

    num = 0

    def __init__(self) -> None:
        Activations.num += 1

    def __del__(self) -> None:
        Activations.num -= 1


class Greedy(Recorded):
    """A graph beside which there is no memory for a usual step."""

    num = 0

    def __init__(self, run: Callable[[], None]) -> None:
        super().__init__(run)
        Greedy.num += 1

    def __del__(self) -> None:
        Greedy.num -= 1


def test_a_graph_that_takes_the_memory_of_usual_steps_is_given_up() -> None:
    pack = small_batches([candidate(i, "top-any", dropout=0.1) for i in range(2)])
    plain, recorded = trained(pack, None), Population(pack, digits(100), SETTINGS)
    steps, step = recorded._steps, recorded._steps._step

    def needs_memory(x: Tensor, y: Tensor, factors: Tensor) -> Result:
        held, passes = Activations(), Activations.num
        # it runs out at its end: all that it changes has changed
        task, chosen = step(x, y, factors)
        if Greedy.num or passes > 1:
            raise torch.OutOfMemoryError
        del held
        return task, chosen

    steps.record, steps._step = Greedy, needs_memory
    recorded.train_epoch()
    recorded.train_epoch()
    assert "no memory" in (steps.refusal or "")
    assert Greedy.num == 0
    assert_same(plain, recorded)


def test_the_cpu_records_nothing() -> None:
    population = Population(small_batches([candidate(0)]), digits(100), SETTINGS)
    assert population._steps.record is None


@dataclass(frozen=True)
class Stream:
    """Work of a device that is not there."""

    number: int
    device: int = 0


class PretendedGraph:
    """What torch calls to record on a device; a recording begins or ends with an error."""

    fails_at = "end"

    def _act(self, when: str) -> None:
        if when == self.fails_at:
            raise RuntimeError(f"the recording cannot {when}")

    def capture_begin(self, *_: object, **__: object) -> None:
        self._act("begin")

    def capture_end(self) -> None:
        self._act("end")


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> list[Stream]:
    """The current stream of a pretended device, as the last one of a list; torch's own contexts set it."""
    streams, numbers = [Stream(0)], itertools.count(1)

    def nothing(*_: object) -> None:
        pass

    for name, value in {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "current_stream": lambda _=None: streams[-1],
        "set_stream": streams.append,
        "Stream": lambda: Stream(next(numbers)),
        "CUDAGraph": PretendedGraph,
        "graph_pool_handle": lambda: (0, 1),
        "synchronize": nothing,
        "empty_cache": nothing,
        "memory._cuda_endAllocateToPool": nothing,
        "memory._cuda_releasePool": nothing,
    }.items():
        monkeypatch.setattr(f"torch.cuda.{name}", value)
    monkeypatch.setattr("torch._C._host_emptyCache", nothing, raising=False)
    monkeypatch.setattr("torch.cuda.graph.default_capture_stream", None)
    return streams


@pytest.mark.parametrize("when", ["begin", "end"])
def test_a_recording_that_fails_twice_leaves_its_stream(
    when: str, current: list[Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one is to end what the first left open."""
    monkeypatch.setattr(PretendedGraph, "fails_at", when)
    with pytest.raises(RuntimeError, match=f"the recording cannot {when}"):
        record_on_cuda(lambda: None)
    assert {one.number for one in current} == {0, 1, 2}  # each recording had a stream of its own
    assert current[-1] == Stream(0)
