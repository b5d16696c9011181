"""What a confirmation found: designs trained again with fresh seeds and measured on the test part. No torch, no SQL.

From plain rows to claims: a mean with its interval for every design, what each gains on the best plain design of its
size, which members of the front are left once chance is taken into account, and whether a ranking of small designs
holds for larger ones.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from dynamoe_search.confirmation.measures import ACCURACY, Measure
from dynamoe_search.intervals import (
    Agreement,
    Difference,
    Interval,
    holm,
    mean_interval,
    paired_difference,
    rank_agreement,
    split_agreement,
)
from dynamoe_search.records import CandidateRecord, TestResult

MORE_PARAMS = 1.05
"""A plain design may use so many times the activated parameters of the design that it is compared with."""
ALPHA = 0.05
LEAST_VALUES = 3
"""Values that an interval needs here: that of two is 12.7 standard errors to each side, and says nothing."""
PLAIN_ROUTERS = ("dense", "top-k", "random-k")
CARRIES = 0.5
"""Kendall's tau from which a ranking carries over: three of four pairs stand in the same order."""

Kind = Literal["member", "baseline"]
Answer = Literal["yes", "no", "not decided"]
_Estimate = TypeVar("_Estimate", Interval, Difference)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One run: a design with one seed."""

    design: str
    kind: Kind
    is_plain: bool  # every token gets the same number of experts, or one at random
    replicate: int
    test: float  # a value of the study's measure, see `measures`
    validation: float
    activated_params: float  # on the test part
    examples: int  # of the test part; of text, its tokens
    is_text: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class DesignResult:
    """What a design reaches over its seeds."""

    design: str
    kind: Kind
    is_plain: bool
    test: Interval
    validation: float
    activated_params: float
    missing: int  # seeds that failed
    searched: float | None = None  # what the search found with its one seed, on the validation part


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """What a member of the front gains on the best plain design with at most 1.05 times its activated parameters.

    The plain design is chosen on the validation part, so the test part has no say in who is compared; with each seed by
    what the other seeds say (see `_gain`). `baseline` is the best over all seeds.
    """

    design: str
    baseline: str | None  # None if there is none of that size
    difference: Difference | None
    answer: Answer  # whether it is better
    num_rivals: int = 0  # plain designs that it was compared with, one with each seed


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Whether a member stays on the front.

    Its rivals are all designs, plain ones too, with at most its activated parameters. `stays`: none of them is better
    in the mean. `within noise`: one is, but that may be chance. `beaten`: one is, and that is not chance; corrected for
    the number of rivals, so that a member is called beaten wrongly in at most 5 of 100 confirmations. `open`: one is,
    and there are too few seeds to say more.
    """

    design: str
    verdict: Literal["stays", "within noise", "beaten", "open"]
    by: str | None = None
    difference: Difference | None = None  # what the other one gains on it
    p: float | None = None  # corrected for the number of rivals, by Holm


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmation:
    """All that one set of runs says; of a single design there are neither gains nor places."""

    designs: tuple[DesignResult, ...]  # by activated parameters
    gains: tuple[Gain, ...]
    places: tuple[Place, ...]
    seeds: int
    examples: int
    measure: Measure = ACCURACY
    is_text: bool = False  # so that the examples are tokens
    lost: tuple[str, ...] = ()  # designs of which no seed came to its end


@dataclass(frozen=True, kw_only=True, slots=True)
class Carrying:
    """Whether the ranking of the designs is the same when all are scaled up.

    `no` needs more than a low agreement: where designs do not differ beyond chance, no two rankings agree. So it also
    has to lie below what the two halves of the seeds agree at either scale.
    """

    factor: int
    by: str
    agreement: Agreement
    answer: Answer
    kept: int  # members that leave the front neither small nor scaled up
    members: int
    within: tuple[float, float]  # tau between halves of the seeds: at the own scale, and scaled up


def planned(plan_json: str) -> list[str]:
    """Returns the names of all designs of a confirmation, from `StudyRecord.plan_json`."""
    return list(json.loads(plan_json)["designs"])


