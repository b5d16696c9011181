"""Progress of a running study on stderr: a live display on a terminal, plain lines everywhere else."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dynamoe_search.cli import screens
from dynamoe_search.cli.frames import thinned
from dynamoe_search.cli.words import printable, seconds, words_of
from dynamoe_search.records import FrontMember, Spent, StudyRecord, language_metrics
from dynamoe_search.search.events import (
    CandidateFinished,
    EpochFinished,
    Event,
    FrontChanged,
    LegFinished,
    LegStarted,
    OnEvent,
    StudyStarted,
    ignore,
)
from dynamoe_search.wording import counted

LINE_SECONDS = 10.0
"""At most one plain line of progress in this time."""
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
    leg: str = ""
    epochs_per_candidate: int = 1
    max_epochs: int | None = None
    is_pruned: bool = False
    before: int = 0  # candidate-epochs of earlier runs
    trained: set[tuple[int, int]] = field(default_factory=set)  # ordinal and epoch, of this run
    trained_by_others: int = 0  # candidate-epochs of this run
    paused: set[int] = field(default_factory=set)  # trials
    paused_before: int = 0
    front: tuple[FrontMember, ...] = ()
    started: float = field(default_factory=time.monotonic)

    def add(self, event: Event) -> None:
        """Counts one event."""
        match event:
            case StudyStarted():
                self.name, self.device = printable(event.name), printable(event.device)
                self.trials, self.finished = event.trials, event.num_finished
                self.epochs_per_candidate = event.epochs_per_candidate
                self.max_epochs, self.is_pruned = event.max_epochs, event.is_pruned
                self.before, self.paused_before = event.epochs, event.num_paused
            case LegStarted():
                self.leg = words_of(event.leg)
                trials = set(event.leg.trials)
                if event.leg.start:
                    others = len(trials - self.paused)  # who stood there before this run
                    self.paused_before = max(0, self.paused_before - others)
                self.paused -= trials
            case EpochFinished():
                self.trained |= {(report.ordinal, report.epoch) for report in event.reports}
            case LegFinished():
                self.paused |= {one.trial for one in event.stood}
            case CandidateFinished():
                self.finished += 1
                self.failed += event.record.status == "failed"
                self.pruned += event.record.status == "stopped"
                self.paused.discard(event.record.trial)
            case FrontChanged():
                self.front = event.members

    def look(
        self, record: StudyRecord, spent: Spent, front: Sequence[FrontMember], leg: str
    ) -> None:
        """Takes over what is stored of a study that others train.

        Args:
            record: The study.
            spent: What it has used so far.
            front: Its front.
            leg: What they do now.
        """
        self.trials, self.max_epochs = record.trials, record.max_epochs
        self.finished = spent.complete + spent.failed + spent.stopped
        self.failed, self.pruned, self.paused_before = spent.failed, spent.stopped, spent.paused
        self.trained_by_others = max(0, spent.epochs - self.before)
        self.front, self.leg = tuple(front), leg

    @property
    def num_paused(self) -> int:
        """Candidates that stand at a rung."""
        return len(self.paused) + self.paused_before

    @property
    def epochs(self) -> int:
        """Candidate-epochs of this run, each counted once."""
        return len(self.trained) + self.trained_by_others

    @property
    def epochs_per_second(self) -> float | None:
        """Candidate-epochs a second since the start of this run, None before the first."""
        elapsed = time.monotonic() - self.started
        return self.epochs / elapsed if self.epochs and elapsed > 0 else None

    @property
    def _total(self) -> int:
        """Candidate-epochs of the whole study; with a pruner the most that it may take."""
        total = self.trials * self.epochs_per_candidate
        return total if self.max_epochs is None else min(total, self.max_epochs)

    @property
    def seconds_left(self) -> float | None:
        """Time until the end; None before the first epoch, and if a pruner decides how much is left."""
        rate = self.epochs_per_second
        if rate is None or (self.is_pruned and self.max_epochs is None):
            return None
        return max(0.0, (self._total - self.before - self.epochs) / rate)

    @property
    def done(self) -> float:
        """Share of the study that is done, from 0 to 1: of its epochs, or of its candidates if they are pruned."""
        if self.is_pruned and self.max_epochs is None:
            return min(1.0, (self.finished + self.num_paused) / max(1, self.trials))
        return min(1.0, (self.before + self.epochs) / max(1, self._total))

    def line(self) -> str:
        """Returns all of it on one line."""
        rate = self.epochs_per_second
        parts = [
            f"{self.finished}/{self.trials} trials done",
            f"{self.failed} failed",
            *([f"{self.num_paused} paused"] if self.num_paused else []),
            *([f"{self.pruned} pruned"] if self.pruned else []),
            f"{len(self.front)} on the front",
            f"{rate:.1f} epochs/s" if rate else "starting",
        ]
        if self.seconds_left is not None:
            parts.append(f"{seconds(self.seconds_left)} left")
        return ", ".join(parts)


class PlainView:
    """Prints a line when a leg starts, when a candidate fails, and now and then in between."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._next = 0.0

    def __call__(self, event: Event) -> None:
        """Counts an event and prints if it is time."""
        tally = self.tally
        tally.add(event)
        match event:
            case StudyStarted():
                budget = (
                    f", {counted(tally.max_epochs, 'epoch')} at most" if tally.max_epochs else ""
                )
                _line(
                    f"{tally.name}: {counted(tally.trials, 'trial')} of {_epochs(tally)} on {tally.device}{budget}"
                )
                if event.num_finished or event.num_running or event.num_paused:
                    _line(
                        f"so far {event.num_finished} are done, {event.num_paused} paused, "
                        f"{event.num_running} in training or about to be"
                    )
            case LegStarted():
                _line(tally.leg)
                self._next = time.monotonic() + LINE_SECONDS
            case CandidateFinished() if event.record.status == "failed":
                _line(_failure(event))
            case EpochFinished() if time.monotonic() >= self._next:
                _line(tally.line())
                self._next = time.monotonic() + LINE_SECONDS
            case FrontChanged():
                _line(tally.line())


