"""Progress of a running study on stderr: a live display on a terminal, plain lines everywhere else."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dynamoe_search.cli import screens
from dynamoe_search.cli.words import seconds
from dynamoe_search.records import FrontMember
from dynamoe_search.search.events import (
    CandidateFinished,
    CohortStarted,
    EpochFinished,
    Event,
    FrontChanged,
    OnEvent,
    StudyStarted,
    ignore,
)

_LINE_SECONDS = 10.0  # at most one plain line in this time
_MOST_POINTS = 6


@dataclass
class Tally:
    """What the events have said so far, in numbers."""

    name: str = ""
    device: str = ""
    trials: int = 0
    finished: int = 0
    failed: int = 0
    pruned: int = 0
    cohort: int = 0
    epochs_per_candidate: int = 1
    epochs: int = 0  # candidate-epochs of this run
    ahead: int = 0  # candidate-epochs of candidates that are in training
    front: tuple[FrontMember, ...] = ()
    started: float = field(default_factory=time.monotonic)

    def add(self, event: Event) -> None:
        """Counts one event."""
        match event:
            case StudyStarted():
                self.name, self.device = event.name, event.device
                self.trials, self.finished = event.trials, event.num_finished
                self.epochs_per_candidate = event.epochs_per_candidate
            case CohortStarted():
                self.cohort, self.ahead = event.cohort, 0
            case EpochFinished():
                self.epochs += len(event.reports)
                self.ahead += len(event.reports)
            case CandidateFinished():
                self.finished += 1
                self.failed += event.record.status == "failed"
                self.pruned += event.record.status == "stopped"
                self.ahead = max(0, self.ahead - self.epochs_per_candidate)
            case FrontChanged():
                self.front = event.members

    @property
    def epochs_per_second(self) -> float | None:
        """Candidate-epochs a second since the start of this run, None before the first."""
        elapsed = time.monotonic() - self.started
        return self.epochs / elapsed if self.epochs and elapsed > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Time until all candidates are trained, if none of those left is pruned; None before the first epoch."""
        rate = self.epochs_per_second
        if rate is None:
            return None
        left = (self.trials - self.finished) * self.epochs_per_candidate - self.ahead
        return max(0.0, left / rate)

    @property
    def done(self) -> float:
        """Share of the study's epochs that is trained, from 0 to 1."""
        total = self.trials * self.epochs_per_candidate
        return min(1.0, (self.finished * self.epochs_per_candidate + self.ahead) / max(1, total))

    def line(self) -> str:
        """Returns all of it on one line."""
        rate = self.epochs_per_second
        parts = [
            f"{self.finished}/{self.trials} trials done",
            f"{self.failed} failed",
            *([f"{self.pruned} pruned"] if self.pruned else []),
            f"{len(self.front)} on the front",
            f"{rate:.1f} epochs/s" if rate else "starting",
        ]
        if self.seconds_left is not None:
            parts.append(f"{seconds(self.seconds_left)} left")
        return ", ".join(parts)


class PlainView:
    """Prints a line when a cohort starts, when a candidate fails, and now and then in between."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._next = 0.0

    def __call__(self, event: Event) -> None:
        """Counts an event and prints if it is time."""
        tally = self._tally
        tally.add(event)
        match event:
            case StudyStarted():
                _line(f"{tally.name}: {tally.trials} trials of {_epochs(tally)} on {tally.device}")
                if event.num_finished or event.num_running:
                    _line(
                        f"going on: {event.num_finished} done before, "
                        f"{event.num_running} to be trained again"
                    )
            case CohortStarted():
                _line(f"cohort {event.cohort}: {len(event.candidates)} candidates")
                self._next = time.monotonic() + _LINE_SECONDS
            case CandidateFinished() if event.record.status == "failed":
                _line(_failure(event))
            case EpochFinished() if time.monotonic() >= self._next:
                _line(tally.line())
                self._next = time.monotonic() + _LINE_SECONDS
            case FrontChanged():
                _line(tally.line())


class LiveView:
    """Shows a bar, the numbers and the best points, and keeps them up to date."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._failures: list[str] = []

    def __call__(self, event: Event) -> None:
        """Counts an event."""
        self._tally.add(event)
        if isinstance(event, CandidateFinished) and event.record.status == "failed":
            self._failures.append(_failure(event))

    def __rich__(self) -> RenderableType:
        """Returns the display; rich asks for it several times a second."""
        tally = self._tally
        if not tally.name:
            return Text("reading the data")
        numbers = Table.grid()
        numbers.add_row(Text(f"{tally.name}  cohort {tally.cohort}  on {tally.device}", "bold"))
        numbers.add_row(ProgressBar(total=1.0, completed=tally.done, width=60))
        numbers.add_row(Text(tally.line()))
        parts: list[RenderableType] = [numbers]
        if tally.front:
            parts.append(_best_points(tally.front))
        parts += [Text(failure, style="yellow") for failure in self._failures[-3:]]
        return Group(*parts)


def _best_points(members: tuple[FrontMember, ...]) -> Table:
    """Returns the front, thinned evenly if it is long; its ends stay."""
    last = len(members) - 1
    count = min(len(members), _MOST_POINTS)
    chosen = sorted({round(i * last / max(1, count - 1)) for i in range(count)})
    names = list(members[0].values)
    rows = [
        [members[i].trial, *members[i].values.values(), members[i].candidate.router.kind]
        for i in chosen
    ]
    return screens.table(["trial", *names, "router"], rows)


def _failure(event: CandidateFinished) -> str:
    record = event.record
    lines = (record.message or "").strip().splitlines() or ["no message"]
    return f"trial {record.trial} failed ({record.reason}): {lines[-1]}"


def _epochs(tally: Tally) -> str:
    return "1 epoch" if tally.epochs_per_candidate == 1 else f"{tally.epochs_per_candidate} epochs"


def _line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def watching(quiet: bool = False) -> Iterator[OnEvent]:
    """Yields what to give as `on_event`; the live display ends with the block."""
    if quiet:
        yield ignore
    elif sys.stderr.isatty():
        view = LiveView()
        with Live(view, console=screens.console(to_stderr=True), transient=True):
            yield view
    else:
        yield PlainView()


def watching_epochs(num_epochs: int, quiet: bool = False) -> OnEvent:
    """Returns an `on_event` that prints a line for every epoch of a single model."""

    def view(event: Event) -> None:
        if isinstance(event, EpochFinished) and event.reports:
            report = event.reports[0]
            _line(
                f"epoch {report.epoch}/{num_epochs}: accuracy {report.accuracy:.4f}, "
                f"validation loss {report.validation_loss:.4f}, "
                f"{report.activated_params:,.0f} activated parameters"
            )

    return ignore if quiet else view
