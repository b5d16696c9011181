"""What a running study tells whoever watches it: small records, handed to a callable one by one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from dynamoe_search.records import Candidate, CandidateRecord, FrontMember, Progress

EndReason = Literal["trials", "epochs", "exhausted", "timeout", "stop", "interrupt"]
"""Why a run ended: a limit was reached, no new design is left, or somebody asked it to stop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySummary:
    """Where a study stands when a run of it ends.

    Attributes:
        name: Name of the study.
        state: `finished`, or `interrupted` if `resume` has something left to do.
        reason: Why the run ended: a limit (`trials`, `epochs`, `timeout`), no new design
            (`exhausted`), the `stop` command, or `should_stop` (`interrupt`).
        trials: How many candidates the study asks for.
        complete: Candidates that were trained to their end.
        failed: Candidates that failed.
        pruned: Candidates that were stopped before their last epoch.
        running: Candidates that were proposed and have no outcome yet.
        epochs: Candidate-epochs of all outcomes.
        seconds: Wall time of this run.
        front: Members of the Pareto front, smallest first.
        hypervolume: Share of the box between the ideal and the reference point that the front
            dominates.
    """

    name: str
    state: Literal["finished", "interrupted"]
    reason: EndReason
    trials: int
    complete: int
    failed: int
    pruned: int
    running: int
    epochs: int
    seconds: float
    front: tuple[FrontMember, ...]
    hypervolume: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyStarted:
    """A run begins or goes on."""

    name: str
    trials: int  # asked for
    num_finished: int  # of them, from earlier runs
    num_running: int  # proposed by an earlier run, to be trained again
    epochs_per_candidate: int
    device: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CohortStarted:
    """A cohort is about to be trained."""

    cohort: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochFinished:
    """Every live candidate of a pack has finished an epoch."""

    reports: tuple[Progress, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateFinished:
    """A candidate is complete, failed or pruned, and stored."""

    record: CandidateRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontChanged:
    """The Pareto front has other members than before."""

    members: tuple[FrontMember, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyEnded:
    """The run is over; everything is stored."""

    summary: StudySummary


Event: TypeAlias = (
    StudyStarted | CohortStarted | EpochFinished | CandidateFinished | FrontChanged | StudyEnded
)
OnEvent: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Watches nothing."""


def never() -> bool:
    """Never asks to stop."""
    return False