class LiveView:
    """Shows a bar, the numbers and the best points, and keeps them up to date."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._failures: list[str] = []

    def __call__(self, event: Event) -> None:
        """Counts an event."""
        self.tally.add(event)
        if isinstance(event, CandidateFinished) and event.record.status == "failed":
            self._failures.append(_failure(event))

    def __rich__(self) -> RenderableType:
        """Returns the display; rich asks for it several times a second."""
        tally = self.tally
        if not tally.name:
            return Text("reading the data")
        numbers = Table.grid()
        numbers.add_row(Text(f"{tally.name} on {tally.device}  {tally.leg}", "bold"))
        numbers.add_row(ProgressBar(total=1.0, completed=tally.done, width=60))
        numbers.add_row(Text(tally.line()))
        parts: list[RenderableType] = [numbers]
        if tally.front:
            parts.append(_best_points(tally.front))
        parts += [Text(failure, style="yellow") for failure in self._failures[-3:]]
        return Group(*parts)


def _best_points(members: tuple[FrontMember, ...]) -> Table:
    """Returns the front, thinned evenly if it is long; its ends stay."""
    names = list(members[0].values)
    rows = [
        [one.trial, *one.values.values(), one.candidate.router.kind]
        for one in thinned(members, _MOST_POINTS)
    ]
    return screens.table(["trial", *names, "router"], rows)


def _failure(event: CandidateFinished) -> str:
    record = event.record
    lines = (record.message or "").strip().splitlines() or ["no message"]
    return printable(f"trial {record.trial} failed ({record.reason}): {lines[-1]}")


def _epochs(tally: Tally) -> str:
    return counted(tally.epochs_per_candidate, "epoch")


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


def watching_epochs(num_epochs: int, quiet: bool = False, *, is_text: bool = False) -> OnEvent:
    """Returns an `on_event` that prints a line for every epoch of a single model."""

    def view(event: Event) -> None:
        if isinstance(event, EpochFinished) and event.reports:
            report = event.reports[0]
            quality = f"accuracy {report.accuracy:.4f}"
            if is_text:
                told = language_metrics(report.validation_loss, bytes_per_token=1.0)
                quality = f"perplexity {told['perplexity']:.4g}"
            _line(
                f"epoch {report.epoch}/{num_epochs}: {quality}, "
                f"validation loss {report.validation_loss:.4f}, "
                f"{report.activated_params:,.0f} activated parameters"
            )

    return ignore if quiet else view
