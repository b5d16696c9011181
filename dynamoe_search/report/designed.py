"""What confirmations and audits of a study found, read from the studies that they made."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dynamoe_search.auditing import CLAIMS, FINDINGS, Finding
from dynamoe_search.confirmation import (
    Carrying,
    Confirmation,
    Measure,
    Measured,
    carrying,
    confirmation,
    findings,
    measure_of,
    measured,
    planned,
)
from dynamoe_search.records import CandidateRecord, StudyRecord
from dynamoe_search.specs import StudySpec
from dynamoe_search.specs.vocabulary import TEXT_NAMES
from dynamoe_search.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmed:
    """What the runs of one confirmation say, at one scale.

    Attributes:
        study: The study that has the runs.
        seeds: Replicates that were asked for.
        factor: How many times wider or longer than in the study the designs are.
        by: What was scaled: `width` or `epochs`; None if nothing was.
        runs: Those that were measured on the test part.
        found: What they say.
        scaled: Whether the ranking of the study's own scale carries over; None at that scale.
        unmeasured: Complete runs that were not measured on the test part yet; nothing is told before they are.
    """

    study: str
    seeds: int
    factor: int
    by: str | None
    runs: tuple[Measured, ...]
    found: Confirmation
    scaled: Carrying | None = None
    unmeasured: int = 0

    @property
    def sentences(self) -> list[str]:
        """What was found, in words."""
        if self.unmeasured:
            what = f"{self.unmeasured:,} complete runs are missing"
            return [f"Measuring on the test part is not over: {what}; call confirm again."]
        return findings(self.found, self.scaled)


@dataclass(frozen=True, kw_only=True, slots=True)
class Audited:
    """The answers of an audit, and the study that has its runs.

    Attributes:
        study: It has the runs.
        findings: The answers.
        is_text: Whether they are about language models.
    """

    study: str
    findings: tuple[Finding, ...]
    is_text: bool = False


def read_confirmed(
    store: Store, name: str, candidates: Sequence[CandidateRecord]
) -> tuple[Confirmed, ...]:
    """Returns the confirmations of a study that came to their end, in the order in which they were made.

    Args:
        store: The open database.
        name: The study.
        candidates: Those of the study itself.
    """
    found: list[Confirmed] = []
    for child in _children(store, name, "confirm"):
        text = child.plan_json or "{}"
        if child.state != "finished":
            continue
        records, tests = store.candidates(child.name), store.tests(child.name)
        known = {one.trial for one in tests}
        missing = sum(one.status == "complete" and one.trial not in known for one in records)
        measure = measure_of(child.objectives)
        runs = [] if missing else measured(records, tests, text, measure)
        if not runs and not missing:
            continue
        plan = json.loads(text)
        seeds, factor = plan["seeds"], plan["factor"]
        searched = _searched(plan["designs"], candidates, measure) if factor == 1 else {}
        own = Confirmed(
            study=child.name,
            seeds=seeds,
            factor=factor,
            by=plan["scale_by"],
            runs=tuple(runs),
            found=confirmation(
                runs, seeds=seeds, measure=measure, asked=planned(text), searched=searched
            ),
            unmeasured=missing,
        )
        found.append(_with_scale(own, found))
    return tuple(found)


def _searched(
    designs: Mapping[str, Mapping[str, Any]],
    candidates: Sequence[CandidateRecord],
    measure: Measure,
) -> dict[str, float]:
    """Returns what the search had measured on the validation part, by the name of the member."""
    outcomes = {one.trial: one.outcome for one in candidates if one.outcome is not None}
    return {
        name: measure.of(outcome.metrics)
        for name, one in designs.items()
        if one["kind"] == "member" and (outcome := outcomes.get(one["trial"])) is not None
    }


def _with_scale(one: Confirmed, earlier: list[Confirmed]) -> Confirmed:
    """Compares with the confirmation of the same designs and seeds at the study's own scale."""
    if one.factor == 1 or one.by is None or one.unmeasured:
        return one
    designs = {run.design for run in one.runs}
    for other in reversed(earlier):
        same = {run.design for run in other.runs} == designs and other.seeds == one.seeds
        if other.factor == 1 and same:
            scaled = carrying(
                other.runs,
                one.runs,
                factor=one.factor,
                by=one.by,
                seeds=one.seeds,
                measure=one.found.measure,
            )
            return replace(one, scaled=scaled)
    return one


def read_audited(store: Store, name: str) -> tuple[Audited, ...]:
    """Returns the audits of a study that came to their end, in the order in which they were made."""
    found = []
    for child in _children(store, name, "audit"):
        is_text = StudySpec.model_validate_json(child.spec_json).data.name in TEXT_NAMES
        for evidence in store.evidence(child.name, FINDINGS):
            lines = json.loads(evidence.content_json)["findings"]
            answers = [finding_of(one) for one in lines if one["claim"] in CLAIMS]
            found.append(Audited(study=child.name, findings=tuple(answers), is_text=is_text))
    return tuple(found)


def finding_of(line: dict[str, Any]) -> Finding:
    """Returns a stored answer; JSON has null for what is not a number."""
    numbers = ("effect", "low", "high", "p", "margin")
    given = {key: math.nan if line[key] is None else line[key] for key in numbers}
    details = {key: math.nan if one is None else one for key, one in line["details"].items()}
    return Finding(**{**line, **given, "details": details})


def _children(store: Store, name: str, purpose: str) -> list[StudyRecord]:
    records = [store.study(child) for child in store.children(name)]
    return [one for one in records if one.purpose == purpose]
