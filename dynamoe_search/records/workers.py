"""Who works on a study, on what, and among which files."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A process that works, or worked, on a study; its lease."""

    id: str
    host: str
    pid: int
    mark: str  # tells the process from a later one with the same number
    started_at: str  # UTC, ISO 8601
    heartbeat_at: str
    beats: int  # rises while it is alive
    is_alive: bool
    seconds: float = 0.0  # wall time that it worked
    versions: dict[str, str] = field(default_factory=dict)  # of the libraries that it computes with


@dataclass(frozen=True, kw_only=True, slots=True)
class Leg:
    """Candidates that one worker trains together from one epoch to another: from one rung to the next."""

    number: int  # counts the legs of a study from 0
    trials: tuple[int, ...]
    start: int  # epochs that all of them have behind them
    end: int  # epochs that those have behind them who reach its end
    pack_key: str
    worker: str | None  # who trains it, or did
    state: Literal["open", "done"] = "open"


@dataclass(frozen=True, kw_only=True, slots=True)
class FilesMark:
    """A small file among those of a study, by which a worker sees that it looks where the others do."""

    PATTERN: ClassVar[str] = "study-*.json"  # of the names of all such files

    id: str
    study: str
    host: str  # who wrote it
    place: str  # folder or URL that it was written to; no password
    made_at: str  # UTC, ISO 8601

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"study-{self.id}.json"
