"""What the sampler is told of a study: everybody with values, measured or estimated, or as running."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from threadpoolctl import threadpool_limits

from dynamoe_search.pruning import Estimate, estimates
from dynamoe_search.records import (
    CandidateRecord,
    Standing,
    Status,
    bytes_per_token,
    language_metrics,
)
from dynamoe_search.search.planner import rung_of
from dynamoe_search.search.references import reference_designs
from dynamoe_search.search.rungs import Rungs
from dynamoe_search.search.sampling import Known, Proposer
from dynamoe_search.search.shadows import Stands
from dynamoe_search.search.space import Space
from dynamoe_search.specs import StudySpec
from dynamoe_search.specs.vocabulary import excess, is_about_loss


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidate:
    """What a candidate tells the samplers, as of its status and epochs."""

    status: Status
    epochs: int
    known: Known
    kind: str  # of router
    final: tuple[float, float] | None  # error and activated parameters, if complete
    bytes_per_token: float | None  # of its text, if complete


class Proposals:
    """Makes proposers for a study, one per cohort.

    A candidate that is paused, pruned or on its way stands in the sampler's study with an estimate of its end, learnt
    from those that went further: a design that looks bad after two epochs teaches as much as one that was bad at the
    end, and one that waits does not keep the sampler away from where it is. If an objective cannot be estimated, such a
    candidate is left out.

    What was told of a candidate holds as long as its status and its epochs do, and is kept: only who has moved since is
    told again.

    Args:
        space: The space of the study.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._num_references = len(reference_designs(space))
        self._by_loss = is_about_loss(space.spec.study.objectives)
        self._told: dict[int, _Candidate] = {}  # by trial
        self._stands = Stands()

    def moved(self, standings: Iterable[Standing]) -> list[int]:
        """Returns the trials of which it does not know where they stand now; tell it of them."""
        told = self._told
        return [
            one.trial
            for one in standings
            if (last := told.get(one.trial)) is None
            or last.epochs != one.epochs
            or last.status != one.status
        ]

    def tell(self, records: Iterable[CandidateRecord]) -> None:
        """Takes note of where candidates stand now."""
        for record in records:
            metrics = _final_metrics(record)
            self._told[record.trial] = _Candidate(
                status=record.status,
                epochs=record.epochs,
                known=Known.of(record, self._space),
                kind=record.candidate.router.kind,
                final=self._final(metrics),
                bytes_per_token=bytes_per_token(metrics)
                if self._by_loss and "bits_per_byte" in metrics
                else None,
            )

    def may_be_drawn_apart(self, num_candidates: int) -> bool:
        """Says whether several may propose at the same time without drawing the same, and whether that is worth it.

        A point of a quasi-random sequence, a generation of NSGA-II and the last designs of a small space are for one.

        Args:
            num_candidates: How many there are.
        """
        is_past_references = num_candidates >= self._num_references
        is_tpe = self._space.spec.search.sampler == "tpe"
        return is_past_references and is_tpe and self._space.size is None

    def proposer(self, rungs: Rungs, who: str = "") -> Proposer:
        """Returns a proposer that knows the candidates of which it was told.

        Args:
            rungs: What they reported.
            who: Tells those apart who propose at the same time.
        """
        candidates = [self._told[trial] for trial in sorted(self._told)]
        expected = self._estimates(candidates, rungs)
        tokens = [one.bytes_per_token for one in candidates if one.bytes_per_token is not None]
        last = tokens[-1] if tokens else None
        spec = self._space.spec
        known = [
            with_estimate(one.known, expected.get(one.known.ordinal), spec, last)
            for one in candidates
        ]
        return Proposer(self._space, sorted(known, key=_ordinal), self._stands, who)

    def _final(self, metrics: Mapping[str, float]) -> tuple[float, float] | None:
        measure = "validation_loss" if self._by_loss else "accuracy"
        if not metrics.keys() >= {measure, "activated_params"}:
            return None
        error = metrics[measure] if self._by_loss else 1.0 - metrics[measure]
        return error, metrics["activated_params"]

    def _estimates(self, candidates: Sequence[_Candidate], rungs: Rungs) -> dict[int, Estimate]:
        finals, standing = {}, {}
        for one in candidates:
            ordinal = one.known.ordinal
            if one.final is not None:
                finals[ordinal] = one.final
            elif one.status in ("paused", "running", "stopped"):
                rung = rung_of(one.epochs, rungs.ladder)
                if rung and ordinal in rungs.records[rung]:
                    standing[ordinal] = rung
        if not standing:
            return {}
        with threadpool_limits(limits=1, user_api="blas"):  # sums depend on the number of threads
            return estimates(
                rungs.by_rung(),
                finals,
                standing,
                epochs=self._space.spec.train.epochs,
                kinds={one.known.ordinal: one.kind for one in candidates},
                highest=math.inf if self._by_loss else 1.0,
            )


def _final_metrics(record: CandidateRecord) -> Mapping[str, float]:
    """Returns what was measured of a candidate at its end, nothing if it did not come to it."""
    if record.status != "complete" or record.outcome is None:
        return {}
    return record.outcome.metrics


def _ordinal(known: Known) -> int:
    return known.ordinal


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
        {  # of what nobody knows yet it counts as kept
            name: excess(name, bound, numbers) or 0.0
            for name, bound in spec.study.constraints.items()
        },
    )
