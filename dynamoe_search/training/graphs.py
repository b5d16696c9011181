"""Training steps recorded once and replayed as a whole: CUDA graphs, where launching operations takes the time.

A step of a small pack is some thousand small operations, and the host needs longer to launch them than the device to
compute them. A graph launches them all at once. It knows nothing but addresses, so what a step reads is copied to where
the recorded step found it, and all that a step changes is changed in place (`Cohort.apply_state`, the optimiser,
`Adaptation`). A graph is recorded after a few steps of the same shapes, and again when they change.

No graph is trusted: its first replay is compared with the step as it is usually made, from the same state, and the
training goes on from the latter. A graph that cannot be recorded, or that comes to something else, is done without, and
the log says why, once.
"""

import logging
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from dynamoe_search.moe.routing import Chosen
from dynamoe_search.training.states import TrainingCopy, training_tensors

if TYPE_CHECKING:
    from dynamoe_search.training.population import Population

logger = logging.getLogger(__name__)

_WARM = 3  # steps of the same shapes before one is recorded
_LAUNCHING = (
    0.7  # of a step's time on the device, if the host needs so much of it to launch the step
)
_NEAR = 0.02  # of a tensor's norm, by which a replay may differ: sums on a GPU have no fixed order

Result = tuple[Tensor, list[Chosen]]
Step = Callable[[Tensor, Tensor, Tensor], Result]


class Graph(Protocol):
    """A recorded step."""

    def replay(self) -> object:
        """Makes it again."""


def record_on_cuda(run: Callable[[], None]) -> Graph:
    """Returns what `run` launches on the current device as a CUDA graph; nothing is computed yet.

    Each has a stream of its own: graphs that were recorded on the same one share a workspace of cuBLAS, which goes with
    the first of them (pytorch issue 193402).

    A recording that fails leaves things open in torch (read in 2.11 and 2.13), which are closed here: its own stream
    stays the current one, as long as the allocator believes in it, memory that runs out is not gathered, and torch's
    own generator refuses to draw until another recording ends well.
    """
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    try:
        with torch.cuda.stream(here), torch.cuda.graph(graph, pool=pool, stream=aside):
            run()
    except BaseException:
        _close(pool)
        raise
    return graph


