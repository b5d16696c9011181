"""Where candidates stand between legs, on the disk: what comes back, what is refused, what is kept."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dynamoe_search.data import Split
from dynamoe_search.records import Candidate
from dynamoe_search.training import CandidateState, DamagedError, StateFolder, manifests, train_leg
from dynamoe_search.training.durable_files import sha256
from dynamoe_search.training.population import Population
from tests.training.populations import ADAPTIVE, SETTINGS, candidate, digits

EPOCHS = 5


@cache
def design() -> Candidate:
    return candidate(17, adaptive=ADAPTIVE, dropout=0.1, train={"epochs": EPOCHS})


@cache
def standing(epoch: int = 2) -> CandidateState:
    (one,) = train_leg([design()], digits(), SETTINGS, until=epoch)
    assert one.standing is not None
    return one.standing


def load(folder: StateFolder, checksum: str | None = None, epoch: int = 2) -> CandidateState:
    return folder.load(design(), epoch, checksum, digits(), SETTINGS)


def the_file(folder: StateFolder) -> Path:
    (path,) = (folder.path / "17").iterdir()
    return path


def test_everything_comes_back_to_the_bit(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "states")
    checksum = folder.save(standing())
    assert the_file(folder).name == f"epoch-000002-{checksum[:16]}.safetensors"
    assert sha256(the_file(folder)) == checksum
    for state in (load(folder, checksum), load(folder)):
        assert state.tensors.keys() == standing().tensors.keys()
        for name, tensor in standing().tensors.items():
            assert state.tensors[name].dtype == tensor.dtype
            assert torch.equal(state.tensors[name], tensor), name
        for field in ("candidate", "epoch", "batch", "step", "seconds", "events", "circumstances"):
            assert getattr(state, field) == getattr(standing(), field)


def test_a_state_has_what_training_changed_under_the_names_of_a_single_model() -> None:
    tensors = standing().tensors
    single = {
        name for name, _ in Population([design()], digits(), SETTINGS).models[0].named_parameters()
    }
    assert {name for name in tensors if name.startswith("parameters/")} == {
        f"parameters/{name}" for name in single
    }
    for part in ("mean", "square", "powers"):
        assert {f"{part}/{name}" for name in single} <= tensors.keys()
    assert {"routed/layers.0.", "unrouted/layers.0.", "buffers/layers.1.is_open"} <= tensors.keys()
    assert not [name for name in tensors if "stream" in name or "rate" in name]


def test_company_changes_neither_names_nor_values() -> None:
    others = [
        candidate(3, "percentile", (6, 6), train={"epochs": EPOCHS}),
        candidate(4, "top-k", train={"epochs": EPOCHS}),
        design(),
        candidate(5, train={"epochs": EPOCHS}, weight_gradient="constant"),
    ]
    own = train_leg(others, digits(), SETTINGS, until=2)[2].standing
    assert own is not None
    assert own.tensors.keys() == standing().tensors.keys()
    for name, tensor in standing().tensors.items():
        assert torch.equal(own.tensors[name], tensor), name
    plain = train_leg(others, digits(), SETTINGS, until=2)[1].standing
    assert plain is not None
    assert not [name for name in plain.tensors if name.startswith(("routed", "unrouted"))]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def _flip_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [_cut, _flip, _flip_header, _empty, _folder, Path.unlink])
@pytest.mark.parametrize("names_checksum", [True, False])
def test_a_damaged_file_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], names_checksum: bool
) -> None:
    folder = StateFolder(tmp_path)
    checksum = folder.save(standing())
    damage(the_file(folder))
    with pytest.raises(DamagedError, match="candidate 17 at epoch 2 cannot be used: ") as caught:
        load(folder, checksum if names_checksum else None)
    assert caught.value.ordinal == 17
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [None, "null", "[]", '{"content": {"format": 1}}', "[" * 5000])
def test_another_file_under_a_right_name_is_refused(tmp_path: Path, text: str | None) -> None:
    folder = StateFolder(tmp_path)
    folder.save(standing())
    path = the_file(folder)
    save_file({"a": torch.zeros(1)}, path, None if text is None else {"state": text})
    checksum = sha256(path)
    path.rename(path.with_name(f"epoch-000002-{checksum[:16]}.safetensors"))
    with pytest.raises(DamagedError, match="cannot be used"):
        load(folder, checksum)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    checksum = folder.save(standing())
    other = replace(design(), train=replace(design().train, learning_rate=1e-4))
    with pytest.raises(DamagedError, match="another candidate"):
        folder.load(other, 2, checksum, digits(), SETTINGS)
    with pytest.raises(DamagedError, match="missing"):
        load(folder, checksum, epoch=3)
    with pytest.raises(DamagedError, match="missing"):
        load(folder, "0" * 64)
    with pytest.raises(DamagedError, match="is damaged"):
        load(folder, checksum[:-1] + "x")
    with pytest.raises(DamagedError, match="missing"):
        folder.load(replace(design(), ordinal=3), 2, None, digits(), SETTINGS)
    wider = replace(SETTINGS, num_slots=SETTINGS.num_slots + 1)
    with pytest.raises(DamagedError, match="other settings"):
        folder.load(design(), 2, checksum, digits(), wider)
    data = replace(digits(), data_hash="other")
    with pytest.raises(DamagedError, match="other data"):
        folder.load(design(), 2, checksum, data, SETTINGS)
    shorter = Split(x=digits().train.x[:100], y=digits().train.y[:100])
    with pytest.raises(DamagedError, match="other data"):
        folder.load(design(), 2, checksum, replace(digits(), train=shorter), SETTINGS)
    renamed = the_file(folder).with_name(the_file(folder).name.replace("02-", "03-"))
    the_file(folder).rename(renamed)
    with pytest.raises(DamagedError, match="another epoch"):
        load(folder, checksum, epoch=3)


def test_two_epochs_are_kept_and_later_ones_are_never_touched(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    for epoch in (1, 4, 2, 3):
        folder.save(replace(standing(), epoch=epoch))
    assert folder.epochs(17) == [2, 3, 4]
    assert folder.epochs(3) == []
    folder.save(replace(standing(), epoch=5))
    assert folder.epochs(17) == [4, 5]


def test_the_same_epoch_written_by_another_does_not_replace_the_file_that_is_known(
    tmp_path: Path,
) -> None:
    folder = StateFolder(tmp_path)
    known = folder.save(standing())
    late = folder.save(replace(standing(), seconds=99.0))
    assert known != late
    assert load(folder, known).seconds == standing().seconds
    assert load(folder, late).seconds == 99.0
    assert folder.save(standing()) == known
    assert len(list((tmp_path / "17").iterdir())) == 2


def test_of_two_files_of_one_epoch_the_whole_one_is_found(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    checksums = [folder.save(replace(standing(), seconds=own)) for own in (1.0, 2.0)]
    for path in (tmp_path / "17").iterdir():
        if checksums[0][:16] in path.name:
            _flip(path)
    assert load(folder).seconds == 2.0


def test_housekeeping(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "states")
    assert folder.files() == {}
    for epoch in (1, 2):
        folder.save(replace(standing(), epoch=epoch))
    other = replace(standing(), candidate=replace(design(), ordinal=4))
    folder.save(other)
    (folder.path / "notes").mkdir()
    (folder.path / "5").write_text("not a folder")
    own = folder.path / "17"
    (own / ".epoch-000002.x.partial").write_text("half")
    (own / "mine.txt").write_text("mine")
    assert folder.files() == {
        ordinal: {path: path.stat().st_size for path in (folder.path / str(ordinal)).iterdir()}
        for ordinal in (4, 17)
    }
    folder.remove(17)
    folder.remove(99)
    assert folder.files().keys() == {4}


def test_what_killed_processes_wrote_beside_a_state_is_removed(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    for epoch in (1, 2):
        states = [replace(standing(), epoch=epoch, seconds=seconds) for seconds in (1.0, 2.0, 3.0)]
        checksums = [folder.save(state) for state in states]
    assert len(list((tmp_path / "17").iterdir())) == 6
    (tmp_path / "17" / "mine.txt").write_text("mine")
    folder.keep_one(folder.files()[17], 2, checksums[1])
    (tmp_path / "17" / "mine.txt").unlink()
    names = sorted(path.name for path in (tmp_path / "17").iterdir())
    assert [name[:12] for name in names] == ["epoch-000001", "epoch-000002"]
    assert checksums[1][:16] in names[1]
    # of a file that is gone: what there is may be as good
    folder.keep_one(folder.files()[17], 2, "0" * 64)
    folder.keep_one([], 2, "0" * 64)
    assert sorted(path.name for path in (tmp_path / "17").iterdir()) == names


def test_only_a_state_between_epochs_is_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="amid epoch 3"):
        StateFolder(tmp_path).save(replace(standing(), batch=1))


def test_no_room_is_the_callers_to_handle(tmp_path: Path) -> None:
    (tmp_path / "17").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="17"):
        StateFolder(tmp_path).save(standing())


def test_a_file_that_goes_away_while_it_is_read_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storage that is unmounted between two looks of the libraries at a file."""
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(2)}, path)
    assert manifests.tensors_in(path)["a"].tolist() == [1.0, 1.0]

    def read_late(late: Path) -> object:
        late.unlink()
        return torch.UntypedStorage.from_file(str(late), False, 8)

    monkeypatch.setattr(manifests, "load_file", read_late)
    with pytest.raises(FileNotFoundError, match="it is missing"):
        manifests.tensors_in(path)
