"""Killed processes that go on from checkpoints: the same study to the last bit, and hardly a step is trained again."""

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
from dynamoe_search.search import EpochFinished, Event, LegStarted, run_study
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
    "router": {"kind": ["top-any", "top-p"]},
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
    "pareto": {"kind": "pareto", "min_records": 2},
    "stop": {"kind": "pareto", "min_records": 2, "pause": False},
}


def spec_with(tiny_spec: MakeSpec, pruner: str) -> StudySpec:
    return tiny_spec(**SECTIONS, search=SEARCH | {"pruner": PRUNERS[pruner]})


class Steps:
    """Counts training steps; asks to stop, or crashes, after so many."""

    def __init__(self, stop_after: int | None = None, crash_after: int | None = None) -> None:
        self.count = 0
        self._stop_after, self._crash_after = stop_after, crash_after
        self._is_training = False

    def on_event(self, event: Event) -> None:
        self._is_training = isinstance(event, LegStarted | EpochFinished)

    def should_stop(self) -> bool:
        self.count += self._is_training
        if self._crash_after is not None and self.count >= self._crash_after:
            raise Crash
        return self._stop_after is not None and self.count >= self._stop_after


def resume(url: str, steps: Steps | None = None) -> int:
    """Goes on with a study, with a checkpoint after every step; returns how many steps that took."""
    steps = steps or Steps()
    with Store.open(url) as store:
        run_study(
            store,
            "tiny",
            on_event=steps.on_event,
            should_stop=steps.should_stop,
            checkpoint_seconds=0,
        )
    return steps.count


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
            one.trial: stored_weights.load(folder, one.trial, one.weights) or {}
            for one in store.candidates("tiny", trials=[one.trial for one in store.front("tiny")])
        }


def assert_same(url: str, other: str) -> None:
    assert everything(url) == everything(other)
    own, expected = front_weights(url), front_weights(other)
    assert own.keys() == expected.keys()
    for trial, state in expected.items():
        assert state
        assert own[trial].keys() == state.keys()
        assert all(torch.equal(own[trial][name], tensor) for name, tensor in state.items())


def folder_of(url: str) -> Path:
    with Store.open(url) as store:
        return store.files_of("tiny") / "checkpoints"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[StudySpec], tuple[str, int]]:
    """Runs a study to its end, each once; returns its URL and how many steps legs took."""
    known: dict[str, tuple[str, int]] = {}

    def of(spec: StudySpec) -> tuple[str, int]:
        text = spec.model_dump_json()
        if text not in known:
            url = f"sqlite:///{tmp_path_factory.mktemp('undisturbed') / 'studies.db'}"
            steps = Steps()
            run(url, spec, on_event=steps.on_event, should_stop=steps.should_stop)
            known[text] = url, steps.count
        return known[text]

    return of


Undisturbed = Callable[[StudySpec], tuple[str, int]]


