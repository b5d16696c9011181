"""Checkpoints on remote storage: no name is written twice, half a file is never read as whole, two are kept."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch

from dynamoe_search.places import (
    AnyPath,
    PlaceError,
    RemotePath,
    copy_tree,
    listed,
    place_of,
    remove_tree,
)
from dynamoe_search.search import weights
from dynamoe_search.search.study_files import StudyFiles
from dynamoe_search.store import weight_files
from dynamoe_search.training import CheckpointFolder, DamagedError, StateFolder
from tests.training.populations import SETTINGS, digits
from tests.training.test_checkpoints import Crash, same, small_pack, train
from tests.training.test_states import design, load, standing


@pytest.fixture
def remote() -> Iterator[RemotePath]:
    place = place_of(f"memory://{uuid.uuid4().hex}", "files")
    assert isinstance(place, RemotePath)
    yield place
    remove_tree(place)


def content(path: RemotePath) -> bytes:
    found: bytes = fsspec.filesystem("memory").cat_file(str(path))
    return found


def overwrite(path: RemotePath, text: bytes) -> None:
    fsspec.filesystem("memory").pipe_file(str(path), text)


def files(place: RemotePath) -> list[RemotePath]:
    return sorted(place.files())


def half(path: RemotePath) -> None:
    overwrite(path, content(path)[: len(content(path)) // 2])


def flip(path: RemotePath) -> None:
    text = bytearray(content(path))
    text[-1] ^= 1
    overwrite(path, bytes(text))


def empty(path: RemotePath) -> None:
    overwrite(path, b"")


def gone(path: RemotePath) -> None:
    path.unlink()


DAMAGES: list[Callable[[RemotePath], None]] = [half, flip, empty, gone]


def test_a_state_comes_back_to_the_bit(remote: RemotePath) -> None:
    folder = StateFolder(remote)
    checksum = folder.save(standing())
    (path,) = files(remote)
    assert str(path) == f"{remote}/17/epoch-000002-{checksum[:16]}.safetensors"
    for state in (load(folder, checksum), load(folder)):
        assert state.tensors.keys() == standing().tensors.keys()
        for name, tensor in standing().tensors.items():
            assert torch.equal(state.tensors[name], tensor), name
        assert state.events == standing().events
    assert folder.files() == {17: {path: len(content(path))}}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_recognised_and_the_one_before_is_there(
    remote: RemotePath, damage: Callable[[RemotePath], None]
) -> None:
    folder = StateFolder(remote)
    before = folder.save(replace(standing(), epoch=1))
    checksum = folder.save(standing())
    damage(files(remote)[1])
    for known in (checksum, None):
        with pytest.raises(DamagedError, match="candidate 17 at epoch 2 cannot be used: "):
            load(folder, known)
    assert load(folder, before, epoch=1).epoch == 1


def test_two_states_are_kept_and_none_is_written_over(remote: RemotePath) -> None:
    folder = StateFolder(remote)
    for epoch in (1, 4, 2, 3):
        folder.save(replace(standing(), epoch=epoch))
    assert folder.epochs(17) == [2, 3, 4]
    late = folder.save(replace(standing(), epoch=3, seconds=99.0))
    assert len(files(remote)) == 4
    folder.keep_one(folder.files()[17], 3, late)
    assert len(files(remote)) == 3
    folder.remove(17)
    assert files(remote) == []


def test_tidying_up_lists_once_however_many_candidates_there_are(
    remote: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = StudyFiles(remote)
    kept = {}
    for ordinal in range(5):
        own = replace(design(), ordinal=ordinal)
        for epoch in (1, 2):
            states = [
                replace(standing(), candidate=own, epoch=epoch, seconds=float(seconds))
                for seconds in range(2)
            ]
            kept[ordinal], _ = [study.states.save(state) for state in states]
    listings, listing = [], RemotePath._listed
    with monkeypatch.context() as patch:
        patch.setattr(RemotePath, "_listed", lambda *one: listings.append(one) or listing(*one))
        present = study.present()
        for ordinal, checksum in kept.items():
            study.states.keep_one(present.states[ordinal], 2, checksum)
    assert len(listings) == 2  # legs, and candidates
    left = study.states.files()
    assert [len(own) for own in left.values()] == [2] * 5
    for ordinal, checksum in kept.items():
        assert any(path.stem.endswith(checksum[:16]) for path in left[ordinal])


def test_storage_that_does_not_answer_is_no_damage(
    remote: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StateFolder(remote)
    checksum = folder.save(standing())

    def get_file(*_: object, **__: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "get_file", get_file)
    with pytest.raises(PlaceError, match="ConnectionResetError"):
        folder.load(design(), 2, checksum, digits(), SETTINGS)


def checkpoints(place: RemotePath) -> CheckpointFolder:
    return CheckpointFolder(place, every_seconds=0)


def crash(place: RemotePath, epoch: int) -> None:
    with pytest.raises(Crash):
        train(small_pack(), checkpoints(place), crash_in=epoch)


def steps(place: RemotePath) -> list[str]:
    """Steps of which there is a manifest; there are the tensors of no others."""
    names = [path.name for path in files(place) if path.name.startswith("epoch-")]
    manifests = {name[:24] for name in names if name.endswith(".json")}
    assert {name[:24] for name in names} == manifests
    return sorted(manifests)


def test_a_pack_goes_on_to_the_same_bits(remote: RemotePath, tmp_path: Path) -> None:
    whole = train(small_pack())[0]
    crash(remote, 3)
    assert len(steps(remote)) == 2
    copy_tree(remote, tmp_path / "copy")
    ends, reports, restored = train(small_pack(), checkpoints(remote))
    assert same(ends, whole)
    assert {one.epoch for one in restored} == {1, 2}
    assert min(one.epoch for one in reports) == 3
    here = CheckpointFolder(tmp_path / "copy", every_seconds=0)  # by the names of remote storage
    ends, _, restored = train(small_pack(), here)
    assert same(ends, whole)
    assert {one.epoch for one in restored} == {1, 2}


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("damage", [half, gone])
def test_of_two_checkpoints_the_whole_one_is_used(
    remote: RemotePath, suffix: str, damage: Callable[[RemotePath], None]
) -> None:
    crash(remote, 3)
    latest = [path for path in files(remote) if path.name.startswith(steps(remote)[-1])]
    damage(next(path for path in latest if path.name.endswith(suffix)))
    _, reports, restored = train(small_pack(), checkpoints(remote))
    assert {one.epoch for one in restored} == {1, 2}
    assert min(one.epoch for one in reports) == 3
    assert len(steps(remote)) == 2
    folder = checkpoints(remote)
    assert folder.damaged() == []
    flip(next(path for path in files(remote) if path.name.endswith(".safetensors")))
    assert len(folder.damaged()) == 1
    folder.remove()
    assert files(remote) == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_are_whole_or_refused(
    remote: RemotePath, damage: Callable[[RemotePath], None]
) -> None:
    state = {"a": torch.arange(600.0).view(20, 30)}
    assert (weight_files.present(remote), weights.load(remote, 17, None)) == ({}, None)
    checksum = weights.save(remote, 17, state)
    weights.save(remote, 7, state)
    for known in (checksum, None):
        found = weights.load(remote, 17, known)
        assert found is not None
        assert torch.equal(found["a"], state["a"])
    assert weight_files.present(remote).keys() == {7, 17}
    damage(next(path for path in listed(remote) if path.name.startswith("17-")))  # type: ignore[arg-type]
    for known in (checksum, None):
        if damage is gone:
            assert weights.load(remote, 17, known) is None
        else:
            with pytest.raises(ValueError, match=r"17-[0-9a-f]{16}.safetensors is damaged"):
                weights.load(remote, 17, known)
    weight_files.remove(remote, {17, 99})
    assert weight_files.present(remote).keys() == {7}


@pytest.mark.parametrize("kind", ["folder", "storage"])
def test_of_two_workers_weights_those_are_loaded_that_the_database_names(
    kind: str, remote: RemotePath, tmp_path: Path
) -> None:
    folder: AnyPath = remote if kind == "storage" else tmp_path / "models"
    states = [{"a": torch.full((3,), float(number))} for number in range(4)]
    checksums = [weights.save(folder, 17, state) for state in states]  # a worker's, its successor's
    for checksum, state in zip(checksums, states, strict=True):
        found = weights.load(folder, 17, checksum)
        assert found is not None
        assert torch.equal(found["a"], state["a"])
    weight_files.remove(folder, {17})
    assert weights.load(folder, 17, checksums[0]) is None


def test_weights_that_an_older_program_wrote_are_read(tmp_path: Path) -> None:
    checksum = weights.save(tmp_path, 17, {"a": torch.ones(3)})
    weight_files.path_of(tmp_path, 17, checksum).rename(tmp_path / "17.safetensors")
    assert weight_files.present(tmp_path).keys() == {17}
    assert weight_files.path_of(tmp_path, 17, None) == tmp_path / "17.safetensors"
    found = weights.load(tmp_path, 17, None)
    assert found is not None
    assert torch.equal(found["a"], torch.ones(3))
    assert weights.load(tmp_path, 7, None) is None
    assert weight_files.path_of(tmp_path, 17, "x/../../y" + 55 * "z") == tmp_path / "17.safetensors"
