"""Fronts that count candidates which are on their way."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from dynamoe_search.errors import UsageError
from dynamoe_search.records import CandidateRecord, Progress, StudyRecord
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from dynamoe_search.store.so_far import front_so_far
from tests.conftest import TINY
from tests.store.builders import (
    SETTINGS,
    add,
    add_complete,
    candidate,
    complete,
    finish,
    params,
    report,
)

Point = tuple[float, float]


def measured(ordinal: int, epoch: int, accuracy: float, activated: float) -> Progress:
    return replace(report(ordinal, epoch, accuracy), activated_params=activated)


def waits(store: Store, study: str, ordinal: int, *points: Point) -> None:
    """Adds a candidate that has reported these accuracies and activated parameters, epoch by epoch."""
    add(store, study, ordinal)
    reports = [measured(ordinal, epoch, *one) for epoch, one in enumerate(points, start=1)]
    if reports:
        store.add_progress(study, reports)


def test_the_last_report_counts(store: Store, study: str) -> None:
    add_complete(store, study, 0, 0.8, 100)
    waits(store, study, 1, (0.7, 50), (0.6, 40))
    waits(store, study, 2, (0.9, 100), (0.7, 110))  # was better; is beaten now
    waits(store, study, 3)  # has reported nothing
    found = store.front_so_far(study)
    assert [(one.member.trial, one.epochs, one.is_complete) for one in found] == [
        (1, 2, False),
        (0, 3, True),
    ]
    member = found[0].member
    assert member.values == {"accuracy": 0.6, "activated_params": 40}
    assert member.experts_per_layer == (8, 4)
    assert [layer.mean_k for layer in member.routing] == [1.5, 2.0]
    assert [one.trial for one in store.refresh_front(study)] == [0]


def test_it_is_that_of_one_moment(store: Store, study: str) -> None:
    waits(store, study, 0, (0.7, 50))
    with Store.open(store.url) as other:

        def write_between(_: Any, __: Any, statement: str, *___: Any) -> None:
            if "dynamoe_progress" in statement and not others:
                others.append(study)
                add_complete(other, study, 1, 0.8, 40)
                other.add_progress(study, [measured(0, 2, 0.9, 40)])

        others: list[str] = []
        engine = store._database.engine
        sa.event.listen(engine, "before_cursor_execute", write_between)
        found = [store.front_so_far(study)]
        sa.event.remove(engine, "before_cursor_execute", write_between)
    assert others
    found.append(store.front_so_far(study))
    assert [[(one.member.trial, one.epochs) for one in each] for each in found] == [
        [(0, 1)],
        [(0, 2)],
    ]


def test_who_violates_a_constraint_is_left_out(
    store: Store, tiny_spec: Callable[..., StudySpec]
) -> None:
    spec = tiny_spec(study={"constraints": {"max_activated_params": 60, "max_latency_ms": 1}})
    store.create_study(spec, source="tiny.toml", settings=SETTINGS)
    name = spec.study.name
    waits(store, name, 0, (0.9, 61))
    waits(store, name, 1, (0.5, 60))
    assert [one.member.trial for one in store.front_so_far(name)] == [1]


def test_a_bound_on_the_perplexity_counts_before_anybody_is_complete(
    store: Store, tiny_spec: Callable[..., StudySpec]
) -> None:
    """It follows from the loss alone; the length of a token, which only an outcome tells, has no part in it."""
    spec = tiny_spec(
        data={"name": "docs", "sequence_length": 16},
        model={"backbone": "gpt", "num_heads": 2},
        study={
            "objectives": ["validation_loss", "activated_params"],
            "constraints": {"max_perplexity": 10},
        },
    )
    store.create_study(spec, source="tiny.toml", settings=SETTINGS)
    name = spec.study.name
    for ordinal, (loss, size) in enumerate([(2.0, 60), (3.0, 50)]):
        add(store, name, ordinal)
        one = replace(measured(ordinal, 1, 0.5, size), validation_loss=loss)
        store.add_progress(name, [one])
    assert [one.member.trial for one in store.front_so_far(name)] == [0]


def test_a_loss_of_zero_says_nothing_about_the_length_of_a_token(store: Store, study: str) -> None:
    outcome = complete(0, 0.8, 100, validation_loss=0.0, perplexity=1.0, bits_per_byte=0.0)
    finish(store, study, add(store, study, 0), outcome, values=[0.8, 100])
    waits(store, study, 1, (0.7, 50))
    assert [one.member.trial for one in store.front_so_far(study)] == [1, 0]


def test_a_measure_of_the_end_makes_no_front(
    store: Store, tiny_spec: Callable[..., StudySpec]
) -> None:
    spec = tiny_spec(study={"objectives": ["accuracy", "latency_ms"]})
    store.create_study(spec, source="tiny.toml", settings=SETTINGS)
    with pytest.raises(UsageError, match="latency_ms is only known when a training ends"):
        store.front_so_far(spec.study.name)


points = st.lists(
    st.tuples(st.sampled_from([0.5, 0.6, 0.7, 0.8]), st.integers(1, 6)), min_size=1, max_size=8
)


@given(points, st.data())
def test_complete_or_not_makes_no_difference_to_the_front(
    found: list[Point], data: st.DataObject
) -> None:
    """Whoever is on the way has a place exactly if it had one with these numbers at its end."""
    statuses = data.draw(
        st.lists(
            st.sampled_from(["complete", "paused", "running"]),
            min_size=len(found),
            max_size=len(found),
        )
    )
    records, reports = [], []
    for ordinal, (point, status) in enumerate(zip(found, statuses, strict=True)):
        done = status == "complete"
        records.append(
            CandidateRecord(
                trial=10 - ordinal,
                ordinal=ordinal,
                cohort=0,
                candidate=candidate(ordinal),
                params=params(ordinal),
                status=status,  # type: ignore[arg-type]
                created_at="",
                outcome=complete(ordinal, *point) if done else None,
                values=dict(zip(OBJECTIVES, point, strict=True)) if done else None,
            )
        )
        reports += [measured(ordinal, 1, 0.99, 1), measured(ordinal, 2, *point)]
    front = [one.member for one in front_so_far(STUDY, records, reports)]
    expected = {
        10 - ordinal
        for ordinal, (accuracy, size) in enumerate(found)
        if not any(a >= accuracy and s <= size and (a, s) != (accuracy, size) for a, s in found)
    }
    assert {one.trial for one in front} == expected
    order = [(one.values["activated_params"], one.trial) for one in front]
    assert order == sorted(order)


OBJECTIVES = ("accuracy", "activated_params")
STUDY = StudyRecord(
    name="some",
    spec_json=StudySpec.model_validate(TINY).model_dump_json(),
    source="",
    settings=SETTINGS,
    objectives=OBJECTIVES,
    maximise=(True, False),
    state="running",
    trials=8,
    created_at="",
    updated_at="",
)
