"""`audit_study`: trains what an audit needs, looks at the weights, and judges the claims of the papers.

An audit is one or two designed studies in the parent's database: the second has the random-k controls, whose
histograms of K are known once the first has ended. What is seen in weights is stored with the trial that it is of.
Whatever is stored is not done again, so an audit that was cut short goes on, and a finished one is only printed.
The test part is never read.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynamoe_search.auditing import (
    CLAIMS,
    FINDINGS,
    LEAST_UPDATES,
    AuditPlan,
    Finding,
    Hardness,
    Margins,
    Noise,
    Observation,
    judge_claims,
)
from dynamoe_search.auditing.observations import control_name
from dynamoe_search.data import describe
from dynamoe_search.errors import UsageError
from dynamoe_search.records import Candidate, StudyRecord, from_json, to_json
from dynamoe_search.search.audit_evidence import gather
from dynamoe_search.search.audit_plan import epochs_to_settle, plan_audit, random_control
from dynamoe_search.search.designed import (
    DesignedRun,
    create_designed,
    designed_runs,
    replicated,
    run_designed,
    unfinished,
)
from dynamoe_search.search.events import OnEvent, ignore, never
from dynamoe_search.specs import StudySpec
from dynamoe_search.specs.sections import MOST
from dynamoe_search.specs.vocabulary import TEXT_NAMES
from dynamoe_search.store import Store
from dynamoe_search.wording import counted

_MOST_SEEDS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditRequest:
    """What an audit is asked for.

    Attributes:
        claims: Keys of `auditing.CLAIMS`, in the order in which they are answered; none means all.
        seeds: Replicates of every design, 2 to 1,000.
        epochs: Of every run; None means those of the parent.
        margin: Smallest difference of accuracy that is of interest, in points; of text, of the loss in hundredths of
            a nat.
    """

    claims: tuple[str, ...] = ()
    seeds: int = 5
    epochs: int | None = None
    margin: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """An audit before it runs.

    Attributes:
        parent: The study that it is about.
        request: What it was asked for.
        plan: Which designs answer which claims.
        epochs: Of every run.
        most_epochs: Candidate-epochs in all, controls included.
        seconds: What they would take at the parent's pace; None if that is not known.
    """

    parent: str
    request: AuditRequest
    plan: AuditPlan
    epochs: int
    most_epochs: int
    seconds: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Audited:
    """How far an audit came.

    Attributes:
        findings: The answers; none if it was interrupted.
        studies: Names of the designed studies.
        failed: Runs that did not end well.
        is_interrupted: Whether it ended before its end.
        unfinished: Then why, as a sentence that says how to go on; None if somebody asked it to stop.
    """

    findings: tuple[Finding, ...] = ()
    studies: tuple[str, ...] = ()
    failed: int = 0
    is_interrupted: bool = False
    unfinished: str | None = None


def prepare_audit(store: Store, parent: str, request: AuditRequest) -> Audit:
    """Returns what an audit would train; nothing is stored.

    Raises:
        DataError: The data cannot be described.
        UsageError: There is no such study, it was not made by a search or has a backbone of the user's own, a claim is
            unknown, or seeds, epochs or margin are out of range, or epochs too few for a claim that was named.
    """
    record = store.study(parent)
    _check(record, request)
    spec = StudySpec.model_validate_json(record.spec_json)
    claims = tuple(key for key in CLAIMS if not request.claims or key in request.claims)
    epochs = request.epochs or spec.train.epochs
    steps = -(-describe(spec.data).per_epoch // spec.train.batch_size)
    plan = plan_audit(spec, claims, epochs=epochs, steps_per_epoch=steps, front=store.front(parent))
    if "settling" in request.claims and plan.adaptive is None:
        enough = epochs_to_settle(spec, epochs=epochs, steps_per_epoch=steps)
        after = counted(epochs, "epoch")
        raise UsageError(
            f"the claim settling cannot be judged after {after}: experts come and go fewer than {LEAST_UPDATES} times "
            f"in the first or the last third of the training; --epochs {enough} is enough, or name other claims only"
        )
    runs = (len(plan.designs) + len(plan.controls)) * request.seeds
    spent = store.spent(parent)
    pace = spent.seconds / spent.epochs if spent.epochs else None
    return Audit(
        parent=parent,
        request=request,
        plan=plan,
        epochs=epochs,
        most_epochs=runs * epochs,
        seconds=None if pace is None else pace * runs * epochs,
    )


def _check(record: StudyRecord, request: AuditRequest) -> None:
    if record.purpose != "search":
        raise UsageError(
            f"the study {record.name!r} was made by {record.purpose}; audit the study that it was made "
            f"from, {record.parent!r}"
        )
    unknown = [key for key in request.claims if key not in CLAIMS]
    if unknown:
        raise UsageError(f"unknown claim {unknown[0]!r}; use {', '.join(CLAIMS)}")
    if request.seeds < 2:
        raise UsageError(
            f"an audit needs at least 2 seeds to tell effects from chance, got {request.seeds}"
        )
    if request.seeds > _MOST_SEEDS:
        raise UsageError(f"--seeds must be at most {_MOST_SEEDS:,}, got {request.seeds}")
    if request.epochs is not None and not 1 <= request.epochs <= MOST:
        raise UsageError(f"--epochs must be at least 1 and at most {MOST:,}, got {request.epochs}")
    if not 0 < request.margin <= 100:
        raise UsageError(f"--margin must be above 0 and at most 100 points, got {request.margin}")


def audit_study(
    store: Store,
    audit: Audit,
    *,
    on_event: OnEvent = ignore,
    should_stop: Callable[[], bool] = never,
) -> Audited:
    """Trains and looks at what is still missing of an audit, and returns its answers.

    Args:
        store: The open database.
        audit: See `prepare_audit`.
        on_event: Told what happens in training.
        should_stop: Asked after every step.

    Raises:
        DataError: The data cannot be read, or are not those that the parent began with.
        DeviceError: The parent's device is not here.
        StoppedError: It was asked to stop while the database could not be used.
    """
    with store.giving_up(should_stop):
        return _audit(store, audit, on_event, should_stop)


def _audit(
    store: Store, audit: Audit, on_event: OnEvent, should_stop: Callable[[], bool]
) -> Audited:
    plan = audit.plan
    first = {one.name: one.candidate for one in plan.designs}
    studies: list[str] = []
    candidates = first
    while candidates:
        name = _make(store, audit, candidates)
        studies.append(name)
        summary = run_designed(store, name, on_event=on_event, should_stop=should_stop)
        is_over = summary.state == "finished"
        if not is_over or not gather(store, name, audit.parent, plan, should_stop):
            was_asked = is_over or summary.reason in ("interrupt", "stop")
            why = None if was_asked else unfinished(store, summary)
            return Audited(studies=tuple(studies), is_interrupted=True, unfinished=why)
        is_first = len(studies) == 1
        candidates = _controls(plan, first, designed_runs(store, name)) if is_first else {}
    runs = [(name, run) for name in studies for run in designed_runs(store, name)]
    seen = [one for name in studies for one in _observations(store, name)]
    margins = Margins(score=audit.request.margin)
    findings = judge_claims(plan, seen, margins)
    content = {
        "margins": json.loads(to_json(margins)),
        "findings": [json.loads(to_json(one)) for one in findings],
    }
    store.add_evidence(studies[0], runs[0][1].record.trial, FINDINGS, json.dumps(content))
    return Audited(findings=tuple(findings), studies=tuple(studies), failed=len(runs) - len(seen))


def _make(store: Store, audit: Audit, candidates: Mapping[str, Candidate]) -> str:
    texts = [[name, to_json(one)] for name, one in candidates.items()]
    plan: dict[str, Any] = {
        "claims": list(audit.plan.claims),
        "seeds": audit.request.seeds,
        "epochs": audit.epochs,
        "designs": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
    }
    return create_designed(
        store,
        audit.parent,
        "audit",
        plan,
        replicated(candidates, audit.request.seeds),
        epochs=audit.epochs,
    )


def _controls(
    plan: AuditPlan, candidates: Mapping[str, Candidate], runs: Sequence[DesignedRun]
) -> dict[str, Candidate]:
    """Random-k with the histogram of every router that varies K, over all its layers and replicates."""
    controls = {}
    for kind in plan.controls:
        counts: dict[int, int] = {}
        for run in runs:
            if run.design == plan.routers[kind] and run.record.outcome is not None:
                for layer in run.record.outcome.routing:
                    for k, count in enumerate(layer.k_histogram):
                        counts[k] = counts.get(k, 0) + count
        total = sum(counts.values())
        if sum(1 for count in counts.values() if count) > 1:
            histogram = [counts[k] / total for k in sorted(counts)]
            controls[control_name(kind)] = random_control(candidates[plan.routers[kind]], histogram)
    return controls


def _observations(store: Store, name: str) -> list[Observation]:
    """Returns the runs of a designed study that ended well, with what was seen in their weights."""
    evidence: dict[int, dict[str, str]] = {}
    for one in store.evidence(name):
        evidence.setdefault(one.trial, {})[one.kind] = one.content_json
    spec = StudySpec.model_validate_json(store.study(name).spec_json)
    info, is_text = describe(spec.data), spec.data.name in TEXT_NAMES
    found = []
    for run in designed_runs(store, name):
        outcome, candidate = run.record.outcome, run.record.candidate
        if run.record.status != "complete" or outcome is None:
            continue
        own = evidence.get(run.record.trial, {})
        found.append(
            Observation(
                design=run.design,
                replicate=run.replicate,
                score=-outcome.metrics["validation_loss"]
                if is_text
                else outcome.metrics["accuracy"],
                activated_params=outcome.metrics["activated_params"],
                mean_k=tuple(layer.mean_k for layer in outcome.routing),
                std_k=tuple(layer.std_k for layer in outcome.routing),
                num_steps=outcome.epochs * -(-info.per_epoch // candidate.train.batch_size),
                num_examples=0 if is_text else info.num_validation,
                events=outcome.expert_events,
                hardness=_read(Hardness, own.get("hardness")),
                noise_start=_read(Noise, own.get("noise-start")),
                noise_end=_read(Noise, own.get("noise-end")),
            )
        )
    return found


def _read(kind: type[Any], text: str | None) -> Any:
    return None if text is None else from_json(kind, text)
