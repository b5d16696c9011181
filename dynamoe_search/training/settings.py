"""What the trainer is told besides candidates and data, what it returns, and how it is interrupted."""

from dataclasses import dataclass

from torch import Tensor

from dynamoe_search.errors import DynamoeError
from dynamoe_search.records import Outcome


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
    """The end of one candidate's training; `state` is the `state_dict` of its plain module, on the CPU."""

    outcome: Outcome
    state: dict[str, Tensor] | None = None


class Interrupted(DynamoeError):  # noqa: N818 - not an error of the training
    """Training was asked to stop before its end; nothing of the cohort is finished."""
