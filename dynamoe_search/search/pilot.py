"""How long a study will take, found out by training its first cohort for a few steps."""

import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import torch

from dynamoe_search.data import DataInfo, SearchData, TextData, load_data
from dynamoe_search.records import Candidate, Progress
from dynamoe_search.search.expert_backends import choose_backend
from dynamoe_search.search.machine import default_threads, measured_objectives, resolve_device
from dynamoe_search.search.sampling import Proposer
from dynamoe_search.search.space import Space
from dynamoe_search.training import TrainSettings, train_leg
from dynamoe_search.training.parts import is_worth, most_parts

_STEPS = 6
_LONG_STEP = 3e10
"""Floating-point operations of a step that takes a second or more of a CPU, beside which its warming up is nothing."""


def pilot_steps(flops: float, device: str) -> int:
    """Returns the training steps per epoch of the pilot, which has two epochs, the first to warm up.

    Args:
        flops: Floating-point operations of one step of a cohort, at most.
        device: Where to measure.
    """
    return 1 if flops > _LONG_STEP and resolve_device(device) == "cpu" else _STEPS


def measured_seconds(
    space: Space,
    info: DataInfo,
    trials: int,
    num_steps: int,
    *,
    device: str = "auto",
    trust_code: bool = False,
) -> float:
    """Returns the time that a study will take on this machine, proposing and storing left out.

    Set-up, training steps and evaluation are timed apart, in this process alone; each counts as often as the study does
    it. What the study trains in parts side by side takes so much less time.

    Args:
        space: The study's designs.
        info: The study's data.
        trials: How many candidates there will be.
        num_steps: Training steps per epoch of the pilot.
        device: Where to measure.
        trust_code: Whether a backbone named as `package.module:Class` may be imported.

    Raises:
        DataError: The data cannot be read.
    """
    spec, resolved = space.spec, resolve_device(device)
    choice = choose_backend(space, info, device=resolved, num_threads=default_threads())
    settings = TrainSettings(
        num_slots=space.num_slots,
        device=resolved,
        expert_backend=choice.backend,
        measure=measured_objectives(spec),
        trust_code=trust_code,
    )
    section = spec.data.model_copy(
        update={"max_train": min(info.num_train, num_steps * spec.train.batch_size)}
    )
    data = load_data(section)
    share = 1.0
    if isinstance(data, TextData):  # a large vocabulary makes a whole evaluation last minutes
        data, share = _shortened(data, num_steps * spec.train.batch_size)
    steps = -(-info.per_epoch // spec.train.batch_size)
    cohort = _first_cohort(space, min(spec.search.cohort_size, trials))
    seconds = 0.0
    for pack in _packs(cohort):
        clock = _timed(pack, data, settings)
        own = clock.set_up + spec.train.epochs * (steps * clock.step + clock.evaluation / share)
        seconds += own / (most_parts(pack, data, settings) if is_worth(own) else 1)
    return seconds * trials / len(cohort)


def _shortened(data: TextData, most: int) -> tuple[TextData, float]:
    """Returns the data with at most so many sequences to evaluate, and which share that is."""
    tokens = data.validation.tokens
    kept = replace(data.validation, tokens=tokens[:most])
    return replace(data, validation=kept), len(kept.tokens) / len(tokens)


def _first_cohort(space: Space, size: int) -> list[Candidate]:
    proposer = Proposer(space)
    proposals = [proposal for _ in range(size) if (proposal := proposer.propose()) is not None]
    return [
        replace(one.candidate, train=replace(one.candidate.train, epochs=2)) for one in proposals
    ]


def _packs(cohort: Sequence[Candidate]) -> list[list[Candidate]]:
    packs: dict[str, list[Candidate]] = {}
    for candidate in cohort:
        packs.setdefault(candidate.pack_key, []).append(candidate)
    return list(packs.values())


def _timed(pack: Sequence[Candidate], data: SearchData, settings: TrainSettings) -> "_Clock":
    clock = _Clock(settings.device)
    train_leg(
        pack,
        data,
        settings,
        until=pack[0].train.epochs,
        on_progress=clock.on_progress,
        should_stop=clock.on_step,
        num_parts=1,
    )
    clock.on_end()
    return clock


class _Clock:
    """Divides the time of a pack's training by what the trainer was doing.

    Attributes:
        step: Median seconds of a training step of the pack, the first ones left out.
        evaluation: Seconds of the evaluation after an epoch, the first one left out.
        set_up: Seconds from the call to the first step and from the last evaluation to the end.
    """

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._steps: list[float] = []
        self._epoch = 0
        self._last = time.perf_counter()
        self._has_begun = False
        self.evaluation = self.set_up = 0.0

    @property
    def step(self) -> float:
        return median(self._steps) if self._steps else 0.0

    def on_step(self) -> bool:
        """Told after every training step; never stops."""
        seconds = self._lap()
        if self._epoch > 0:
            self._steps.append(seconds)
        elif not self._has_begun:
            self._has_begun = True
            self.set_up += seconds
        return False

    def on_progress(self, _: Sequence[Progress]) -> None:
        """Told after every evaluation."""
        self.evaluation = self._lap()
        self._epoch += 1

    def on_end(self) -> None:
        """Told when the pack is finished."""
        self.set_up += self._lap()

    def _lap(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        before, self._last = self._last, time.perf_counter()
        return self._last - before
