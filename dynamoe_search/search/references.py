"""Reference designs: the well-known ones that a study trains first, for comparison.

    dense    one expert per layer that every token uses: as many activated parameters as top-1
    top-1    a uniform schedule at the space's largest expert count, softmax over all experts
    top-2    the same with two experts per token, softmax over the two
    uniform  the study's first router kind on a uniform schedule: what the shapes are compared with

Everything else takes its fixed value, the middle of its range or of its numbers, or the first of its names. `dense`,
top-1 and top-2 are plain: no noise, no bias, temperature 1, and a load-balance weight of 0.01 for the last two.

Source: Fedus et al., 2021, arXiv:2101.03961 (top-1, weight 0.01); Shazeer et al., 2017,
arXiv:1701.06538 (top-2).
"""

import dataclasses
from typing import Any

from dynamoe_search.records import Candidate, RouterConfig
from dynamoe_search.search.designs import KIND, SHAPE, Params, build_candidate, decide
from dynamoe_search.search.distributions import lies_in, middle_value
from dynamoe_search.search.space import Space
from dynamoe_search.specs import StudySpec, values_of

LOAD_BALANCE = 0.01
"""Weight of the load-balance loss of top-1 and top-2."""


def plain_top_k(k: int) -> RouterConfig:
    """Returns top-k without noise and bias, at temperature 1.

    The softmax is over all experts for k = 1, where one over the chosen would be 1 and learn nothing.
    """
    order = "before" if k == 1 else "after"
    return RouterConfig(kind="top-k", k=k, softmax=order, temperature=1.0, noise=0.0, bias_rate=0.0)


def _plain(k: int) -> Params:
    router = plain_top_k(k)
    names = ("kind", "k", "softmax", "temperature", "noise", "bias_rate")
    own = {f"router.{name}": getattr(router, name) for name in names}
    return own | {"losses.load_balance": LOAD_BALANCE}


_ROUTERS: dict[str, Params] = {
    "dense": {KIND: "dense"},
    "top-1": _plain(1),
    "top-2": _plain(2),
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceDesign:
    """A reference design and those of its values that the space could have proposed."""

    candidate: Candidate
    params: Params


def reference_designs(space: Space) -> list[ReferenceDesign]:
    """Returns the study's reference designs in its order, numbered from 0, equal ones once."""
    designs: list[ReferenceDesign] = []
    seen: set[str] = set()
    for name in space.spec.study.references:
        spec = _without_total(space.spec) if name == "dense" else space.spec
        values = _values(name, spec)
        candidate = build_candidate(values, spec, len(designs), reference=name)
        if candidate.design_hash not in seen:
            seen.add(candidate.design_hash)
            designs.append(ReferenceDesign(candidate=candidate, params=_params_in(space, values)))
    return designs


def _values(name: str, spec: StudySpec) -> Params:
    fixed = _ROUTERS.get(name)

    def pick(path: str, value: Any) -> Any:
        if path == SHAPE:
            return "uniform"
        if fixed is None:
            return middle_value(value)
        if path in fixed:
            return fixed[path]
        if path == "schedule.max_experts":
            return 1 if name == "dense" else max(values_of(value))
        if path == "schedule.total_experts":
            return max(values_of(value))
        return 0.0 if path.startswith("losses.") else middle_value(value)

    return decide(spec, pick)


def _without_total(spec: StudySpec) -> StudySpec:
    """A dense design has one expert per layer, whatever the others' total is."""
    schedule = spec.schedule.model_copy(update={"match": "max", "total_experts": None})
    return spec.model_copy(update={"schedule": schedule})


def _params_in(space: Space, values: Params) -> Params:
    """The values that the space could have proposed; an Optuna trial has no place for others."""
    return {
        path: value
        for path, value in values.items()
        if path in space.distributions and lies_in(space.distributions[path], value)
    }