def killed(url: str, spec: StudySpec, step: int) -> None:
    """Runs a study in a process of its own and kills it after so many steps."""
    script = f"""
import os, signal
from dynamoe_search.search import create_study, run_study
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from tests.search.test_resume_checkpoints import Steps

class Killer(Steps):
    def should_stop(self):
        super().should_stop()
        if self.count >= {step}:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

killer = Killer()
with Store.open({url!r}) as store:
    spec = StudySpec.model_validate_json({spec.model_dump_json()!r})
    if not store.studies():
        create_study(store, spec, source="test", device="cpu", num_threads=1)
    run_study(
        store, "tiny", on_event=killer.on_event, should_stop=killer.should_stop, checkpoint_seconds=0
    )
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("step", [1, 4, 7])
def test_a_killed_study_goes_on_from_its_last_step(
    undisturbed: Undisturbed, storage_url: str, tiny_spec: MakeSpec, pruner: str, step: int
) -> None:
    spec = spec_with(tiny_spec, pruner)
    url, num_steps = undisturbed(spec)
    killed(storage_url, spec, step)
    assert folder_of(storage_url).exists() or step == 1  # killed before its first checkpoint
    with Store.open(storage_url) as store:
        assert find_garbage(store) == []
        assert store.study("tiny").state == "interrupted"
        assert store.zombies("tiny")
    assert num_steps - step <= resume(storage_url) <= num_steps - step + 1
    assert_same(storage_url, url)
    assert not list(folder_of(storage_url).rglob("*.*"))
    with Store.open(storage_url) as store:
        assert store.zombies("tiny") == []


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_ends(
    undisturbed: Undisturbed, storage_url: str, tiny_spec: MakeSpec
) -> None:
    spec = spec_with(tiny_spec, "pareto")
    url, num_steps = undisturbed(spec)
    for _ in range(3):
        killed(storage_url, spec, 4)
    assert resume(storage_url) <= num_steps - 3 * 3
    assert_same(storage_url, url)


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("event_number", [2, 3, 5, 8, 13])
def test_a_crash_at_any_event_goes_on_from_a_checkpoint(
    undisturbed: Undisturbed, storage_url: str, tiny_spec: MakeSpec, pruner: str, event_number: int
) -> None:
    spec = spec_with(tiny_spec, pruner)
    url, num_steps = undisturbed(spec)
    first = Steps()
    seen = 0

    def crash(event: Event) -> None:
        nonlocal seen
        first.on_event(event)
        if seen == event_number:
            raise Crash
        seen += 1

    with pytest.raises(Crash):
        run(
            storage_url,
            spec,
            on_event=crash,
            should_stop=first.should_stop,
            checkpoint_seconds=0,
        )
    assert first.count + resume(storage_url) <= num_steps + 1
    assert_same(storage_url, url)


@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_study_that_is_stopped_at_every_turn_ends_the_same(
    undisturbed: Undisturbed, storage_url: str, tiny_spec: MakeSpec, pruner: str
) -> None:
    spec = spec_with(tiny_spec, pruner)
    url, num_steps = undisturbed(spec)
    run(storage_url, spec, should_stop=lambda: True)
    total = 0
    for _ in range(num_steps):
        total += resume(storage_url, Steps(stop_after=5))
        with Store.open(storage_url) as store:
            if store.study("tiny").state == "finished":
                break
    assert total == num_steps  # no step is trained twice
    assert_same(storage_url, url)


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
    spec = spec_with(tiny_spec, "none")
    url, _ = undisturbed(spec)
    steps = Steps(stop_after=6)
    run(
        storage_url,
        spec,
        on_event=steps.on_event,
        should_stop=steps.should_stop,
        checkpoint_seconds=0,
    )
    with Store.open(storage_url) as store:
        lost = store.progress("tiny")
    assert lost
    with sqlite3.connect(storage_url.removeprefix("sqlite:///")) as connection:
        connection.execute("DELETE FROM dynamoe_progress")
    resume(storage_url)
    assert_same(storage_url, url)
    with Store.open(storage_url) as store:
        found = {(one.ordinal, one.epoch) for one in store.progress("tiny")}
    assert {(one.ordinal, one.epoch) for one in lost} <= found


@pytest.mark.parametrize("damage", ["remove", "truncate", "flip", "latest"])
def test_a_candidate_whose_checkpoint_is_damaged_catches_up(
    undisturbed: Undisturbed,
    storage_url: str,
    tiny_spec: MakeSpec,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spec = spec_with(tiny_spec, "pareto")
    url, num_steps = undisturbed(spec)
    steps = Steps(crash_after=2 * num_steps // 3)
    with pytest.raises(Crash):
        run(storage_url, spec, on_event=steps.on_event, should_stop=steps.should_stop)
    files = sorted((folder_of(storage_url) / "candidates").rglob("*.safetensors"))
    assert files
    last = {path.parent: path for path in files}
    for path in last.values() if damage == "latest" else files:
        if damage == "remove":
            path.unlink()
        elif damage == "truncate":
            path.write_bytes(path.read_bytes()[:-7])
        else:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
    run(storage_url, spec)
    assert_same(storage_url, url)
    assert "trained again" in caplog.text or "is not used" in caplog.text


def test_checkpoints_beyond_the_limit_are_dropped_and_nothing_else_changes(
    undisturbed: Undisturbed, storage_url: str, tiny_spec: MakeSpec
) -> None:
    url, num_steps = undisturbed(spec_with(tiny_spec, "pareto"))
    search = SEARCH | {"pruner": PRUNERS["pareto"], "checkpoint_limit_mb": 0}
    steps = Steps()
    run(
        storage_url,
        tiny_spec(**SECTIONS, search=search),
        on_event=steps.on_event,
        should_stop=steps.should_stop,
    )
    assert steps.count > num_steps
    assert_same(storage_url, url)
