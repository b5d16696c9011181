"""What a training step is told besides its batch, ready on the device before the step asks for it."""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from dynamoe_search.moe.asynchrony import runs_ahead, sent
from dynamoe_search.moe.randomness import hashed
from dynamoe_search.records import TrainConfig
from dynamoe_search.training.cohort import Cohort
from dynamoe_search.training.optimizers import schedule_factor

_AHEAD = 256  # steps whose rates are sent to the device at a time


class Rates:
    """Shares of the peak learning rates, for many steps at a time.

    Args:
        members: How each member of the cohort is trained.
        num_steps: Steps per epoch.
        device: Where the shares are wanted.
    """

    def __init__(
        self, members: Sequence[TrainConfig], num_steps: int, device: torch.device
    ) -> None:
        self._members, self._num_steps, self._device = list(members), num_steps, device
        self._begin = 0
        self._table = torch.empty(0, len(members))

    def at(self, step: int) -> Tensor:
        """Returns the shares (members,) in force at a step, counted from 0."""
        if not self._begin <= step < self._begin + len(self._table):
            steps = range(step, step + _AHEAD)
            columns: dict[Hashable, list[float]] = {}
            for train in self._members:
                if (key := _schedule(train)) not in columns:
                    columns[key] = self._column(train, steps)
            rows = torch.tensor([columns[_schedule(train)] for train in self._members])
            self._begin, self._table = step, sent(rows.t().contiguous(), self._device)
        return self._table[step - self._begin]

    def _column(self, train: TrainConfig, steps: range) -> list[float]:
        total = self._num_steps * train.epochs
        return [
            schedule_factor(
                min(step, total - 1),
                total,
                warmup_fraction=train.warmup_fraction,
                decay=train.decay,
                final_fraction=train.final_lr_fraction,
            )
            for step in steps
        ]


def _schedule(train: TrainConfig) -> Hashable:
    return (train.epochs, train.warmup_fraction, train.decay, train.final_lr_fraction)


class Streams:
    """Seeds of the random modules of a cohort, for every step anew.

    Args:
        cohort: Its buffers are set.
        seed: Returns the seed of a position's module at a step.
    """

    def __init__(self, cohort: Cohort, seed: Callable[[int, str, int], int]) -> None:
        self._cohort, self._seed = cohort, seed
        self._names: list[str] = []
        self._sizes: list[int] = []
        self._first = self._now = torch.empty(0, dtype=torch.int64)

    def set(self, step: int) -> None:
        """Gives every random module of every member its seed of this step."""
        cohort = self._cohort
        if runs_ahead(cohort.device):
            self._set_ahead(step)
        else:
            for name in cohort.streams:
                cohort.buffers[name] = torch.tensor(self._seeds(name, step))
        if cohort.mode == "loop":
            cohort.loop_seeds = [
                self._seed(position, "module", step) for position in range(cohort.num_candidates)
            ]

    def _seeds(self, name: str, step: int) -> list[int]:
        purpose = self._cohort.single_name(name)
        owners = self._cohort.owner[name].tolist()
        return [self._seed(position, purpose, step) for position in owners]

    def _set_ahead(self, step: int) -> None:
        """Makes the seeds on the device, from those of the step 0 that are sent there once."""
        cohort = self._cohort
        names = cohort.streams
        if names != self._names:
            seeds = [self._seeds(name, 0) for name in names]
            self._names, self._sizes = names, [len(own) for own in seeds]
            whole = torch.tensor([seed for own in seeds for seed in own], dtype=torch.int64)
            self._first = sent(whole, cohort.device)
            self._now = torch.empty_like(self._first)  # a recorded step looks for them there
        if names:
            self._now.copy_(hashed(self._first, step))
            parts = torch.split(self._now, self._sizes)
            cohort.buffers.update(zip(names, parts, strict=True))
