"""A space that gives out: stored with the study, so that one that goes on ends as one that was left alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults.small_studies import PARETO, SmallStudy, facts, spec_with
from dynamoe_search.search import Event, LegStarted, Limits, StudySummary, create_study, run_study
from dynamoe_search.search.next_legs import is_exhausted
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store

NAME = "faults"
SPEC = spec_with(
    study={"trials": 12, "references": ["dense"]},
    schedule={"shape": "uniform", "max_experts": 2},
    router={"kind": "top-k", "k": [1, 2]},
    model={"d_expert": [8, 12]},
    train={"learning_rate": 3e-3, "epochs": 2},
    adaptive={"enabled": False},
    search={"cohort_size": 3, "pruner": PARETO},
)
STUDY = SmallStudy(title="five designs", spec=SPEC)


class Crash(BaseException):
    """What a killed process looks like from inside."""


def run(url: str, *, trials: int | None = None, **options: Any) -> StudySummary:
    STUDY.create(url)
    with Store.open(url) as store:
        limits = Limits(trials=trials)
        return run_study(store, NAME, limits=limits, checkpoint_seconds=0.0, **options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What becomes of the study if nothing happens to it."""
    url = f"sqlite:///{tmp_path_factory.mktemp('alone') / 'studies.db'}"
    summary = run(url)
    assert (summary.reason, summary.state) == ("exhausted", "finished")
    with Store.open(url) as store:
        assert store.study(NAME).exhausted_at == len(store.standings(NAME)) < 12
    return facts(url)


def at_every_leg(number: int) -> Callable[[Event], None]:
    """Crashes as the leg with this number is begun."""

    def crash(event: Event) -> None:
        if isinstance(event, LegStarted) and event.leg.number == number:
            raise Crash

    return crash


def test_study_that_is_killed_at_every_leg_ends_like_one_that_is_left_alone(
    tmp_path: Path, alone: dict[str, Any]
) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    for number in range(len(alone["legs"])):
        with pytest.raises(Crash):
            run(url, on_event=at_every_leg(number))
    assert run(url).reason == "exhausted"
    assert facts(url) == alone


def test_more_trials_end_as_if_they_had_been_asked_for_from_the_start(
    tmp_path: Path, alone: dict[str, Any]
) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    for trials, reason in ((3, "trials"), (12, "exhausted"), (30, "exhausted")):
        assert run(url, trials=trials).reason == reason
    found = facts(url)
    for name in ("candidates", "progress", "optuna", "weights"):
        assert len(found[name]) == len(alone[name])
    with Store.open(url) as store:
        assert store.study(NAME).exhausted_at == len(alone["candidates"])


def test_a_space_that_gave_out_is_not_asked_again(
    storage_url: str, tiny_spec: Callable[..., StudySpec]
) -> None:
    spec = tiny_spec(study={"trials": 6}, train={"learning_rate": {"low": 1e-3, "high": 1e-2}})
    with Store.open(storage_url) as store:
        create_study(store, spec, source="test", device="cpu", num_threads=1)
        run_study(store, "tiny", limits=Limits(trials=2))
        store.set_exhausted("tiny", 2)
        summary = run_study(store, "tiny", limits=Limits(trials=6))
        assert (summary.reason, summary.complete) == ("exhausted", 2)
        record = store.study("tiny")
        assert is_exhausted(record.purpose, record.exhausted_at, 2)
        assert not is_exhausted(
            record.purpose, record.exhausted_at, 3
        )  # another worker has found one since
        store.set_exhausted("tiny", None)
        assert run_study(store, "tiny", limits=Limits(trials=6)).complete > 2
