"""Proposals: deterministic, the same after a resume, never twice the same design."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from dynamoe_search.records import StudySettings, to_json
from dynamoe_search.search.sampling import Known, Proposer
from dynamoe_search.search.space import Space
from dynamoe_search.specs.vocabulary import SamplerKind
from dynamoe_search.store import Store

SAMPLERS = get_args(SamplerKind)
SCRIPT = Path(__file__).with_name("proposing.py")


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("proposing", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


helpers = _load()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_rebuilt_before_every_proposal_proposes_the_same(sampler: str) -> None:
    space = Space(helpers.conditional_spec(sampler))
    expected = helpers.propose_all(sampler, 24)
    for index, proposal in enumerate(expected):
        begin = index // helpers.COHORT * helpers.COHORT
        known = [helpers.finished(one, space) for one in expected[:begin]]
        known += [helpers.running(one, space) for one in expected[begin:index]]
        again = Proposer(space, known).propose()
        assert again is not None
        assert again.candidate == proposal.candidate
        assert again.params == proposal.params
        assert again.sampler_state == proposal.sampler_state


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_the_database_gives_back_leads_to_the_same_proposals(
    sampler: str, storage_url: str
) -> None:
    spec = helpers.conditional_spec(sampler)
    expected = helpers.propose_all(sampler, 24)[:20]
    space = Space(spec)
    settings = StudySettings(
        device="cpu", num_slots=12, expert_backend="grouped", num_threads=1, cohort_size=4
    )
    with Store.open(storage_url) as store:
        store.create_study(spec, source="test", settings=settings)
        for proposal in expected[:18]:
            cohort = proposal.candidate.ordinal // helpers.COHORT
            store.add_candidates(spec.study.name, [helpers.addition_of(proposal, cohort)])
        records = store.candidates(spec.study.name)
    stored = [Known.of(record, space) for record in records]
    assert stored == [helpers.running(proposal, space) for proposal in expected[:18]]
    known = [helpers.finished(one, space) for one in expected[:16]] + stored[16:]
    proposer = Proposer(space, known)
    for proposal in expected[18:]:
        again = proposer.propose()
        assert again is not None
        assert again.candidate == proposal.candidate


def test_another_process_with_another_hash_seed_proposes_the_same() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "16", *SAMPLERS],
        env={**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    for sampler, line in zip(SAMPLERS, done.stdout.splitlines(), strict=True):
        here = helpers.propose_all(sampler, 24)[:16]
        assert json.loads(line) == [to_json(proposal.candidate) for proposal in here]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_designs_are_new_and_ordinals_count_them(sampler: str) -> None:
    proposals = helpers.propose_all(sampler, 24)
    assert [proposal.candidate.ordinal for proposal in proposals] == list(range(24))
    assert len({proposal.candidate.design_hash for proposal in proposals}) == 24
    references = [proposal.candidate.reference for proposal in proposals[:3]]
    assert references == ["dense", "top-2", None]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_another_seed_proposes_other_designs(sampler: str) -> None:
    one = helpers.propose_all(sampler, 8)[2:]
    other = helpers.propose_all(sampler, 8, 4)[2:]
    assert not {proposal.candidate.design_hash for proposal in one} & {
        proposal.candidate.design_hash for proposal in other
    }


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_small_space_is_emptied_and_then_exhausted(sampler: str) -> None:
    spec = helpers.conditional_spec(sampler, references=[]).model_dump()
    spec["train"]["learning_rate"] = 0.001
    spec["losses"]["load_balance"] = 0.0
    spec["router"] = {"kind": ("top-k", "dense"), "k": (1, 2, 3)}
    spec["schedule"]["shape"] = "uniform"
    small = Space(type(helpers.conditional_spec(sampler)).model_validate(spec))
    assert small.size == 44
    proposer = Proposer(small)
    found = []
    while (proposal := proposer.propose()) is not None:
        found.append(proposal.candidate.design_hash)
    assert len(found) == len(set(found))
    assert len(found) >= 40  # the last few may be missed by the draws
    assert proposer.propose() is None


def test_tpe_learns() -> None:
    """After 60 designs whose value is their distance from 3 experts, it proposes narrow ones."""
    spec = helpers.conditional_spec("tpe", references=[])
    space = Space(spec)
    known: list[Known] = []
    widths = []
    for _ in range(15):
        proposer = Proposer(space, known)
        for _ in range(4):
            proposal = proposer.propose()
            assert proposal is not None
            width = proposal.params["schedule.max_experts"]
            widths.append(width)
            values = (-abs(width - 3.0), float(abs(width - 3)))
            known.append(
                Known(
                    ordinal=proposal.candidate.ordinal,
                    params=proposal.params,
                    design_hash=proposal.candidate.design_hash,
                    is_in_space=True,
                    state="complete",
                    values=values,
                )
            )
    assert sum(abs(width - 3) for width in widths[-20:]) < sum(
        abs(width - 3) for width in widths[:20]
    )


def test_tpe_avoids_what_violates_a_constraint() -> None:
    """Wide designs are the better ones; with the constraint, more than 5 experts are not allowed."""
    spec = helpers.conditional_spec("tpe", references=[], objectives=["accuracy"])
    space = Space(spec)
    num_narrow = {}
    for is_constrained in (False, True):
        known: list[Known] = []
        for _ in range(40):
            proposal = Proposer(space, known).propose()
            assert proposal is not None
            width = proposal.params["schedule.max_experts"]
            known.append(
                Known(
                    ordinal=proposal.candidate.ordinal,
                    params=proposal.params,
                    design_hash=proposal.candidate.design_hash,
                    is_in_space=True,
                    state="complete",
                    values=(float(width),),
                    violations={"max_total_params": width - 5.0} if is_constrained else {},
                )
            )
        widths = [one.params["schedule.max_experts"] for one in known[-20:]]
        num_narrow[is_constrained] = sum(width <= 5 for width in widths)
    assert num_narrow[True] > 2 * num_narrow[False] + 2
