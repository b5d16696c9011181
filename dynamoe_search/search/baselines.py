"""Plain designs to compare searched ones with: same data, same training, nothing learnt about how many experts to use.

For every set of widths among the searched designs: *dense* (one expert per layer), *top-1* and *top-2* of the largest
layer that the study file allows, trained as the best searched design of these widths is. For every searched design:
*top-k* with the whole numbers next to its measured mean K, and *random-k* with its measured distribution of K, both
with its widths, its experts per layer and its training.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dynamoe_search.confirmation import measure_of
from dynamoe_search.records import (
    Candidate,
    CandidateRecord,
    LayerRouting,
    LossWeights,
    ModelConfig,
    RouterConfig,
    ScheduleConfig,
)
from dynamoe_search.search.references import LOAD_BALANCE, plain_top_k
from dynamoe_search.specs import StudySpec, values_of

_WHOLE = 0.05
"""A mean K so close to a whole number is matched by that number alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """A plain design, and the searched one that it is made for, if it is made for one."""

    name: str
    candidate: Candidate
    of: str | None = None


def baselines(members: Mapping[str, CandidateRecord], spec: StudySpec) -> list[Baseline]:
    """Returns the plain designs for searched ones, equal ones once.

    Args:
        members: Complete candidates by the name of the design.
        spec: Their study; what it measures tells who of equal widths is the best.
    """
    seen = {record.candidate.design_hash for record in members.values()}
    found = []
    for one in (*_common(list(members.values()), spec), *_matched(members)):
        if one.candidate.design_hash not in seen:
            seen.add(one.candidate.design_hash)
            found.append(one)
    return found


def mean_k(routing: Sequence[LayerRouting]) -> float:
    """Returns the mean number of experts per token and layer."""
    return math.fsum(layer.mean_k for layer in routing) / len(routing)


def _common(members: Sequence[CandidateRecord], spec: StudySpec) -> Iterator[Baseline]:
    measure = measure_of(spec.study.objectives)
    best: dict[ModelConfig, CandidateRecord] = {}
    for record in members:
        known = best.setdefault(record.candidate.model, record)
        assert record.outcome is not None
        assert known.outcome is not None
        if measure.gain(measure.of(record.outcome.metrics), measure.of(known.outcome.metrics)) > 0:
            best[record.candidate.model] = record
    words = _distinctions(list(best))
    experts: int = max(values_of(spec.schedule.max_experts))
    for model, record in best.items():
        yield _uniform("dense", words[model], record, 1, RouterConfig(kind="dense"))
        for k in (1, 2):
            if k <= experts:
                yield _uniform(f"top-{k}", words[model], record, experts, plain_top_k(k))


def _uniform(
    name: str, words: str, like: CandidateRecord, experts: int, router: RouterConfig
) -> Baseline:
    layers = like.candidate.model.num_layers
    schedule = ScheduleConfig(shape="uniform", min_experts=experts, max_experts=experts)
    candidate = replace(
        _plain(like, router), schedule=schedule, experts_per_layer=(experts,) * layers
    )
    return Baseline(name=f"{name}{words}", candidate=candidate)


def _matched(members: Mapping[str, CandidateRecord]) -> Iterator[Baseline]:
    for name, record in members.items():
        assert record.outcome is not None
        routing = record.outcome.routing
        for k in _neighbours(mean_k(routing), max(record.experts_per_layer)):
            yield Baseline(
                name=f"top-{k} as {name}", candidate=_plain(record, plain_top_k(k)), of=name
            )
        router = RouterConfig(kind="random-k", histogram=_histogram(routing))
        yield Baseline(name=f"random-k as {name}", candidate=_plain(record, router), of=name)


def _neighbours(mean: float, most: int) -> list[int]:
    """Returns the whole numbers next to a mean, at least 1 and at most the experts of the widest layer."""
    near = round(mean)
    both = [near] if abs(mean - near) < _WHOLE else [math.floor(mean), math.ceil(mean)]
    return list(dict.fromkeys(min(most, max(1, k)) for k in both))


def _histogram(routing: Sequence[LayerRouting]) -> tuple[float, ...]:
    """Returns how often a token used 0, 1, 2, ... experts, averaged over the layers."""
    shares = [[count / sum(layer.k_histogram) for count in layer.k_histogram] for layer in routing]
    longest = max(len(one) for one in shares)
    return tuple(
        math.fsum(one[count] for one in shares if count < len(one)) / len(shares)
        for count in range(longest)
    )


def _plain(like: CandidateRecord, router: RouterConfig) -> Candidate:
    """Returns a design with another router, and the experts that it had at its end for good."""
    is_learnt = router.kind == "top-k"
    return replace(
        like.candidate,
        router=router,
        losses=LossWeights(load_balance=LOAD_BALANCE) if is_learnt else LossWeights(),
        experts_per_layer=tuple(max(1, number) for number in like.experts_per_layer),
        adaptive=None,
        reference=None,
    )


def _distinctions(models: Sequence[ModelConfig]) -> dict[ModelConfig, str]:
    """Returns what to add to a name so that it says which widths it has; nothing if all are the same."""
    facts: list[dict[str, Any]] = [asdict(model) for model in models]
    varied = [name for name in facts[0] if len({one[name] for one in facts}) > 1]
    return {
        model: "".join(f", {name} {_short(one[name])}" for name in varied)
        for model, one in zip(models, facts, strict=True)
    }


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
