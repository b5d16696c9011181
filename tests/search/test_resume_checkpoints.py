"""Killed processes that go on from checkpoints: the same study to the last bit, and hardly a step is trained again."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dynamoe_search.search import Event
from dynamoe_search.search import weights as stored_weights
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from dynamoe_search.store.garbage import find_garbage
from tests.search.interrupting import (
    PRUNERS,
    SEARCH,
    SECTIONS,
    Crash,
    Steps,
    everything,
    killed_after_steps,
    resume,
    run,
    spec_with,
)

MakeSpec = Callable[..., StudySpec]


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


@pytest.mark.slow
@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("step", [1, 4, 7])
def test_a_killed_study_goes_on_from_its_last_step(
    undisturbed: Undisturbed, storage_url: str, tiny_spec: MakeSpec, pruner: str, step: int
) -> None:
    spec = spec_with(tiny_spec, pruner)
    url, num_steps = undisturbed(spec)
    killed_after_steps(storage_url, spec, step)
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
        killed_after_steps(storage_url, spec, 4)
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
    undisturbed: Undisturbed,
    storage_url: str,
    tiny_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dynamoe_search.search.recent_states._MOST_BYTES", 0)
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