def _close(pool: Any) -> None:
    """Ends a recording in the eyes of torch's allocator, if it has not ended, and of its generator."""
    allocator: Any = torch.cuda.memory  # no public function does this
    device = torch.cuda.current_device()
    with suppress(RuntimeError):  # it has ended
        allocator._cuda_endAllocateToPool(device, pool)
        allocator._cuda_releasePool(device, pool)
    here = torch.cuda.current_stream()  # which a recording that fails again would not give back
    with (
        suppress(RuntimeError),
        torch.cuda.stream(here),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        torch.zeros(1, device=device)


class Steps:
    """The training steps of a population, recorded where that helps.

    Attributes:
        record: Makes a graph of a step; none to make every step as usual, as on the CPU.
        refusal: Why there are no graphs, once that is known.
        num_replays: Steps that were replayed.

    Args:
        population: In training.
        step: Makes one step from examples, labels and the members' shares of their learning rates.
    """

    def __init__(self, population: "Population", step: Step) -> None:
        self._population, self._step = population, step
        can_record = population.device.type == "cuda" and population.cohort.mode == "vmap"
        self.record: Callable[[Callable[[], None]], Graph] | None = None
        if can_record:
            self.record = record_on_cuda
        self.refusal: str | None = None
        self.num_replays = 0
        self._key: Hashable = None
        self._seen = 0
        self._graph: Graph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._result: Result | None = None
        self._clock = _Clock(population.device)

    def __call__(self, x: Tensor, y: Tensor, factors: Tensor, version: int) -> Result:
        """Makes one step.

        Args:
            x: (batch, ...) examples.
            y: (batch, ...) labels.
            factors: (members,) shares of the peak learning rates.
            version: Changes with any shape within the step that those of the inputs do not show.

        Returns:
            The task losses (members,) and what the layers chose, which the next step may overwrite.
        """
        if self.record is None or self.refusal is not None:
            return self._step(x, y, factors)
        key = (x.shape, y.shape, version)
        if self._graph is not None and key == self._key:
            return self._replay(x, y, factors)
        if self._graph is not None and version == self._key[2]:  # type: ignore[index]
            return self._step(x, y, factors)  # the last batch of an epoch is smaller
        self._seen = self._seen + 1 if key == self._key else 1
        self._key, self._graph, self._result = key, None, None
        if self._seen <= _WARM:
            with self._clock:
                return self._step(x, y, factors)
        if not self._clock.is_launching():
            return self._step(x, y, factors)
        return self._recorded(x, y, factors)

    def _replay(self, x: Tensor, y: Tensor, factors: Tensor) -> Result:
        assert self._graph is not None
        assert self._result is not None
        for place, value in zip(self._inputs, (x, y, factors), strict=True):
            place.copy_(value)
        self._graph.replay()
        self.num_replays += 1
        task, chosen = self._result
        return task.clone(), chosen

    def _recorded(self, x: Tensor, y: Tensor, factors: Tensor) -> Result:
        """Records a step, makes it twice from the same state, and keeps the graph if both came to the same."""
        before = self._copy()
        if before is None:
            return self._step(x, y, factors)
        try:
            found = self._first_replay(x, y, factors, before)
        except RuntimeError as error:  # memory, too
            self._refuse(str(error).strip().partition("\n")[0])
            found = ()
        result = self._beside_graph(before, x, y, factors)
        if result is None:
            found = ()
            result = self._from(before, x, y, factors)
        now = (tensor.detach() for tensor in training_tensors(self._population))
        if found and not _are_near(found, (result[0], *now)):
            self._refuse("its first replay came to other numbers")
        return result

    def _copy(self) -> TrainingCopy | None:
        try:
            return TrainingCopy(self._population)
        except torch.OutOfMemoryError:
            self._refuse("there is no memory for a copy to compare it with")
            return None

    def _beside_graph(
        self, before: TrainingCopy, x: Tensor, y: Tensor, factors: Tensor
    ) -> Result | None:
        """Makes a step as usual; None if the graph, which keeps the memory of a step of its own, is given up for it.

        The step is made again by the caller: an error that is being handled keeps all that the step had in memory.
        """
        try:
            return self._from(before, x, y, factors)
        except torch.OutOfMemoryError:
            if self._graph is None:
                raise
            self._refuse("there is no memory for steps beside it")
            return None

    def _from(self, before: TrainingCopy, x: Tensor, y: Tensor, factors: Tensor) -> Result:
        """Makes a step as usual, from where the population stood."""
        before.restore()
        for parameter in self._population.cohort.parameters.values():
            parameter.grad = None
        return self._step(x, y, factors)

    def _first_replay(
        self, x: Tensor, y: Tensor, factors: Tensor, before: TrainingCopy
    ) -> tuple[Tensor, ...]:
        """Records a step and replays it, and returns all that came out."""
        assert self.record is not None
        self._inputs = tuple(own.clone() for own in (x, y, factors))

        def run() -> None:
            self._result = self._step(*self._inputs)

        self._graph = self.record(run)
        before.restore()  # on a GPU nothing has changed
        return self._replay(x, y, factors)[0], *self._state()

    def _state(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in training_tensors(self._population)]

    def _refuse(self, reason: str) -> None:
        self.refusal, self._graph, self._result, self._inputs = reason, None, None, ()
        logger.warning("training steps are not recorded as a CUDA graph: %s", reason)


def _are_near(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    """Tells whether two lists of tensors agree but for rounding; this waits for the device."""
    far = [
        (one.nan_to_num() - other.nan_to_num()).norm() > _NEAR * other.nan_to_num().norm() + 1e-6
        for one, other in zip(found, expected, strict=True)
        if one.is_floating_point()
    ]
    return not bool(torch.stack(far).any())


class _Clock:
    """Whether the host's launching takes most of a step's time, found out without waiting for the device."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._seconds = self._begin = 0.0
        self._events: list[torch.cuda.Event] = []

    def __enter__(self) -> None:
        self._begin = time.perf_counter()
        if self._is_cuda:
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
            self._events[0].record()

    def __exit__(self, *error: object) -> None:
        self._seconds = time.perf_counter() - self._begin
        if self._is_cuda:
            self._events[1].record()

    def is_launching(self) -> bool:
        """Tells whether the last step that was timed was mostly launching; false as long as it is not known."""
        if not self._is_cuda:
            return True
        if not self._events[1].query():  # type: ignore[no-untyped-call]
            return False
        milliseconds: float = self._events[0].elapsed_time(self._events[1])
        return 1000 * self._seconds >= _LAUNCHING * milliseconds
