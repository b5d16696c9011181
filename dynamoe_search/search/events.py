"""What a running study tells whoever watches it: small records, handed to a callable one by one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from dynamoe_search.records import Candidate, CandidateRecord, FrontMember, Leg, Progress, Stood

EndReason = Literal["trials", "epochs", "exhausted", "timeout", "time-budget", "stop", "interrupt"]
"""Why a run ended: a limit was reached, no new design is left, or somebody asked it to stop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySummary:
    """Where a study stands when a run of it ends.

    Attributes:
        name: Name of the study.
        state: `finished`, or `interrupted` if `resume` has something left to do.
        reason: Why the run ended: a limit (`trials`, `epochs`, `timeout`, `time-budget`), no new design
            (`exhausted`), the `stop` command, or `should_stop` (`interrupt`).
        trials: How many candidates the study asks for.
        complete: Candidates that were trained to their end.
        failed: Candidates that failed.
        pruned: Candidates that were stopped before their last epoch.
        paused: Candidates that stand at a rung and may go on.
        running: Candidates that were proposed and are in training, or about to be.
        epochs: Candidate-epochs that are trained and kept.
        seconds: Wall time of this run.
        times: Seconds of this run by what they went into, see `search.stopwatch`; of several processes together.
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
    paused: int
    running: int
    epochs: int
    seconds: float
    front: tuple[FrontMember, ...]
    hypervolume: float
    times: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyStarted:
    """A run begins or goes on."""

    name: str
    trials: int  # asked for
    num_finished: int  # of them, from earlier runs
    num_running: int  # proposed by an earlier run, or in training elsewhere
    num_paused: int  # stand at a rung
    epochs: int  # candidate-epochs that are trained and kept
    epochs_per_candidate: int
    max_epochs: int | None  # budget in candidate-epochs
    is_pruned: bool  # whether there are rungs
    device: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LegStarted:
    """Candidates are about to be trained together, to the next rung or to their end."""

    leg: Leg
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochFinished:
    """Candidates of a leg have finished an epoch, or a checkpoint has it."""

    reports: tuple[Progress, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LegFinished:
    """What came out of a leg is stored."""

    leg: Leg
    stood: tuple[Stood, ...]  # those whose training is not over


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
    StudyStarted
    | LegStarted
    | EpochFinished
    | LegFinished
    | CandidateFinished
    | FrontChanged
    | StudyEnded
)
OnEvent: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Watches nothing."""


def never() -> bool:
    """Never asks to stop."""
    return False