def measured(
    records: Iterable[CandidateRecord],
    tests: Iterable[TestResult],
    plan_json: str,
    measure: Measure,
) -> list[Measured]:
    """Returns the runs of a confirmation that were measured on the test part, by trial number.

    Args:
        records: Candidates of the designed study.
        tests: What was measured of them.
        plan_json: `StudyRecord.plan_json`, which knows the designs.
        measure: What the study compares.
    """
    known = json.loads(plan_json)["designs"]
    results = {one.trial: one for one in tests}
    found = []
    for record in records:
        result, outcome = results.get(record.trial), record.outcome
        if result is None or outcome is None:
            continue
        design = str(record.params["design"])
        found.append(
            Measured(
                design=design,
                kind=known[design]["kind"],
                is_plain=record.candidate.router.kind in PLAIN_ROUTERS,
                replicate=int(record.params["replicate"]),
                test=measure.of_test(result.accuracy, result.loss, outcome.metrics),
                validation=measure.of(outcome.metrics),
                activated_params=result.activated_params,
                examples=result.examples,
                is_text="perplexity" in outcome.metrics,
            )
        )
    return found


def confirmation(
    runs: Sequence[Measured],
    *,
    seeds: int,
    measure: Measure = ACCURACY,
    asked: Iterable[str] = (),
    searched: Mapping[str, float] | None = None,
) -> Confirmation:
    """Returns what the runs of all designs say.

    Args:
        runs: Those that came to their end.
        seeds: Replicates that were asked for.
        measure: What the values of the runs are.
        asked: Designs that were asked for; of some no run may have come to its end.
        searched: What the search found on the validation part, by design.
    """
    by_design: dict[str, dict[int, Measured]] = defaultdict(dict)
    for run in runs:
        by_design[run.design][run.replicate] = run
    examples = max((run.examples for run in runs), default=0)
    step = measure.resolution(examples)
    designs = sorted(
        (
            replace(_result(name, found, seeds, step), searched=(searched or {}).get(name))
            for name, found in by_design.items()
        ),
        key=lambda one: (one.activated_params, one.design),
    )
    sides = _Sides(runs=by_design, measure=measure, step=step)
    members = [one for one in designs if one.kind == "member" and len(designs) > 1]
    return Confirmation(
        designs=tuple(designs),
        gains=tuple(_gain(one, designs, sides) for one in members),
        places=tuple(_place(one, designs, sides) for one in members),
        seeds=seeds,
        examples=examples,
        measure=measure,
        is_text=any(run.is_text for run in runs),
        lost=tuple(name for name in asked if name not in by_design),
    )


def carrying(
    small: Sequence[Measured],
    large: Sequence[Measured],
    *,
    factor: int,
    by: str,
    seeds: int,
    measure: Measure = ACCURACY,
) -> Carrying:
    """Returns whether the ranking of the designs on the test part carries over to a larger scale.

    Designs that lack a seed at either scale are left out.

    Args:
        small: The runs at the study's own scale.
        large: The same designs, scaled up.
        factor: By how much.
        by: In what: `width` or `epochs`.
        seeds: Replicates of each.
        measure: What the values of the runs are; a ranking is the same whichever way better is.
    """
    tables = [_complete(runs, seeds) for runs in (small, large)]
    names = [name for name in tables[0] if name in tables[1]]
    if len(names) < 2:
        agreement = Agreement(tau=math.nan, low=math.nan, high=math.nan, number=len(names))
    else:
        agreement = rank_agreement(*([table[name] for name in names] for table in tables))
    small_within, large_within = (
        split_agreement([table[name] for name in names]) if names else math.nan for table in tables
    )
    within = (small_within, large_within)
    places = [confirmation(runs, seeds=seeds, measure=measure).places for runs in (small, large)]
    left = [{one.design for one in found if one.verdict != "beaten"} for found in places]
    return Carrying(
        factor=factor,
        by=by,
        agreement=agreement,
        answer=_decided(
            seeds >= LEAST_VALUES and agreement.low > CARRIES,
            seeds >= LEAST_VALUES and all(agreement.high < one for one in (CARRIES, *within)),
        ),
        within=within,
        kept=len(left[0] & left[1]),
        members=len(places[0]),
    )


