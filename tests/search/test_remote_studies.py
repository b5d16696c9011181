"""Studies whose files are on storage of fsspec: killed, stopped, copied and deleted, they are the same studies."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dynamoe_search.places import RemotePath, listed
from dynamoe_search.search import check_study, export_candidate, weights
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from dynamoe_search.store.garbage import find_garbage
from tests.search.interrupting import (
    Steps,
    everything,
    killed_after_steps,
    resume,
    run,
    spec_with,
)

MakeSpec = Callable[..., StudySpec]
FILES = "DYNAMOE_SEARCH_FILES"


def remote_files(store: Store, name: str = "tiny") -> RemotePath:
    folder = store.files_of(name)
    assert isinstance(folder, RemotePath)
    return folder


def front(url: str) -> dict[int, dict[str, torch.Tensor]]:
    with Store.open(url) as store:
        folder = store.files_of("tiny") / "models"
        members = store.candidates("tiny", trials=[one.trial for one in store.front("tiny")])
        return {one.trial: weights.load(folder, one.trial, one.weights) or {} for one in members}


def assert_same_weights(own: Any, expected: Any) -> None:
    assert own.keys() == expected.keys()
    for trial, state in expected.items():
        assert state
        assert all(torch.equal(own[trial][name], tensor) for name, tensor in state.items())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[StudySpec], Any]:
    """Runs a study to its end, with its files on a disk; returns how many steps it took, and what came of it."""
    known: dict[str, Any] = {}

    def of(spec: StudySpec) -> Any:
        text = spec.model_dump_json()
        if text not in known:
            url = f"sqlite:///{tmp_path_factory.mktemp('undisturbed') / 'studies.db'}"
            steps = Steps()
            run(url, spec, on_event=steps.on_event, should_stop=steps.should_stop)
            known[text] = steps.count, everything(url), front(url)
        return known[text]

    return of


@pytest.mark.slow
def test_a_study_that_is_stopped_again_and_again_ends_the_same(
    undisturbed: Callable[[StudySpec], Any],
    storage_url: str,
    tiny_spec: MakeSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = spec_with(tiny_spec, "pareto")
    num_steps, expected, models = undisturbed(spec)
    monkeypatch.setenv(FILES, f"memory://{uuid.uuid4().hex}")
    run(storage_url, spec, should_stop=lambda: True)
    total = resume(storage_url, Steps(stop_after=num_steps // 3))
    copied = f"sqlite:///{tmp_path / 'copy.db'}"
    with Store.open(storage_url) as store:
        assert [one.name for one in listed(remote_files(store) / "checkpoints")]
        assert {one.level for one in check_study(store, "tiny")} == {"ok"}
        with Store.open(copied) as other:
            store.copy_study("tiny", other)
    steps_left = resume(storage_url)
    total += steps_left
    assert total == num_steps  # no step is trained twice
    assert everything(storage_url) == expected
    assert_same_weights(front(storage_url), models)
    with Store.open(storage_url) as store:
        assert {one.level for one in check_study(store, "tiny")} == {"ok"}
        assert {path.parent.name for path in remote_files(store).files()} <= {"models", "tiny"} | {
            remote_files(store).name
        }
        assert find_garbage(store) == []
        trial = store.front("tiny")[0].trial
        assert not export_candidate(store, "tiny", trial, tmp_path / "out").is_retrained
        files = remote_files(store)
        store.delete_study("tiny")
        assert not files.exists()
    assert total + resume(copied) - steps_left == num_steps
    assert everything(copied) == expected
    assert_same_weights(front(copied), models)


@pytest.mark.slow
def test_a_killed_study_goes_on_from_its_last_step(
    undisturbed: Callable[[StudySpec], Any],
    storage_url: str,
    tiny_spec: MakeSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = spec_with(tiny_spec, "pareto")
    num_steps, expected, models = undisturbed(spec)
    monkeypatch.setenv(
        FILES, f"local://{tmp_path / 'files'}"
    )  # as any storage: no rename, half files are seen
    killed_after_steps(storage_url, spec, 4)
    killed_after_steps(storage_url, spec, 4)
    assert resume(storage_url) <= num_steps - 2 * 3
    assert everything(storage_url) == expected
    assert_same_weights(front(storage_url), models)
