"""Weights of a worker that counted as dead: never taken for its successor's, and removed once nobody can name them."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dynamoe_search.errors import DynamoeError
from dynamoe_search.places import AnyPath, listed
from dynamoe_search.search import Event, LegStarted, create_study, run_study, weights
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store, weight_files
from dynamoe_search.store.garbage import find_garbage, remove_garbage
from dynamoe_search.store.runs import Watcher

MakeSpec = Callable[..., StudySpec]
CONTEXT = multiprocessing.get_context("spawn")
FILES = "DYNAMOE_SEARCH_FILES"


def sleeps_after_writing(url: str, folder: Path) -> None:
    """A worker of another machine, so to say, whose last digits differ; it sleeps when it has written weights.

    When it is woken its file, which a slow storage kept until then, comes once more.
    """
    torch.set_num_threads(1)
    save = weights.save
    with Store.open(url) as store:

        def save_and_sleep(models: AnyPath, trial: int, state: Mapping[str, Tensor]) -> str:
            own = {name: tensor + 1e-3 for name, tensor in state.items()}
            checksum = save(models, trial, own)
            store._hearts["tiny"].stop()  # asleep amid a sign of life it would lock the database
            (folder / "written").touch()
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # at once, in any thread
            return save(models, trial, own) and checksum

        def move(event: Event) -> None:
            if isinstance(event, LegStarted):
                with store._database.write() as connection:
                    connection.exec_driver_sql("update dynamoe_workers set host = 'elsewhere'")

        weights.save = save_and_sleep
        try:
            run_study(store, "tiny", on_event=move)
        except DynamoeError as error:
            (folder / "said").write_text(str(error))


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def names(folder: AnyPath) -> list[str]:
    return [path.name for path in listed(folder)]


def meant(store: Store) -> list[str]:
    """Returns the names of the files that should be there."""
    folder = store.files_of("tiny") / weight_files.FOLDER
    trials = [one.trial for one in store.front("tiny")]
    found = store.candidates("tiny", trials=trials)
    return sorted(weight_files.path_of(folder, one.trial, one.weights).name for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("place", [None, "local"])
def test_a_worker_that_slept_leaves_no_weights_and_loses_none_while_it_counts(
    place: str | None,
    storage_url: str,
    tiny_spec: MakeSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if place is not None:  # as any storage: no rename, half files are seen
        monkeypatch.setenv(FILES, f"{place}://{tmp_path / 'elsewhere'}")
    spec = tiny_spec(study={"trials": 1, "references": ["dense"]})
    with Store.open(storage_url) as store:
        create_study(store, spec, source="test", device="cpu", num_threads=1)
        models = store.files_of("tiny") / weight_files.FOLDER
        process = CONTEXT.Process(target=sleeps_after_writing, args=(storage_url, tmp_path))
        process.start()
        try:
            until((tmp_path / "written").exists)
            (written,) = names(models)
            remove_garbage(store, find_garbage(store))
            assert names(models) == [written]  # the row that names it may come yet
            store._watcher = Watcher(silence_seconds=0.5)
            until(lambda: not any(one.is_alive for one in store.workers("tiny")))
            run_study(store, "tiny")
            assert names(models) == meant(store)
            assert written not in names(models)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGCONT)
            process.join(60)
            assert names(models) == meant(store)  # it has seen itself that nobody can name its own
        finally:
            process.kill()
            process.join()
        weights.save(models, 0, {"a": torch.ones(3)})
        assert len(names(models)) == 2
        garbage = find_garbage(store)
        assert [one.kind for one in garbage] == ["file"]
        remove_garbage(store, garbage)
        assert names(models) == meant(store)
        assert len(meant(store)) == 1


CHECKSUMS = [f"{digit}" * 64 for digit in "abcdef"]


@given(
    files=st.dictionaries(
        st.integers(0, 3), st.lists(st.sampled_from(["", *CHECKSUMS]), unique=True, min_size=1)
    ),
    known=st.dictionaries(
        st.integers(0, 3), st.sampled_from([None, "../x", "NO" * 32, *CHECKSUMS])
    ),
)
def test_what_the_database_names_and_what_it_may_name_stays(
    files: dict[int, list[str]],
    known: dict[int, str | None],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("models")
    for trial, marks in files.items():
        for mark in marks:
            (folder / f"{trial}{mark and '-'}{mark[:16]}.safetensors").touch()
    (folder / "notes.safetensors").touch()
    before = weight_files.present(folder)
    assert sorted(before) == sorted(files)
    gone = weight_files.outdated(before, known)
    for trial, paths in before.items():
        checksum = known.get(trial)
        if checksum in CHECKSUMS:
            own = (
                [weight_files.path_of(folder, trial, checksum)] if checksum in files[trial] else []
            )
            assert [path for path in paths if path not in gone] == own
        else:
            assert not set(paths) & set(gone)
