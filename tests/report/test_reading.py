"""What a report reads agrees with the store; the sentences and the history agree with what was read."""

from collections.abc import Callable

import pytest

from dynamoe_search.pareto import hypervolume
from dynamoe_search.records import StudyRecord
from dynamoe_search.report import findings, history
from dynamoe_search.report.reading import StudyData, axes, read
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from dynamoe_search.store.importance import importances
from tests.report.studies import finished, in_memory


def test_front_is_that_of_the_store(store: Store, data: StudyData) -> None:
    assert [one.trial for one in data.front] == [one.trial for one in store.front("tiny")]
    assert [one.trial for one in data.front] == [1, 0, 2, 3]


def test_cost_is_that_of_the_store(store: Store, data: StudyData) -> None:
    spent = store.spent("tiny")
    assert data.epochs == spent.epochs
    assert data.seconds == pytest.approx(spent.seconds)


def test_hypervolume_ends_where_the_front_is(data: StudyData) -> None:
    moments = history.hypervolumes(data)
    points = [[0.80, 1000.0], [0.70, 500.0], [0.90, 1500.0], [0.95, 4000.0]]
    box = (1 - 0.1) * 5000
    assert moments[-1].hypervolume == pytest.approx(
        hypervolume(points, [True, False], [0.1, 5000.0]) / box
    )
    assert [one.hypervolume for one in moments] == sorted(one.hypervolume for one in moments)
    assert moments[-1].epochs == data.epochs
    assert moments[-1].finished == len(data.finished) == 7


def test_stages_end_with_the_front(data: StudyData) -> None:
    stages = history.stages(data)
    assert [stage.finished for stage in stages] == [2, 4, 5, 7]
    assert [trial for _, _, trial in stages[-1].corners] == [one.trial for one in data.front]


def test_headline_names_best_smallest_and_reference(data: StudyData) -> None:
    text = " ".join(findings.headline(data))
    assert "95.00 %" in text
    assert "4,000 activated parameters (trial 3)" in text
    assert "trial 1: accuracy 70.00 % with 500 activated parameters" in text
    assert "dense, reaches accuracy 80.00 % with 1,000 activated parameters" in text
    assert "trial 2 is at least as good with 1,500 activated parameters (+50 %)" in text


def test_reference_meets_what_costs_no_more(data: StudyData) -> None:
    (row,) = findings.beside_references(data)
    assert row.is_on_front
    assert row.for_its_cost is not None
    assert row.for_its_cost.trial == 1
    assert row.for_its_gain is not None
    assert row.for_its_gain.trial == 2


@pytest.mark.parametrize(
    ("objectives", "expected"),
    [
        (("accuracy", "activated_params"), ("activated_params", "accuracy")),
        (("total_params", "validation_loss"), ("validation_loss", "total_params")),
        (("accuracy",), ("activated_params", "accuracy")),
        (("activated_params",), ("activated_params", "accuracy")),
        (("validation_loss", "activated_params", "accuracy"), ("activated_params", "accuracy")),
    ],
)
def test_axes(objectives: tuple[str, ...], expected: tuple[str, str]) -> None:
    assert axes(objectives) == expected


def test_importance_is_shared_out(store: Store, empty: str) -> None:
    for ordinal in range(16):
        finished(store, empty, ordinal, 0.5 + ordinal / 100, 1000.0 + (ordinal * 7) % 16)
    found = importances(store, empty)
    for objective in ("accuracy", "activated_params"):
        for method in ("fanova", "ped-anova"):
            shares = [
                one.importance
                for one in found
                if (one.objective, one.method) == (objective, method)
            ]
            assert sum(shares) == pytest.approx(1.0)
    assert {one.parameter for one in found} >= {"router.tau", "model.d_model"}
    assert read(store, empty).importances == tuple(found)


def test_few_candidates_say_nothing_about_importance(store: Store, study: str) -> None:
    assert importances(store, study) == []


def test_no_reference_point_is_no_obstacle(
    data: StudyData, tiny_spec: Callable[..., StudySpec]
) -> None:
    record: StudyRecord = data.record
    bare = in_memory(tiny_spec(), 3)
    assert record.settings.reference_point
    assert history.hypervolumes(bare)[-1].hypervolume > 0
