"""Killed processes that go on from checkpoints: the same study to the last bit, with fewer epochs trained again."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dynamoe_search.records import FrontMember
from dynamoe_search.search import CohortStarted, EpochFinished, Event, Limits, run_study
from dynamoe_search.search import weights as stored_weights
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from dynamoe_search.store.garbage import find_garbage
from tests.search.test_runner import Crash, Facts, facts, run

MakeSpec = Callable[..., StudySpec]

EPOCHS = 4
SECTIONS: dict[str, Any] = {
    "study": {"trials": 8, "references": ["dense", "top-2"]},
    "data": {"max_train": 128},
    "model": {"d_model": 8, "dropout": 0.1},
    "schedule": {"shape": ["uniform", "descending"], "max_experts": {"low": 2, "high": 4}},
    "router": {"kind": ["top-any", "top-k", "top-p"]},
    "adaptive": {
        "enabled": True,
        "max_experts": 5,
        "period": 3,
        "record_from": 0,
        "update_at": 2,
        "new_expert": "fresh",
    },
    "train": {"learning_rate": {"low": 3e-4, "high": 3e-2, "log": True}, "epochs": EPOCHS},
}
SEARCH = {"cohort_size": 5, "startup_trials": 4, "sampler": "tpe"}
PRUNERS: dict[str, dict[str, Any]] = {
    "none": {"kind": "none"},
    "pareto": {"kind": "pareto", "min_records": 2, "alpha": 0.05},
}


def spec_with(tiny_spec: MakeSpec, pruner: str) -> StudySpec:
    return tiny_spec(**SECTIONS, search=SEARCH | {"pruner": PRUNERS[pruner]})


def resume(url: str) -> list[Event]:
    events: list[Event] = []
    with Store.open(url) as store:
        run_study(store, "tiny", on_event=events.append, checkpoint_seconds=0)
    return events


def everything(url: str) -> tuple[Facts, list[Any], tuple[FrontMember, ...]]:
    """All that must not depend on interruptions, besides weights."""
    with Store.open(url) as store:
        ends = [
            (
                one.reason,
                one.message,
                one.outcome and (one.outcome.epochs, one.outcome.expert_events),
            )
            for one in store.candidates("tiny")
        ]
        return facts(url), ends, tuple(store.front("tiny"))


def front_weights(url: str) -> dict[int, dict[str, torch.Tensor]]:
    with Store.open(url) as store:
        folder = store.files_of("tiny") / "models"
        return {
            member.trial: stored_weights.load(folder, member.trial) or {}
            for member in store.front("tiny")
        }


def assert_same(url: str, other: str) -> None:
    assert everything(url) == everything(other)
    own, expected = front_weights(url), front_weights(other)
    assert own.keys() == expected.keys()
    for trial, state in expected.items():
        assert state
        assert own[trial].keys() == state.keys()
        assert all(torch.equal(own[trial][name], tensor) for name, tensor in state.items())


def epochs_in(events: list[Event]) -> int:
    return sum(isinstance(event, EpochFinished) for event in events)


def folder_of(url: str) -> Path:
    with Store.open(url) as store:
        return store.files_of("tiny") / "checkpoints"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[StudySpec], tuple[str, int]]:
    """Runs a study to its end, each once; returns its URL and how many epochs packs were trained."""
    known: dict[str, tuple[str, int]] = {}

    def of(spec: StudySpec) -> tuple[str, int]:
        text = spec.model_dump_json()
        if text not in known:
            url = f"sqlite:///{tmp_path_factory.mktemp('undisturbed') / 'studies.db'}"
            events: list[Event] = []
            run(url, spec, on_event=events.append)
            known[text] = url, epochs_in(events)
        return known[text]

    return of


Undisturbed = Callable[[StudySpec], tuple[str, int]]


def killed(url: str, spec: StudySpec, epoch: int) -> None:
    """Runs a study in a process of its own and kills it within the epoch after so many."""
    script = f"""
import os, signal
from dynamoe_search.search import EpochFinished, create_study, run_study
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store

epochs = 0

def count(event):
    global epochs
    epochs += isinstance(event, EpochFinished)

def kill():
    if epochs >= {epoch}:
        os.kill(os.getpid(), signal.SIGKILL)
    return False

with Store.open({url!r}) as store:
    spec = StudySpec.model_validate_json({spec.model_dump_json()!r})
    if not store.studies():
        create_study(store, spec, source="test", device="cpu", num_threads=1)
    run_study(store, "tiny", on_event=count, should_stop=kill, checkpoint_seconds=0)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("epoch", [1, 3, 6])
