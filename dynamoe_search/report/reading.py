"""What a report needs from the store, read once."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import ValidationError

from dynamoe_search.pareto import front_indices, knee_point
from dynamoe_search.records import CandidateRecord, Progress, RungDecision, StudyRecord
from dynamoe_search.report.designed import (
    Audited,
    Confirmed,
    read_audited,
    read_confirmed,
)
from dynamoe_search.report.words import is_maximised
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from dynamoe_search.store.importance import Importance, importances


@dataclass(frozen=True, kw_only=True)
class StudyData:
    """A study with everything that its report shows.

    Args:
        record: The study.
        spec: Its study file; None if this version of the program cannot read it.
        candidates: By trial number.
        progress: Reports by trial number, in the order of epochs.
        decisions: What was decided at rungs, by trial and rung.
        importances: Which parameters mattered; empty if there are too few candidates.
        database: Where it was read from, for people.
        confirmed: What its designs reached on the test part with fresh seeds.
        audited: What designed runs on its data say of the papers' claims.
    """

    record: StudyRecord
    spec: StudySpec | None
    candidates: tuple[CandidateRecord, ...]
    progress: dict[int, tuple[Progress, ...]]
    decisions: tuple[RungDecision, ...] = ()
    importances: tuple[Importance, ...] = ()
    database: str = ""
    confirmed: tuple[Confirmed, ...] = ()
    audited: tuple[Audited, ...] = ()

    @property
    def name(self) -> str:
        """The study's name."""
        return self.record.name

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of what is compared."""
        return self.record.objectives

    @cached_property
    def axes(self) -> tuple[str, str]:
        """The measures that a plot of the front shows across and upwards."""
        return axes(self.objectives)

    @cached_property
    def finished(self) -> tuple[CandidateRecord, ...]:
        """Candidates with an outcome, in the order in which they got it."""
        done = [one for one in self.candidates if one.outcome is not None]
        return tuple(sorted(done, key=lambda one: (one.finished_at or "", one.trial)))

    @cached_property
    def ranked(self) -> tuple[CandidateRecord, ...]:
        """Complete candidates that keep the constraints, in the order in which they finished."""
        return tuple(one for one in self.finished if is_ranked(one))

    @cached_property
    def front(self) -> tuple[CandidateRecord, ...]:
        """Candidates that no other dominates, by the measure across, ascending."""
        members = [self.ranked[place] for place in front_of(self.ranked, self.objectives)]
        return tuple(sorted(members, key=lambda one: (value(one, self.axes[0]), one.trial)))

    @cached_property
    def knee(self) -> CandidateRecord | None:
        """The member of the front that bulges farthest towards the good corner."""
        place = knee_point(points(self.front, self.objectives), self.record.maximise)
        return None if place is None else self.front[place]

    @cached_property
    def references(self) -> tuple[CandidateRecord, ...]:
        """Complete reference designs."""
        return tuple(one for one in self.ranked if one.candidate.reference is not None)

    @cached_property
    def epochs(self) -> int:
        """Candidate-epochs that were trained, by candidates with and without an outcome."""
        return sum(epochs_of(one, self.progress.get(one.trial, ())) for one in self.candidates)

    @cached_property
    def seconds(self) -> float:
        """Training time of all candidates, each its share of the time of its pack."""
        return sum(seconds_of(one, self.progress.get(one.trial, ())) for one in self.candidates)

    @cached_property
    def front_trials(self) -> frozenset[int]:
        """Trial numbers of the front."""
        return frozenset(one.trial for one in self.front)

    def group(self, record: CandidateRecord) -> str:
        """Returns what a candidate is drawn as: `reference`, `front`, or its status."""
        if record.status in ("failed", "stopped"):
            return record.status
        if record.candidate.reference is not None:
            return "reference"
        return "front" if record.trial in self.front_trials else record.status

    def with_status(self, status: str) -> list[CandidateRecord]:
        """Returns the candidates that have a status, by trial number."""
        return [one for one in self.candidates if one.status == status]

    def last_decision(self, trial: int) -> RungDecision | None:
        """Returns what was decided of a candidate where it was compared last."""
        return self._last_decisions.get(trial)

    @cached_property
    def _last_decisions(self) -> dict[int, RungDecision]:
        ordered = sorted(self.decisions, key=lambda one: one.rung)
        return {one.trial: one for one in ordered}


def read(store: Store, name: str) -> StudyData:
    """Returns a study with everything that its report shows; raises `UsageError` if there is none."""
    record = store.study(name)
    candidates = tuple(store.candidates(name))
    trials = {one.ordinal: one.trial for one in candidates}
    progress: dict[int, list[Progress]] = defaultdict(list)
    for report in store.progress(name):
        if report.ordinal in trials:
            progress[trials[report.ordinal]].append(report)
    return StudyData(
        record=record,
        spec=_spec(record.spec_json),
        candidates=candidates,
        progress={trial: tuple(reports) for trial, reports in progress.items()},
        decisions=tuple(store.decisions(name)),
        importances=tuple(importances(store, name)),
        database=store.url,
        confirmed=read_confirmed(store, name, candidates),
        audited=read_audited(store, name),
    )


def axes(objectives: Sequence[str]) -> tuple[str, str]:
    """Returns the measures to show across (a cost) and upwards (what it buys)."""
    costs = [name for name in objectives if not is_maximised(name)]
    across = "activated_params" if "activated_params" in costs else (costs[-1:] or [""])[0]
    gains = [name for name in objectives if name != across]
    if gains:
        upwards = "accuracy" if "accuracy" in gains else gains[0]
        return across or "activated_params", upwards
    return across, "accuracy"  # one objective, and it is a cost


def is_ranked(record: CandidateRecord) -> bool:
    """Says whether a candidate may be on a front."""
    return record.status == "complete" and record.feasible and record.values is not None


def value(record: CandidateRecord, name: str) -> float:
    """Returns a measured value of a candidate; NaN if it was not measured."""
    measured = dict(record.outcome.metrics) if record.outcome else {}
    return float({**measured, **(record.values or {})}.get(name, math.nan))


def points(records: Iterable[CandidateRecord], names: Sequence[str]) -> list[list[float]]:
    """Returns one row of values per candidate."""
    return [[value(record, name) for name in names] for record in records]


def front_of(records: Sequence[CandidateRecord], names: Sequence[str]) -> list[int]:
    """Returns the places of the candidates that none of the others dominates in some measures."""
    maximise = [is_maximised(name) for name in names]
    return [int(place) for place in front_indices(points(records, names), maximise)]


def epochs_of(record: CandidateRecord, reports: Sequence[Progress]) -> int:
    """Returns the epochs that a candidate was trained."""
    if record.outcome is not None:
        return record.outcome.epochs
    return max((report.epoch for report in reports), default=record.epochs)


def seconds_of(record: CandidateRecord, reports: Sequence[Progress]) -> float:
    """Returns the time of a candidate, 0 where it is unknown."""
    if record.outcome is not None:
        spent = record.outcome.seconds
        return spent if math.isfinite(spent) else 0.0
    return sum(report.seconds for report in reports if math.isfinite(report.seconds))


def _spec(text: str) -> StudySpec | None:
    try:
        return StudySpec.model_validate_json(text)
    except ValidationError:  # written by another version of the program
        return None
