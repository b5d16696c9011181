"""Stored candidates: where they stand, what was decided of them, and who is on the front."""

from dataclasses import dataclass, field
from typing import Any, Literal

from dynamoe_search.records.designs import Candidate
from dynamoe_search.records.measurements import LayerRouting, Outcome

Status = Literal["running", "paused", "complete", "failed", "stopped"]
"""Where a candidate stands. A paused one waits at a rung; a stopped one was pruned there for good."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateRecord:
    """A stored candidate with everything that is known of it."""

    trial: int  # Optuna's trial number
    ordinal: int
    cohort: int
    candidate: Candidate
    params: dict[str, Any]
    status: Status
    created_at: str  # UTC, ISO 8601
    epochs: int = 0  # trained, and kept in a checkpoint or in the outcome
    checkpoint: str | None = None  # checksum of the checkpoint of a paused candidate
    reason: str | None = None
    message: str | None = None
    outcome: Outcome | None = None
    values: dict[str, float] | None = None  # objective name -> value
    violations: tuple[float, ...] = ()  # of the constraints; above 0 is not feasible
    feasible: bool = True
    sampler_state: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    finished_at: str | None = None

    @property
    def experts_per_layer(self) -> tuple[int, ...]:
        """Open experts when the training ended; those at its start if it has not."""
        return _experts_at_end(self.candidate, self.outcome.routing if self.outcome else ())

    @property
    def weights(self) -> str | None:
        """Checksum of the file of its weights; None if there are none, or an older program wrote them."""
        return self.outcome.weights if self.outcome else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where a candidate stands: what is needed to plan, and quick to read of many."""

    trial: int
    ordinal: int
    cohort: int
    status: Status
    epochs: int  # trained, and kept in a checkpoint or in the outcome
    checkpoint: str | None
    pack_key: str
    reference: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Stood:
    """A candidate that reached the end of a leg before the end of its training."""

    trial: int
    epochs: int
    checkpoint: str  # checksum


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A candidate whose training is over, with its objectives if it is complete."""

    trial: int
    outcome: Outcome
    values: tuple[float, ...] | None = None
    violations: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RungDecision:
    """What was decided of a candidate at a rung, and why."""

    trial: int
    rung: int  # epochs finished
    action: Literal["go", "pause", "stop"]
    beaten: int  # rivals ahead of it
    rivals: int  # others that reached the rung
    strongest: int | None = None  # trial of the rival ahead of it with the lowest error
    reason: str | None = None  # why it does not go on


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontMember:
    """A candidate that no other complete and feasible candidate of the study dominates."""

    trial: int
    ordinal: int
    candidate: Candidate
    values: dict[str, float]  # objective name -> value
    metrics: dict[str, float]
    params: dict[str, Any]
    routing: tuple[LayerRouting, ...] = ()

    @property
    def experts_per_layer(self) -> tuple[int, ...]:
        """Open experts when the training ended."""
        return _experts_at_end(self.candidate, self.routing)


def _experts_at_end(candidate: Candidate, routing: tuple[LayerRouting, ...]) -> tuple[int, ...]:
    return tuple(layer.num_experts for layer in routing) or candidate.experts_per_layer
