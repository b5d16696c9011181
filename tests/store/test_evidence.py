"""Designed studies in the database: where they come from, what they found out, how they go."""

import math
from dataclasses import replace

import pytest

from dynamoe_search.errors import UsageError
from dynamoe_search.records import Evidence, TestResult
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from tests.store.builders import SETTINGS, add

RESULT = TestResult(
    trial=0, examples=360, accuracy=0.9, loss=0.25, activated_params=123.5, mean_k=(1.5, 2.0)
)


def make(store: Store, name: str, **origin: str) -> str:
    spec = StudySpec.model_validate({"study": {"name": name}})
    store.create_study(spec, source="x", settings=SETTINGS, **origin)  # type: ignore[arg-type]
    return name


def test_study_is_a_search_unless_it_says_otherwise(store: Store) -> None:
    make(store, "plain")
    make(store, "plain.confirm", parent="plain", purpose="confirm", plan_json='{"seeds": 5}')
    plain, child = store.study("plain"), store.study("plain.confirm")
    assert (plain.parent, plain.purpose, plain.plan_json) == (None, "search", None)
    assert (child.parent, child.purpose, child.plan_json) == ("plain", "confirm", '{"seeds": 5}')
    assert store.children("plain") == ["plain.confirm"]
    assert store.children("plain.confirm") == []


def test_exhausted_space_is_remembered(store: Store) -> None:
    make(store, "plain")
    assert store.study("plain").exhausted_at is None
    store.set_exhausted("plain", 0)
    assert store.study("plain").exhausted_at == 0
    store.set_exhausted("plain", None)
    assert store.study("plain").exhausted_at is None


def test_test_results_come_back_and_are_replaced(store: Store) -> None:
    name = make(store, "plain")
    assert store.tests(name) == []
    trials = [add(store, name, ordinal) for ordinal in range(2)]
    store.add_tests(name, [])
    store.add_tests(name, [replace(RESULT, trial=trial) for trial in reversed(trials)])
    store.add_tests(name, [replace(RESULT, trial=trials[1], accuracy=0.5, loss=math.nan)])
    first, second = store.tests(name)
    assert replace(first, measured_at="") == RESULT
    assert first.measured_at.startswith("20")
    assert (second.trial, second.accuracy) == (trials[1], 0.5)
    assert math.isnan(second.loss)


def test_evidence_comes_back_by_kind(store: Store) -> None:
    name = make(store, "plain")
    trial = add(store, name, 0)
    store.add_evidence(name, trial, "variance", "[1]")
    store.add_evidence(name, trial, "k", "[2]")
    store.add_evidence(name, trial, "variance", "[3]")
    found = [(one.trial, one.kind, one.content_json) for one in store.evidence(name)]
    assert found == [(trial, "k", "[2]"), (trial, "variance", "[3]")]
    (one,) = store.evidence(name, "k")
    assert isinstance(one, Evidence)
    with pytest.raises(UsageError, match="no study"):
        store.evidence("other")


def test_study_goes_with_its_children_and_their_rows(store: Store) -> None:
    make(store, "plain")
    child = make(store, "plain.audit", parent="plain", purpose="audit")
    other = make(store, "other")
    for name in (child, other):
        trial = add(store, name, 0)
        store.add_tests(name, [replace(RESULT, trial=trial)])
        store.add_evidence(name, trial, "k", "1")
    store.files_of(child).mkdir(parents=True)
    store.delete_study("plain")
    assert [one.name for one in store.studies()] == ["other"]
    assert not store.files_of(child).exists()
    assert len(store.tests(other)) == len(store.evidence(other)) == 1
    make(store, child)
    assert store.tests(child) == store.evidence(child) == []
