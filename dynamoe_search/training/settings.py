"""What the trainer is told besides candidates and data, what it returns, and how it is interrupted."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from dynamoe_search.errors import DynamoeError
from dynamoe_search.records import Outcome, Progress

if TYPE_CHECKING:
    from dynamoe_search.training.states import CandidateState

Events = tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """Choices that hold for a whole study; each of them could change the last bit of a number.

    Attributes:
        num_slots: Widest layer of the whole study; every pack pads its expert axes to it.
        device: `cpu`, `cuda`, `cuda:1`.
        expert_backend: `grouped` or `dense`, see `moe.experts`.
        num_threads: CPU threads of torch; none leaves the process as it is.
        measure: Objectives that cost extra time: `latency_ms`, `peak_memory_mb`.
        trust_code: Whether a backbone named as `package.module:Class` may be imported.
    """

    num_slots: int
    device: str = "cpu"
    expert_backend: str = "grouped"
    num_threads: int | None = None
    measure: frozenset[str] = frozenset()
    trust_code: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """Where a leg has brought a candidate.

    Attributes:
        outcome: The end of its training; none if it stands at the leg's end and could go on.
        state: The `state_dict` of its plain module, on the CPU, if its training is complete.
        standing: What it needs to go on, if it stands.
        reports: Of the epochs of this leg.
    """

    outcome: Outcome | None = None
    state: dict[str, Tensor] | None = None
    standing: "CandidateState | None" = None
    reports: tuple[Progress, ...] = ()

    @property
    def ordinal(self) -> int:
        """The candidate's ordinal."""
        if self.outcome is not None:
            return self.outcome.ordinal
        assert self.standing is not None
        return self.standing.ordinal


class Interrupted(DynamoeError):  # noqa: N818 - not an error of the training
    """Training was asked to stop before its end; what was done is in the checkpoints, if there are any."""


class DamagedError(DynamoeError, ValueError):
    """A candidate's checkpoint that is missing, damaged, or of other circumstances.

    Attributes:
        ordinal: The candidate.
    """

    def __init__(self, message: str, *, ordinal: int) -> None:
        super().__init__(message)
        self.ordinal = ordinal
