"""The front as it stands: candidates that are on their way count with what they reported last. No torch, no SQL."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dynamoe_search.errors import UsageError
from dynamoe_search.pareto import front_indices
from dynamoe_search.records import (
    CandidateRecord,
    FrontMember,
    LayerRouting,
    Progress,
    StudyRecord,
    bytes_per_token,
)
from dynamoe_search.specs import StudySpec
from dynamoe_search.specs.vocabulary import PRUNED_ON, excess
from dynamoe_search.store.fronts import front_order

NAN = float("nan")


@dataclass(frozen=True, kw_only=True, slots=True)
class Provisional:
    """A candidate that nobody dominates so far.

    Attributes:
        member: As on a front. Of one that is not complete, what is only measured at the end is missing: NaN, or empty.
        epochs: That its numbers are of.
        is_complete: Whether these are its last.
    """

    member: FrontMember
    epochs: int
    is_complete: bool


def front_so_far(
    study: StudyRecord, candidates: Iterable[CandidateRecord], reports: Iterable[Progress]
) -> list[Provisional]:
    """Returns who is on the front if whoever is paused or in training counts with its last report, in its order.

    Who keeps the study's constraints by what is measured so far, counts. Failed and pruned candidates do not.

    Args:
        study: The study.
        candidates: Its candidates; those of another status are passed over.
        reports: What they reported, in the order of epochs.

    Raises:
        UsageError: An objective is measured at the end of a training only.
    """
    records = list(candidates)
    length = _token_length(records)
    early = [name for name in PRUNED_ON if name != "bits_per_byte" or length is not None]
    late = [name for name in study.objectives if name not in early]
    if late:
        raise UsageError(
            f"nobody of {study.name!r} who is on the way has a place yet: {', '.join(late)} is only known "
            "when a training ends"
        )
    latest = {report.ordinal: report for report in reports}
    found = []
    for record in records:
        if record.status == "complete" and record.feasible:
            found.append(_finished(record))
        elif record.status in ("paused", "running") and record.ordinal in latest:
            one = _unfinished(record, latest[record.ordinal], study.objectives, length)
            if _is_feasible(study, one.member.metrics):
                found.append(one)
    return _on_front(found, study)


def _token_length(records: Iterable[CandidateRecord]) -> float | None:
    """Returns the mean length of a token of the study's text in bytes, as complete candidates know it."""
    told = (one.outcome.metrics for one in records if one.outcome is not None)
    return next((bytes_per_token(one) for one in told if "bits_per_byte" in one), None)


def _finished(record: CandidateRecord) -> Provisional:
    assert record.outcome is not None
    assert record.values is not None
    member = FrontMember(
        trial=record.trial,
        ordinal=record.ordinal,
        candidate=record.candidate,
        values=record.values,
        metrics=record.outcome.metrics,
        params=record.params,
        routing=record.outcome.routing,
    )
    return Provisional(member=member, epochs=record.outcome.epochs, is_complete=True)


def _unfinished(
    record: CandidateRecord, last: Progress, objectives: Sequence[str], length: float | None
) -> Provisional:
    metrics = last.metrics(length)
    if length is None and "perplexity" in objectives:  # a token's length has no part in it
        metrics["perplexity"] = last.metrics(1.0)["perplexity"]
    member = FrontMember(
        trial=record.trial,
        ordinal=record.ordinal,
        candidate=record.candidate,
        values={name: metrics[name] for name in objectives},
        metrics=metrics,
        params=record.params,
        routing=_routing(last),
    )
    return Provisional(member=member, epochs=last.epoch, is_complete=False)


def _routing(last: Progress) -> tuple[LayerRouting, ...]:
    layers = zip(last.experts_per_layer, last.mean_k_per_layer, strict=True)
    return tuple(
        LayerRouting(
            layer=layer,
            num_experts=num_experts,
            mean_k=mean_k,
            std_k=NAN,
            k_histogram=(),
            load=(),
            load_cv=NAN,
            max_share=NAN,
        )
        for layer, (num_experts, mean_k) in enumerate(layers)
    )


def _is_feasible(study: StudyRecord, metrics: Mapping[str, float]) -> bool:
    constraints = StudySpec.model_validate_json(study.spec_json).study.constraints
    above = (excess(name, bound, metrics) for name, bound in constraints.items())
    return all(one is None or one <= 0 for one in above)


def _on_front(found: Sequence[Provisional], study: StudyRecord) -> list[Provisional]:
    if not found:
        return []
    points = [[one.member.values[name] for name in study.objectives] for one in found]
    chosen = [found[index] for index in front_indices(points, study.maximise)]
    key = front_order(study.objectives)
    return sorted(chosen, key=lambda one: (one.member.values[key], one.member.trial))