def test_a_killed_study_goes_on_from_its_last_epoch(
    undisturbed: Undisturbed, storage_url: str, tiny_spec: MakeSpec, pruner: str, epoch: int
) -> None:
    spec = spec_with(tiny_spec, pruner)
    url, num_epochs = undisturbed(spec)
    killed(storage_url, spec, epoch)
    assert folder_of(storage_url).exists()
    with Store.open(storage_url) as store:
        assert find_garbage(store) == []
    assert epochs_in(resume(storage_url)) == num_epochs - epoch
    assert_same(storage_url, url)
    assert not folder_of(storage_url).exists()


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_ends(
    undisturbed: Undisturbed, storage_url: str, tiny_spec: MakeSpec
) -> None:
    spec = spec_with(tiny_spec, "pareto")
    url, num_epochs = undisturbed(spec)
    for _ in range(3):
        killed(storage_url, spec, 2)
    assert epochs_in(resume(storage_url)) == num_epochs - 6
    assert_same(storage_url, url)


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("event_number", [2, 3, 5, 8])
def test_a_crash_at_any_event_goes_on_from_a_checkpoint(
    undisturbed: Undisturbed, storage_url: str, tiny_spec: MakeSpec, pruner: str, event_number: int
) -> None:
    spec = spec_with(tiny_spec, pruner)
    url, num_epochs = undisturbed(spec)
    first: list[Event] = []

    def crash(event: Event) -> None:
        if len(first) == event_number:
            raise Crash
        first.append(event)

    with pytest.raises(Crash):
        run(storage_url, spec, on_event=crash, checkpoint_seconds=0)
    again = epochs_in(resume(storage_url))
    assert again == num_epochs - epochs_in(first)
    assert_same(storage_url, url)
    assert not folder_of(storage_url).exists()


def test_the_studies_here_prune_and_change_experts(
    undisturbed: Undisturbed, tiny_spec: MakeSpec
) -> None:
    with Store.open(undisturbed(spec_with(tiny_spec, "pareto"))[0]) as store:
        records = store.candidates("tiny")
    outcomes = [record.outcome for record in records if record.outcome is not None]
    assert {"complete", "stopped"} <= {outcome.status for outcome in outcomes}
    assert any(len({counts for _, counts in outcome.expert_events}) > 1 for outcome in outcomes)
    assert len({record.candidate.router.kind for record in records}) > 1


def test_reports_that_the_database_lost_come_back(
    undisturbed: Undisturbed, storage_url: str, tiny_spec: MakeSpec
) -> None:
    spec = spec_with(tiny_spec, "pareto")
    url, _ = undisturbed(spec)
    epochs = 0

    def should_stop() -> bool:
        return epochs >= 2

    def count(event: Event) -> None:
        nonlocal epochs
        epochs += isinstance(event, EpochFinished)

    run(storage_url, spec, on_event=count, should_stop=should_stop, checkpoint_seconds=0)
    with Store.open(storage_url) as store:
        lost = store.progress("tiny")
    with sqlite3.connect(storage_url.removeprefix("sqlite:///")) as connection:
        connection.execute("DELETE FROM dynamoe_progress")
    resume(storage_url)
    assert_same(storage_url, url)
    with Store.open(storage_url) as store:
        found = {(one.ordinal, one.epoch) for one in store.progress("tiny")}
    assert {(one.ordinal, one.epoch) for one in lost} <= found


def test_more_trials_in_the_cohort_start_it_again(
    undisturbed: Undisturbed, storage_url: str, tiny_spec: MakeSpec
) -> None:
    whole = spec_with(tiny_spec, "none")
    url, num_epochs = undisturbed(whole)
    fewer = tiny_spec(
        **SECTIONS | {"study": SECTIONS["study"] | {"trials": 3}},
        search=SEARCH | {"pruner": PRUNERS["none"]},
    )
    seen: list[Event] = []

    def crash(event: Event) -> None:
        seen.append(event)
        if epochs_in(seen) == 3:
            raise Crash

    with pytest.raises(Crash):
        run(storage_url, fewer, on_event=crash, checkpoint_seconds=0)
    events: list[Event] = []
    run(storage_url, fewer, limits=Limits(trials=8), on_event=events.append, checkpoint_seconds=0)
    assert isinstance(events[1], CohortStarted)
    assert len(events[1].candidates) == 5
    assert epochs_in(events) == num_epochs
    assert_same(storage_url, url)
