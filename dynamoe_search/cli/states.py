"""Where a study stands, and how a run of it ended."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dynamoe_search.cli.screens import console, facts, table
from dynamoe_search.cli.words import ago, printable, seconds
from dynamoe_search.records import CandidateRecord, RungDecision, Spent, StudyRecord, Worker
from dynamoe_search.wording import counted

if TYPE_CHECKING:  # loads torch
    from dynamoe_search.search import StudySummary

_MOST_ROWS = 20
_DECISION = ["paused trial", "decision", "epoch", "rivals", "ahead", "strongest", "reason"]


def worker_words(workers: Sequence[Worker]) -> str:
    """Returns who works on a study now: `process 17 on a, process 18 on b`."""
    return ", ".join(f"process {one.pid} on {one.host}" for one in workers if one.is_alive)


def time_words(times: Mapping[str, float]) -> str:
    """Returns a time and what it went into: `130 s (train 80 %, store 20 %)`; nothing below half a percent."""
    total = sum(times.values())
    parts = [
        f"{name} {100 * own / total:.0f} %"
        for name, own in times.items()
        if own >= 0.005 * total and own
    ]
    return f"{seconds(total)} ({', '.join(parts)})" if total else ""


def show_status(
    record: StudyRecord,
    workers: Sequence[Worker],
    spent: Spent,
    times: Mapping[str, float],
    rows: "StatusRows",
    url: str,
    files: str,
) -> None:
    """Prints where a study stands."""
    state: str = record.state
    if state == "running":
        state += f" ({worker_words(workers)})"
    if record.is_stop_requested:
        state += ", asked to stop"
    out = console()
    out.print(
        facts(
            {
                "study": record.name,
                "from": record.source,
                "purpose": f"{record.purpose} {record.parent}" if record.parent else None,
                "state": state,
                "candidates": f"{spent.complete} complete, {spent.failed} failed, "
                f"{_pruned(spent.stopped)}{_paused(spent.paused)}"
                f"{spent.running} in training or next, {_not_begun(record, spent)}of {record.trials} in all",
                "on the front": record.num_front,
                "objectives": ", ".join(
                    f"{name} ({'up' if up else 'down'})"
                    for name, up in zip(record.objectives, record.maximise, strict=True)
                ),
                "epochs": _of(f"{spent.epochs:,}", record.max_epochs),
                "candidate time": seconds(spent.seconds),
                "worker time": time_words(times) or None,
                "time budget": record.max_seconds
                and f"{seconds(record.seconds_spent)} of {seconds(record.max_seconds)}",
                "device": record.settings.device,
                "expert backend": record.settings.backend_words,
                "versions": record.settings.versions or None,
                "created": ago(record.created_at),
                "updated": ago(record.updated_at),
                "database": url,
                "files": files,
            }
        )
    )
    for headings, cells in rows.tables():
        out.print()
        out.print(table(headings, cells[:_MOST_ROWS]))
        if len(cells) > _MOST_ROWS:
            out.print(f"and {len(cells) - _MOST_ROWS} more; --json has all of them")


@dataclass(frozen=True, kw_only=True, slots=True)
class StatusRows:
    """Who did not end well, or waits, and why."""

    failures: Sequence[CandidateRecord]
    pruned: Sequence[CandidateRecord]
    paused: Sequence[CandidateRecord]
    decisions: Sequence[RungDecision]  # the latest of each paused candidate; references have none

    def tables(self) -> Iterator[tuple[list[str], list[Sequence[Any]]]]:
        """Yields headings and rows of the tables that are not empty."""
        if self.failures:
            yield (
                ["failed trial", "reason", "message"],
                [
                    (one.trial, one.reason, (one.message or "").strip().splitlines()[-1:])
                    for one in self.failures
                ],
            )
        if self.paused:
            why = {one.trial: one for one in self.decisions}
            yield (
                _DECISION[:1] + _DECISION[2:],
                [(one.trial, *_waits(one, why.get(one.trial))) for one in self.paused],
            )
        if self.pruned:
            yield ["pruned trial", "message"], [(one.trial, one.message) for one in self.pruned]


def show_decisions(decisions: Sequence[RungDecision]) -> None:
    """Prints what was decided of one candidate, rung by rung."""
    if decisions:
        out = console()
        out.print()
        out.print(table(_DECISION[1:], [(one.action, *_why(one)) for one in decisions]))


def _waits(record: CandidateRecord, decision: RungDecision | None) -> tuple[Any, ...]:
    """Returns the cells of a candidate that waits; a reference is compared, but never held back."""
    if decision is not None:
        return _why(decision)
    reference = record.candidate.reference
    return record.epochs, None, None, None, f"reference {reference}" if reference else None


def _why(one: RungDecision) -> tuple[Any, ...]:
    return one.rung, one.rivals, one.beaten, one.strongest, one.reason


def latest(decisions: Iterable[RungDecision], trials: Collection[int]) -> list[RungDecision]:
    """Returns the decision at the highest rung of each of these trials."""
    found: dict[int, RungDecision] = {}
    for one in sorted(decisions, key=lambda one: one.rung):
        if one.trial in trials:
            found[one.trial] = one
    return [found[trial] for trial in sorted(found)]


def _of(spent: str, budget: int | None) -> str:
    return spent if budget is None else f"{spent} of {budget:,}"


def _pruned(number: int) -> str:
    return f"{number} pruned, " if number else ""


def _paused(number: int) -> str:
    return f"{number} paused, " if number else ""


def _not_begun(record: StudyRecord, spent: Spent) -> str:
    """Returns how many candidates are still to be proposed, so that all numbers add up."""
    begun = spent.complete + spent.failed + spent.stopped + spent.paused + spent.running
    missing = record.trials - begun
    if missing <= 0:
        return ""
    if record.exhausted_at == begun:
        return f"{missing} for which the space has no design, "
    return f"{missing} not begun, "


_REASONS = {
    "trials": "all trials are done",
    "epochs": "the budget of epochs is used up",
    "exhausted": "every design of the space has been tried",
    "timeout": "the time is up",
    "time-budget": "the study's time budget is used up",
    "stop": "stopped by the command stop",
    "interrupt": "interrupted",
}


def show_summary(summary: "StudySummary") -> None:
    """Prints how a run ended, in a few lines."""
    out = console()
    out.print(
        f"\n{printable(summary.name)}: {_REASONS[summary.reason]}; "
        f"{summary.complete} of {counted(summary.trials, 'candidate')} complete, {summary.failed} failed, "
        f"{_pruned(summary.pruned)}{_paused(summary.paused)}{counted(summary.epochs, 'epoch')} in all, "
        f"{seconds(summary.seconds)} in this run",
        markup=False,
    )
    members = counted(len(summary.front), "member")
    out.print(f"front: {members}, hypervolume {summary.hypervolume:.4f}", markup=False)
    if summary.times:
        out.print(f"worker time: {time_words(summary.times)}", markup=False)
