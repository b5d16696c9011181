"""Audits end to end: every claim gets an answer, and an audit that was stopped comes to the same ones."""

import json
import math
from pathlib import Path

import pytest

from dynamoe_search.auditing import CLAIMS, FINDINGS
from dynamoe_search.errors import UsageError
from dynamoe_search.search import create_study, run_study
from dynamoe_search.search.audits import (
    Audited,
    AuditRequest,
    audit_study,
    prepare_audit,
)
from dynamoe_search.search.limits import Limits
from dynamoe_search.specs import StudySpec
from dynamoe_search.specs.vocabulary import LOOKS_ACROSS_TOKENS
from dynamoe_search.store import Store
from tests.finished import copy_of, finish

REQUEST = AuditRequest(seeds=2, epochs=3)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a database with the finished study `tiny`; tests copy it."""
    return finish(
        tmp_path_factory.mktemp("parent"),
        router={"kind": "top-any"},
        data={"name": "digits", "max_train": 128},
        train={"epochs": 1, "batch_size": 16},
    )


@pytest.fixture
def url(parent: str, tmp_path: Path) -> str:
    return copy_of(parent, tmp_path / "copy")


def audited(store: Store, request: AuditRequest = REQUEST) -> Audited:
    return audit_study(store, prepare_audit(store, "tiny", request))


@pytest.mark.slow
def test_every_claim_gets_an_answer_from_real_runs(url: str) -> None:
    with Store.open(url) as store:
        planned = prepare_audit(store, "tiny", REQUEST)
        done = audit_study(store, planned)
        assert done.studies == ("tiny.audit", "tiny.audit-2")
        assert (done.failed, done.is_interrupted) == (0, False)
        assert {one.claim for one in done.findings} == set(CLAIMS)
        spent = sum(store.spent(name).epochs for name in done.studies)
        assert spent <= planned.most_epochs
        by_line = {(one.claim, one.subject): one for one in done.findings}
        constant = by_line["variation", "percentile"]
        assert (constant.verdict, constant.effect, constant.high) == ("does not hold", 0.0, 0.0)
        for claim in ("hardness", "gradient", "activated"):
            own = [one for one in done.findings if one.claim == claim]
            assert all(math.isfinite(one.effect) and one.n == 2 for one in own), claim
        assert by_line["settling", "top-any, adaptive"].n == 2
        (stored,) = store.evidence("tiny.audit", FINDINGS)
        assert len(json.loads(stored.content_json)["findings"]) == len(done.findings)
        assert not store.tests("tiny.audit")  # the test part is for others

        legs = [len(store.legs(name)) for name in done.studies]
        evidence = [store.evidence(name) for name in done.studies]
        again = audited(store)
        assert again == done
        assert [len(store.legs(name)) for name in done.studies] == legs
        kept = [[one for one in own if one.kind != FINDINGS] for own in evidence]
        now = [
            [one for one in store.evidence(name) if one.kind != FINDINGS] for name in done.studies
        ]
        assert now == kept  # not even looked at again

        wider = audited(store, AuditRequest(seeds=2, epochs=3, margin=50.0))
        assert wider.studies == done.studies  # a margin is no reason to train
        assert {one.verdict for one in wider.findings if one.claim == "activated"} != {"holds"}


@pytest.mark.slow
def test_an_audit_that_is_stopped_again_and_again_comes_to_the_same_answers(
    url: str, parent: str, tmp_path: Path
) -> None:
    request = AuditRequest(claims=("hardness", "gradient"), seeds=2, epochs=1)
    with Store.open(url) as store:
        whole = audited(store, request)
    interruptions = 0
    calls = 0

    def stops() -> bool:
        nonlocal calls
        calls += 1
        return calls % 45 == 0

    with Store.open(copy_of(parent, tmp_path / "other")) as store:
        while True:
            planned = prepare_audit(store, "tiny", request)
            done = audit_study(store, planned, should_stop=stops)
            if not done.is_interrupted:
                break
            interruptions += 1
            assert interruptions < 100
    assert interruptions > 3
    assert done.findings == whole.findings


def test_bad_requests_are_told_in_a_sentence(url: str) -> None:
    with Store.open(url) as store:
        for request, words in (
            (AuditRequest(claims=("speed",)), "unknown claim 'speed'; use schedule, variation"),
            (AuditRequest(seeds=1), "at least 2 seeds"),
            (AuditRequest(epochs=0), "--epochs must be at least 1"),
            (AuditRequest(margin=0.0), "--margin must be above 0"),
            (AuditRequest(margin=math.nan), "--margin must be above 0"),
        ):
            with pytest.raises(UsageError, match=words):
                prepare_audit(store, "tiny", request)
        with pytest.raises(UsageError, match="no study"):
            prepare_audit(store, "other", REQUEST)
        audited(store, AuditRequest(claims=("settling",), seeds=2, epochs=2))
        with pytest.raises(UsageError, match=r"made by audit; audit the study .* 'tiny'"):
            prepare_audit(store, "tiny.audit", REQUEST)


def test_claims_are_answered_in_their_order_whatever_was_asked(url: str) -> None:
    with Store.open(url) as store:
        request = AuditRequest(claims=("settling", "schedule", "settling"), seeds=2, epochs=2)
        planned = prepare_audit(store, "tiny", request)
        assert planned.plan.claims == ("schedule", "settling")


def test_an_audit_with_a_used_up_budget_says_so_and_judges_nothing(url: str) -> None:
    request = AuditRequest(claims=("hardness",), seeds=2, epochs=1)
    with Store.open(url) as store:
        audit_study(store, prepare_audit(store, "tiny", request), should_stop=lambda: True)
        run_study(store, "tiny.audit", limits=Limits(epochs=2))
        for _ in range(2):
            done = audited(store, request)
            assert (done.is_interrupted, done.findings) == (True, ())
            assert done.studies == ("tiny.audit",)  # no controls from a part of the runs
            assert done.unfinished is not None
            assert "a budget of 2 candidate-epochs" in done.unfinished
            assert store.evidence("tiny.audit") == []
        lifted = int(done.unfinished.split("--epochs ")[1].split("`")[0])
        assert run_study(store, "tiny.audit", limits=Limits(epochs=lifted)).state == "finished"
        assert audited(store, request).findings


@pytest.mark.slow  # some sixty runs
def test_an_audit_of_text_judges_losses_of_tokens(tmp_path: Path) -> None:
    sections = {
        "study": {"name": "words", "objectives": ["perplexity", "activated_params"], "trials": 1},
        "data": {"name": "docs", "sequence_length": 16, "max_train": 64, "max_documents": 40},
        "model": {"backbone": "gpt", "d_model": 16, "num_heads": 2, "num_layers": 2, "d_expert": 8},
        "schedule": {"max_experts": 3},
        "router": {"kind": "top-p"},
        "train": {"epochs": 1, "batch_size": 16, "learning_rate": 0.02},
        "search": {"cohort_size": 1, "pruner": {"kind": "none"}},
    }
    request = AuditRequest(claims=("schedule", "variation", "hardness"), seeds=2)
    with Store.open(f"sqlite:///{tmp_path / 'studies.db'}") as store:
        spec = StudySpec.model_validate(sections)
        create_study(store, spec, source="test", device="cpu", num_threads=1)
        run_study(store, "words")
        planned = prepare_audit(store, "words", request)
        assert planned.plan.is_text
        assert not {*planned.plan.routers} & {*LOOKS_ACROSS_TOKENS}
        done = audit_study(store, planned)
    assert (done.failed, done.is_interrupted) == (0, False)
    lines = {(one.claim, one.subject): one for one in done.findings}
    whole = lines["schedule", "equal total"]
    assert whole.n == 2
    assert "(perplexity " in whole.sentence
    assert "tokens with a higher loss" in lines["hardness", "top-p"].sentence
    assert lines["variation", "percentile"].verdict == "does not hold"
