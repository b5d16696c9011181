"""How many candidates should be trained together on this machine? Packs of several sizes, timed step by step."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch

from dynamoe_search.data import SearchData, describe, load_data
from dynamoe_search.errors import UsageError
from dynamoe_search.records import Candidate
from dynamoe_search.search.expert_backends import choose_backend
from dynamoe_search.search.machine import default_threads, resolve_device
from dynamoe_search.search.sampling import Proposer
from dynamoe_search.search.space import Space
from dynamoe_search.specs import StudySpec
from dynamoe_search.training import TrainSettings
from dynamoe_search.training.failures import is_out_of_memory
from dynamoe_search.training.trial_runs import TrialRun

_STEPS = 4  # in an epoch of the measurement
_FEWEST = 3  # epochs, however long they take
_NEARLY = 0.95  # of the best rate: a smaller pack learns earlier from its results


@dataclass(frozen=True, kw_only=True, slots=True)
class PackSpeed:
    """What a pack of one size comes to.

    Attributes:
        size: Candidates trained together.
        step_seconds: Median time of a training step of the whole pack; None if memory was short.
        rate: Candidate-steps per second.
        ratio: The rate against that of the smallest size.
    """

    size: int
    step_seconds: float | None
    rate: float
    ratio: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """What was measured, and which `search.cohort_size` follows from it."""

    device: str
    threads: int
    backend: str
    packs: tuple[PackSpeed, ...]
    best: int


def measure_speed(
    spec: StudySpec,
    sizes: Sequence[int],
    *,
    device: str = "auto",
    seconds: float = 30.0,
    trust_code: bool = False,
) -> Speed:
    """Times training steps of packs of these sizes, one size after the other.

    Args:
        spec: The study whose designs are trained: the first that it would propose, as many as are wanted.
        sizes: Pack sizes, at least one.
        device: Where to measure.
        seconds: For all sizes together, set-up left out.
        trust_code: Whether a backbone named as `package.module:Class` may be imported.

    Raises:
        DataError: The data cannot be read.
        UsageError: Not even the smallest pack fits into memory.
    """
    sizes = sorted(set(sizes))
    section = spec.data.model_copy(update={"max_train": _STEPS * spec.train.batch_size})
    space, data, resolved = Space(spec), load_data(section), resolve_device(device)
    choice = choose_backend(
        space, describe(spec.data), device=resolved, num_threads=default_threads()
    )
    settings = TrainSettings(
        num_slots=space.num_slots,
        device=resolved,
        expert_backend=choice.backend,
        trust_code=trust_code,
    )
    pack = _pack(space, sizes[-1])
    times: list[float | None] = []
    for size in sizes:
        is_hopeless = bool(times) and times[-1] is None
        own = None if is_hopeless else _timed(pack[:size], data, settings, seconds / len(sizes))
        times.append(own)
    if times[0] is None:
        raise UsageError(f"a pack of {sizes[0]} does not fit into the memory of {settings.device}")
    alone = sizes[0] / times[0]
    rates = [0.0 if own is None else size / own for size, own in zip(sizes, times, strict=True)]
    return Speed(
        device=settings.device,
        threads=torch.get_num_threads(),
        backend=settings.expert_backend,
        packs=tuple(
            PackSpeed(size=size, step_seconds=own, rate=rate, ratio=rate / alone)
            for size, own, rate in zip(sizes, times, rates, strict=True)
        ),
        best=next(
            size for size, rate in zip(sizes, rates, strict=True) if rate >= _NEARLY * max(rates)
        ),
    )


def _pack(space: Space, size: int) -> list[Candidate]:
    """Designs of the space that may share a pack; repeated with other seeds if there are too few."""
    proposer = Proposer(space)
    proposals = [found for _ in range(min(size, 16)) if (found := proposer.propose()) is not None]
    designs = [one.candidate for one in proposals]
    key, _ = Counter(one.pack_key for one in designs).most_common(1)[0]
    own = [one for one in designs if one.pack_key == key]
    return [
        replace(
            own[number % len(own)],
            ordinal=number,
            train=replace(own[number % len(own)].train, epochs=10_000),
        )
        for number in range(size)
    ]


def _timed(
    pack: Sequence[Candidate], data: SearchData, settings: TrainSettings, seconds: float
) -> float | None:
    """Returns the median time of a step, None if memory does not suffice; the first epoch warms up."""
    try:
        run = TrialRun(pack, data, settings)
        laps: list[float] = []
        end = time.perf_counter() + seconds
        while len(laps) <= _FEWEST or time.perf_counter() < end:
            begin = time.perf_counter()
            run.train_epoch()
            laps.append((time.perf_counter() - begin) / run.population.num_steps)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    return median(laps[1:])
