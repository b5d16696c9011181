"""Stored studies: how they were set up, where they stand, and what they have used."""

from dataclasses import dataclass, field
from typing import Literal

Purpose = Literal["search", "confirm", "audit"]
"""What a study is for; all but `search` are designed: every candidate is given before the first is trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySettings:
    """What could change a number and is therefore chosen once, when the study is created."""

    device: str
    num_slots: int  # expert slots of the widest layer of the space; all packs pad to it
    expert_backend: str
    num_threads: int
    cohort_size: int  # candidates proposed at a time
    reference_point: tuple[float, ...] = ()  # of the hypervolume, one value per objective
    versions: dict[str, str] = field(default_factory=dict)  # of the libraries that computed
    data_hash: str = ""  # of the training and the validation part; empty if unknown
    backend_basis: str = ""  # why this expert backend, in words; empty if the study file names it

    @property
    def backend_words(self) -> str:
        """The expert backend and why it was chosen, for people."""
        return (
            f"{self.expert_backend} ({self.backend_basis})"
            if self.backend_basis
            else self.expert_backend
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRecord:
    """A stored study.

    `state` is what is true now: `created` (never ran), `running` (a live process works on it), `interrupted`,
    `finished`, or `deleting` (a deletion that did not end; delete it again).
    """

    name: str
    spec_json: str  # the study file as run, for StudySpec.model_validate_json
    source: str  # file or preset that it came from
    settings: StudySettings
    objectives: tuple[str, ...]
    maximise: tuple[bool, ...]  # one per objective
    state: Literal["created", "running", "interrupted", "finished", "deleting"]
    trials: int  # how many candidates are asked for
    created_at: str  # UTC, ISO 8601
    updated_at: str
    max_epochs: int | None = None  # training budget in candidate-epochs; None is no limit
    max_seconds: float | None = None  # time budget of all workers together; None is no limit
    seconds_spent: float = 0.0  # by all workers, earlier runs included
    max_pack: int | None = None  # most candidates that fit into memory together, once that is known
    exhausted_at: int | None = None  # proposals that there were when the space gave out
    parent: str | None = None  # the study whose designs a designed study trains
    purpose: Purpose = "search"
    plan_json: str | None = None  # what a designed study was asked for
    is_stop_requested: bool = False  # by somebody, of workers that have not left yet
    host: str | None = None  # of the live worker that came last
    pid: int | None = None
    heartbeat_at: str | None = None
    num_complete: int = 0
    num_failed: int = 0
    num_stopped: int = 0
    num_running: int = 0  # candidates in training, or about to be
    num_paused: int = 0  # candidates that stand at a rung
    num_front: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What a study has used so far; a candidate that is trained again counts once."""

    epochs: int  # candidate-epochs
    seconds: float
    complete: int
    failed: int
    running: int
    stopped: int = 0
    paused: int = 0