def _complete(runs: Sequence[Measured], seeds: int) -> dict[str, list[float]]:
    """Returns the test value with each seed of every design that has them all."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for run in runs:
        found[run.design][run.replicate] = run.test
    return {
        name: [values[replicate] for replicate in sorted(values)]
        for name, values in sorted(found.items())
        if len(values) == seeds
    }


def _decided(is_so: bool, is_not_so: bool) -> Answer:
    return "yes" if is_so else "no" if is_not_so else "not decided"


def _if_enough(found: _Estimate) -> _Estimate:
    """Returns an interval, or the mean alone if too few values stand behind it: then nothing is certain."""
    if found.number >= LEAST_VALUES:
        return found
    open_ends = replace(found, low=math.nan, high=math.nan)
    return replace(open_ends, p=1.0) if isinstance(open_ends, Difference) else open_ends


def _result(name: str, found: Mapping[int, Measured], seeds: int, step: float) -> DesignResult:
    runs = [found[replicate] for replicate in sorted(found)]
    return DesignResult(
        design=name,
        kind=runs[0].kind,
        is_plain=runs[0].is_plain,
        test=_if_enough(mean_interval([run.test for run in runs], resolution=step)),
        validation=math.fsum(run.validation for run in runs) / len(runs),
        activated_params=math.fsum(run.activated_params for run in runs) / len(runs),
        missing=seeds - len(runs),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sides:
    """The runs of all designs by replicate, and how two of them are compared."""

    runs: Mapping[str, Mapping[int, Measured]]
    measure: Measure
    step: float  # of the scale that the values are read from

    def ahead(self, first: str, second: str) -> Difference:
        """Returns the gain of the first design on the second, over the seeds that both have."""
        one, other = self.runs[first], self.runs[second]
        shared = sorted(one.keys() & other.keys())
        return self.gain([(one[replicate], other[replicate]) for replicate in shared])

    def gain(self, pairs: Sequence[tuple[Measured, Measured]]) -> Difference:
        """Returns by how much the first runs are better than the second ones, pair by pair."""
        gains = [self.measure.gain(one.test, other.test) for one, other in pairs]
        return _if_enough(paired_difference(gains, [0.0] * len(gains), resolution=self.step))

    def best(self, some: Sequence[DesignResult], without: int | None = None) -> DesignResult:
        """Returns the design with the best mean on the validation part over the seeds, one of them left out."""

        def score(one: DesignResult) -> tuple[float, float]:
            found = self.runs[one.design]
            values = [
                self.measure.gain(run.validation, 0.0) for r, run in found.items() if r != without
            ]
            mean = math.fsum(values) / len(values) if values else -math.inf
            return mean, -one.activated_params

        return max(some, key=score)


def _gain(member: DesignResult, designs: Sequence[DesignResult], sides: _Sides) -> Gain:
    """Compares a member with the best plain design of its size, seed by seed.

    With each seed, the rival is the plain design that is best on the validation part with the other seeds. Otherwise
    the best of many would be one that was lucky with its seeds, and its luck would count as the member's fault.
    """
    small = [
        one
        for one in designs
        if one.is_plain
        and one.design != member.design
        and one.activated_params <= MORE_PARAMS * member.activated_params
    ]
    own = sides.runs[member.design]
    pairs, chosen = [], set()
    for replicate in sorted(own):
        rivals = [one for one in small if replicate in sides.runs[one.design]]
        if rivals:
            best = sides.best(rivals, without=replicate).design
            pairs.append((own[replicate], sides.runs[best][replicate]))
            chosen.add(best)
    if not pairs:
        return Gain(design=member.design, baseline=None, difference=None, answer="not decided")
    difference = sides.gain(pairs)
    return Gain(
        design=member.design,
        baseline=sides.best(small).design,
        difference=difference,
        answer=_decided(difference.low > 0, difference.high < 0),
        num_rivals=len(chosen),
    )


def _place(member: DesignResult, designs: Sequence[DesignResult], sides: _Sides) -> Place:
    """Compares a member with everybody who uses no more parameters, corrected for how many they are."""
    smaller = [
        other.design
        for other in designs
        if other.design != member.design and other.activated_params <= member.activated_params
    ]
    differences = [sides.ahead(other, member.design) for other in smaller]
    corrected = holm([one.p for one in differences])
    ahead = [
        (p, -difference.mean, other, difference)
        for other, difference, p in zip(smaller, differences, corrected, strict=True)
        if difference.mean > 0
    ]
    if not ahead:
        return Place(design=member.design, verdict="stays")
    p, _, other, difference = min(ahead, key=lambda item: item[:3])
    verdict: Literal["beaten", "within noise", "open"] = "beaten" if p < ALPHA else "within noise"
    if difference.number < LEAST_VALUES:
        verdict = "open"
    return Place(design=member.design, verdict=verdict, by=other, difference=difference, p=p)
