"""A study with conditions, and made-up values for its designs; run as a script it prints proposals.

python proposing.py NUMBER SAMPLER...
"""

import json
import sys
from functools import cache
from typing import Any

from dynamoe_search.records import to_json
from dynamoe_search.search.sampling import Known, Proposal, Proposer
from dynamoe_search.search.space import Space
from dynamoe_search.seeding import derive_seed
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Addition

COHORT = 4


def conditional_spec(sampler: str, **study: Any) -> StudySpec:
    """A space with three routers, their settings and losses, and three shapes."""
    return StudySpec.model_validate(
        {
            "study": {"name": "conditional", "seed": 3, "references": ["dense", "top-2"], **study},
            "schedule": {
                "shape": ["uniform", "descending", "wave-up"],
                "min_experts": 1,
                "max_experts": {"low": 2, "high": 12},
            },
            "router": {
                "kind": ["top-any", "top-k", "top-p"],
                "k": [1, 2, 3],
                "p": {"low": 0.1, "high": 0.9},
                "threshold": {"low": -1.0, "high": 1.0},
            },
            "losses": {"load_balance": {"low": 0.001, "high": 0.1, "log": True}},
            "train": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
            "search": {"sampler": sampler, "startup_trials": 8, "cohort_size": COHORT},
        }
    )


def finished(proposal: Proposal, space: Space) -> Known:
    """The proposal with made-up values that depend on the design alone; every eleventh has failed."""
    candidate = proposal.candidate
    number = derive_seed(0, 0, candidate.design_hash) / 2**63
    has_failed = candidate.ordinal % 11 == 10
    return Known(
        ordinal=candidate.ordinal,
        params=proposal.params,
        design_hash=candidate.design_hash,
        is_in_space=candidate.reference is None or space.contains(candidate, proposal.params),
        state="failed" if has_failed else "complete",
        values=None if has_failed else (number, float(sum(candidate.experts_per_layer))),
        sampler_state=proposal.sampler_state,
    )


def running(proposal: Proposal, space: Space) -> Known:
    """The proposal while its cohort is still being put together."""
    candidate = proposal.candidate
    return Known(
        ordinal=candidate.ordinal,
        params=proposal.params,
        design_hash=candidate.design_hash,
        is_in_space=candidate.reference is None or space.contains(candidate, proposal.params),
        state="running",
        sampler_state=proposal.sampler_state,
    )


def addition_of(proposal: Proposal, cohort: int) -> Addition:
    """The proposal as it is stored."""
    return Addition(
        candidate=proposal.candidate,
        params=proposal.params,
        distributions=proposal.distributions,
        cohort=cohort,
        sampler_state=proposal.sampler_state,
    )


@cache
def propose_all(sampler: str, number: int, seed: int = 3) -> tuple[Proposal, ...]:
    """The uninterrupted study: one proposer per cohort."""
    space = Space(conditional_spec(sampler, seed=seed))
    known: list[Known] = []
    proposals: list[Proposal] = []
    while len(proposals) < number:
        proposer = Proposer(space, known)
        cohort = [proposal for _ in range(COHORT) if (proposal := proposer.propose())]
        proposals += cohort
        known += [finished(proposal, space) for proposal in cohort]
    return tuple(proposals)


if __name__ == "__main__":
    for name in sys.argv[2:]:
        found = propose_all(name, int(sys.argv[1]))
        sys.stdout.write(json.dumps([to_json(one.candidate) for one in found]) + "\n")
