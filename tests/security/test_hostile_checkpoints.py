"""Checkpoints of somebody else are data, and links are not followed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dynamoe_search.training.durable_files import sha256
from dynamoe_search.training.manifests import Manifest
from dynamoe_search.training.settings import DamagedError
from dynamoe_search.training.state_files import StateFolder
from dynamoe_search.training.states import CandidateState, circumstances
from tests.security.bombs import Bomb
from tests.training.populations import SETTINGS as TRAIN
from tests.training.populations import candidate, digits

HOSTILE_JSON = [
    "[" * 200_000,
    '{"content":' * 100_000,
    "null",
    '{"content": {"format": 2}}',
    '{"sha256": "../../x", "content": {"format": 2, "tensors": "/etc/passwd"}}',
    "1" * 10_000,
    "\ud800",
]


@pytest.fixture
def state() -> CandidateState:
    return CandidateState(
        candidate=candidate(0), epoch=1, batch=0, step=4, seconds=1.0, events=(),
        tensors={"w": torch.zeros(3)}, circumstances=circumstances(digits(), TRAIN),
    )  # fmt: skip


def load_state_of(folder: StateFolder) -> CandidateState:
    return folder.load(candidate(0), 1, None, digits(), TRAIN)


@pytest.mark.parametrize("text", HOSTILE_JSON)
def test_a_hostile_header_of_a_checkpoint_is_damage(
    text: str, state: CandidateState, tmp_path: Path
) -> None:
    folder = StateFolder(tmp_path / "states")
    folder.save(state)
    assert torch.equal(load_state_of(folder).tensors["w"], torch.zeros(3))
    (path,) = (tmp_path / "states" / "0").glob("*.safetensors")
    path.unlink()
    text = text.encode("utf-8", "replace").decode()
    save_file({"w": torch.zeros(3)}, path, {"state": text})
    path.rename(path.with_name(f"epoch-000001-{sha256(path)[:16]}.safetensors"))
    with pytest.raises(DamagedError):
        load_state_of(folder)


@pytest.mark.parametrize("text", HOSTILE_JSON)
def test_a_hostile_manifest_is_damage(text: str, tmp_path: Path) -> None:
    path = tmp_path / "epoch-000001-step-000000.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises((ValueError, RecursionError)):
        Manifest.read(path)


def test_a_checkpoint_that_is_a_pickle_is_damage(state: CandidateState, tmp_path: Path) -> None:
    canary, folder = tmp_path / "canary", StateFolder(tmp_path / "states")
    folder.save(state)
    (path,) = (tmp_path / "states" / "0").glob("*.safetensors")
    torch.save(Bomb(canary), path)
    path.rename(path.with_name(f"epoch-000001-{sha256(path)[:16]}.safetensors"))
    with pytest.raises(DamagedError):
        load_state_of(folder)
    assert not canary.exists()


def test_checkpoints_that_are_links_are_replaced_and_not_followed(
    state: CandidateState, tmp_path: Path
) -> None:
    folder, outside = StateFolder(tmp_path / "states"), tmp_path / "outside"
    folder.save(state)
    (path,) = (tmp_path / "states" / "0").glob("*.safetensors")
    path.rename(outside)
    path.symlink_to(outside)
    before = outside.read_bytes()
    folder.save(state)
    assert not path.is_symlink()
    path.unlink()
    path.symlink_to(outside)
    folder.remove(0)
    assert outside.read_bytes() == before


def test_a_folder_of_checkpoints_that_is_a_link_loses_nothing_of_others(
    state: CandidateState, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "letter.txt").write_text("mine")
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "0").symlink_to(outside)
    folder = StateFolder(tmp_path / "states")
    folder.save(state)
    folder.remove(0)
    assert (outside / "letter.txt").read_text() == "mine"
