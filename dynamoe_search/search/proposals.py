"""What the sampler is told of a study: everybody with values, measured or estimated, or as running."""

import math
from collections.abc import Collection, Mapping, Sequence

from threadpoolctl import threadpool_limits

from dynamoe_search.pruning import Estimate, estimates
from dynamoe_search.records import CandidateRecord, bytes_per_token, language_metrics
from dynamoe_search.search.planner import rung_of
from dynamoe_search.search.references import reference_designs
from dynamoe_search.search.rungs import Rungs
from dynamoe_search.search.sampling import Known, Proposer
from dynamoe_search.search.space import Space
from dynamoe_search.specs import StudySpec
from dynamoe_search.specs.vocabulary import is_about_loss


class Proposals:
    """Makes proposers for a study, one per cohort.

    A candidate that is paused, pruned or on its way stands in the sampler's study with an estimate of its end, learnt
    from those that went further: a design that looks bad after two epochs teaches as much as one that was bad at the
    end, and one that waits does not keep the sampler away from where it is. If an objective cannot be estimated, such a
    candidate is left out.

    Args:
        space: The space of the study.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._num_references = len(reference_designs(space))
        self._finished: dict[int, Known] = {}  # by trial, each made once
        self._bytes_per_token: float | None = None  # of a text, once anybody has finished

    def may_be_drawn_apart(self, num_candidates: int) -> bool:
        """Says whether several may propose at the same time without drawing the same, and whether that is worth it.

        A point of a quasi-random sequence, a generation of NSGA-II and the last designs of a small space are for one.

        Args:
            num_candidates: How many there are.
        """
        is_past_references = num_candidates >= self._num_references
        is_tpe = self._space.spec.search.sampler == "tpe"
        return is_past_references and is_tpe and self._space.size is None

    def proposer(self, records: Sequence[CandidateRecord], rungs: Rungs, who: str = "") -> Proposer:
        """Returns a proposer that knows these candidates.

        Args:
            records: All candidates of the study.
            rungs: What they reported.
            who: Tells those apart who propose at the same time.
        """
        expected = self._estimates(records, rungs)
        ordered = sorted(records, key=lambda record: record.ordinal)
        known = [self._known(record, expected.get(record.ordinal)) for record in ordered]
        return Proposer(self._space, known, who)

    def _estimates(self, records: Sequence[CandidateRecord], rungs: Rungs) -> dict[int, Estimate]:
        finals, standing = {}, {}
        for record in records:
            if record.status == "complete" and record.outcome is not None:
                metrics = record.outcome.metrics
                measure = "validation_loss" if rungs.by_loss else "accuracy"
                if metrics.keys() >= {measure, "activated_params"}:
                    error = metrics[measure] if rungs.by_loss else 1.0 - metrics[measure]
                    finals[record.ordinal] = (error, metrics["activated_params"])
                if rungs.by_loss and "bits_per_byte" in metrics:
                    self._bytes_per_token = bytes_per_token(metrics)
            elif record.status in ("paused", "running", "stopped"):
                rung = rung_of(record.epochs, rungs.ladder)
                if rung and record.ordinal in rungs.records[rung]:
                    standing[record.ordinal] = rung
        if not standing:
            return {}
        with threadpool_limits(limits=1, user_api="blas"):  # sums depend on the number of threads
            return estimates(
                rungs.by_rung(),
                finals,
                standing,
                epochs=self._space.spec.train.epochs,
                kinds={one.ordinal: one.candidate.router.kind for one in records},
                highest=math.inf if rungs.by_loss else 1.0,
            )

    def _known(self, record: CandidateRecord, expected: Estimate | None) -> Known:
        if record.trial in self._finished:
            return self._finished[record.trial]
        if record.status in ("complete", "failed"):
            known = self._finished[record.trial] = Known.of(record, self._space)
            return known
        known, spec = Known.of(record, self._space), self._space.spec
        return with_estimate(known, expected, spec, self._bytes_per_token)


def with_estimate(
    known: Known, expected: Estimate | None, spec: StudySpec, bytes_per_token: float | None = None
) -> Known:
    """Returns what the sampler knows of a candidate that has not finished.

    Args:
        known: The candidate, without values.
        expected: Its estimated end, None if it has reached no rung.
        spec: The study.
        bytes_per_token: Of its text, None if there is none or nobody knows yet.
    """
    if expected is None:
        return known
    objectives: Collection[str] = spec.study.objectives
    numbers = {"activated_params": expected.activated_params}
    if is_about_loss(spec.study.objectives):
        numbers["validation_loss"] = expected.error
        told = language_metrics(expected.error, bytes_per_token or 1.0)
        numbers["perplexity"] = told["perplexity"]
        if bytes_per_token is not None:
            numbers["bits_per_byte"] = told["bits_per_byte"]
    else:
        numbers["accuracy"] = 1.0 - expected.error
    if not numbers.keys() >= set(objectives):
        return known.without_values()
    return known.with_values(
        tuple(numbers[name] for name in objectives),
        {name: _excess(name, bound, numbers) for name, bound in spec.study.constraints.items()},
    )


def _excess(name: str, bound: float, numbers: Mapping[str, float]) -> float:
    """Returns by how much a constraint is expected to be violated; 0 if nothing is known of it."""
    side, _, metric = name.partition("_")
    if metric not in numbers:
        return 0.0
    excess = numbers[metric] - bound
    return excess if side == "max" else -excess
