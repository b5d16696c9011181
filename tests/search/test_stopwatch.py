"""Where the time of a run goes: real studies, whose activities add up to the run."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from dynamoe_search.search import EpochFinished, StudySummary, create_study, run_study
from dynamoe_search.search.stopwatch import ACTIVITIES, Stopwatch
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store

MakeSpec = Callable[..., StudySpec]
SECTIONS: dict[str, Any] = {
    "model": {"d_model": 8},
    "router": {"kind": "top-k"},
    "schedule": {"max_experts": {"low": 2, "high": 6}},
    "train": {"epochs": 4},
    "search": {"cohort_size": 3, "pruner": {"kind": "pareto", "min_records": 2}},
}


def run(store: Store, spec: StudySpec, trials: int) -> StudySummary:
    study = spec.study.model_copy(update={"trials": trials})
    if not store.studies():
        own = spec.model_copy(update={"study": study})
        create_study(store, own, source="test", device="cpu", num_threads=1)
    return run_study(store, spec.study.name)


def test_activities_of_a_run_add_up_to_it(tiny_spec: MakeSpec, storage_url: str) -> None:
    spec = tiny_spec(**SECTIONS)
    with Store.open(storage_url) as store:
        begin = time.perf_counter()
        summary = run(store, spec, 6)
        elapsed = time.perf_counter() - begin
        assert tuple(summary.times) == ACTIVITIES
        assert all(seconds >= 0 for seconds in summary.times.values())
        for activity in ("train", "evaluate", "prune", "sample", "store"):
            assert summary.times[activity] > 0, activity
        assert 0.5 * summary.seconds < sum(summary.times.values()) <= elapsed


def test_status_has_the_times_of_all_runs(tiny_spec: MakeSpec, storage_url: str) -> None:
    spec = tiny_spec(**SECTIONS)
    with Store.open(storage_url) as store:
        first = run(store, spec, 3)
        kept = store.times(spec.study.name)
        assert kept.keys() == set(ACTIVITIES)
        assert kept["train"] == pytest.approx(first.times["train"], abs=0.01)
        store.set_trials(spec.study.name, 6)
        second = run(store, spec, 6)
        total = store.times(spec.study.name)
        both = first.times["train"] + second.times["train"]
        assert total["train"] == pytest.approx(both, abs=0.02)


def test_times_of_a_leg_that_was_cut_short_are_kept(tiny_spec: MakeSpec, storage_url: str) -> None:
    one_leg = {"search": {"pruner": {"kind": "none"}}}
    spec = tiny_spec(**SECTIONS | one_leg)
    events: list[object] = []
    with Store.open(storage_url) as store:
        create_study(store, spec, source="test", device="cpu", num_threads=1)
        summary = run_study(
            store,
            spec.study.name,
            on_event=events.append,
            should_stop=lambda: any(isinstance(event, EpochFinished) for event in events),
        )
        assert (summary.reason, summary.complete) == ("interrupt", 0)
        kept = store.times(spec.study.name)
        assert kept["train"] == pytest.approx(summary.times["train"], abs=0.01)
        assert kept["train"] > 0


def test_a_lap_goes_to_what_has_just_ended() -> None:
    watch = Stopwatch()
    with watch.at("wait"):
        time.sleep(0.05)
    assert watch.seconds["wait"] >= 0.05
    assert watch.seconds["train"] == 0
    stops = watch.after_steps(lambda: time.sleep(0.02) or True)
    assert stops()
    assert watch.seconds["store"] >= 0.02
    with pytest.raises(ZeroDivisionError), watch.at("sample"):
        assert 1 // 0
    assert watch.seconds["sample"] > 0
