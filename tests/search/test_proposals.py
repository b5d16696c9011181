"""One that proposes for a whole study, told only of who has moved, proposes what one does that is told everything."""

import random
from dataclasses import replace

import pytest

from dynamoe_search.pruning import RungRecord
from dynamoe_search.records import CandidateRecord, Outcome, Progress, Standing, Status
from dynamoe_search.search.proposals import Proposals
from dynamoe_search.search.rungs import Rungs
from dynamoe_search.search.sampling import Proposal
from dynamoe_search.search.space import Space
from dynamoe_search.specs import PrunerSection
from tests.search.proposing import COHORT, conditional_spec

EPOCHS = 4


class Study:
    """Candidates in memory that are trained further, or end, by lot.

    Args:
        sampler: Of the study.
        seed: Of what becomes of candidates.
    """

    def __init__(self, sampler: str, seed: int) -> None:
        spec = conditional_spec(sampler)
        train = spec.train.model_copy(update={"epochs": EPOCHS})
        self.space = Space(spec.model_copy(update={"train": train}))
        self.draw = random.Random(seed)
        self.records: dict[int, CandidateRecord] = {}
        self.rungs = Rungs(PrunerSection(kind="pareto", rungs=(1, 2)), EPOCHS)

    def add(self, proposal: Proposal) -> None:
        ordinal = proposal.candidate.ordinal
        self.records[ordinal] = CandidateRecord(
            trial=ordinal + 3,
            ordinal=ordinal,
            cohort=ordinal // COHORT,
            candidate=proposal.candidate,
            params=proposal.params,
            status="running",
            created_at="",
            sampler_state=proposal.sampler_state,
        )

    def standings(self) -> list[Standing]:
        return [_standing(one) for one in self.records.values()]

    def go_on(self) -> None:
        """Trains some of those that are not over."""
        for ordinal, one in self.records.items():
            if one.status in ("running", "paused") and self.draw.random() < 0.7:
                self.records[ordinal] = self._moved(one)
                reports = [_report(ordinal, epoch) for epoch in range(1, EPOCHS + 1)]
                self.rungs.take(_standing(self.records[ordinal]), reports)

    def _moved(self, one: CandidateRecord) -> CandidateRecord:
        lot = self.draw.random()
        if lot < 0.1:
            return replace(one, status="failed", outcome=_outcome(one.ordinal, "failed"))
        if one.epochs in (1, 2) and lot < 0.2:
            return replace(one, status="stopped", outcome=_outcome(one.ordinal, "stopped"))
        if lot < 0.6 or one.epochs < 2:
            status: Status = "paused" if lot < 0.5 or one.status == "running" else "running"
            return replace(one, status=status, epochs=min(2, one.epochs + 1))
        outcome = _outcome(one.ordinal, "complete")
        values = {name: outcome.metrics[name] for name in ("accuracy", "activated_params")}
        return replace(one, status="complete", epochs=EPOCHS, outcome=outcome, values=values)


def _standing(one: CandidateRecord) -> Standing:
    return Standing(
        trial=one.trial,
        ordinal=one.ordinal,
        cohort=one.cohort,
        status=one.status,
        epochs=one.epochs,
        checkpoint=None,
        pack_key="",
        reference=one.candidate.reference,
    )


def _report(ordinal: int, epoch: int) -> Progress:
    error = 0.2 + 0.5 / epoch + ordinal * 37 % 11 / 40
    return Progress(
        ordinal=ordinal,
        epoch=epoch,
        train_loss=error,
        validation_loss=error,
        accuracy=1 - error,
        activated_params=100.0 + ordinal * 53 % 17,
        mean_k_per_layer=(1.0,),
        experts_per_layer=(2,),
        seconds=0.0,
    )


def _outcome(ordinal: int, status: str) -> Outcome:
    last = _report(ordinal, EPOCHS)
    return Outcome(
        ordinal=ordinal,
        status=status,  # type: ignore[arg-type]
        epochs=EPOCHS,
        seconds=0.0,
        metrics={"accuracy": last.accuracy, "activated_params": last.activated_params},
    )


def _cohort(proposals: Proposals, study: Study) -> list[Proposal]:
    moved = set(proposals.moved(study.standings()))
    proposals.tell(one for one in study.records.values() if one.trial in moved)
    assert proposals.moved(study.standings()) == []
    proposer = proposals.proposer(study.rungs)
    return [one for _ in range(COHORT) if (one := proposer.propose()) is not None]


@pytest.mark.parametrize(("sampler", "seed"), [("tpe", 0), ("tpe", 1), ("nsga2", 2), ("qmc", 3)])
def test_who_was_told_bit_by_bit_proposes_the_same(sampler: str, seed: int) -> None:
    study = Study(sampler, seed)
    lasting = Proposals(study.space)
    for _ in range(8):
        expected = _cohort(Proposals(study.space), study)
        assert _cohort(lasting, study) == expected
        for proposal in expected:
            study.add(proposal)
        study.go_on()
    found = {one.status for one in study.records.values()}
    assert found >= {"complete", "paused", "stopped", "failed"}
    assert any(isinstance(one, RungRecord) for one in study.rungs.records[2].values())
