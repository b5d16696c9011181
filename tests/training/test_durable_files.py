"""Files that appear whole or not at all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dynamoe_search.training.durable_files import sha256, write_tensors, write_text


def test_tensors_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([True]), "c": torch.tensor(2)}
    assert write_tensors(path, state) == sha256(path)
    loaded = load_file(path)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    shared = torch.ones(3)
    broken: dict[str, Tensor] = {"a": shared, "b": shared}  # safetensors refuses shared memory
    with pytest.raises(RuntimeError):
        write_tensors(path, broken)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert load_file(path).keys() == state.keys()


def test_a_link_is_replaced_and_what_it_names_stays(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("theirs")
    link = tmp_path / "link"
    link.symlink_to(other)
    write_text(link, "ours")
    assert (other.read_text(), link.read_text(), link.is_symlink()) == ("theirs", "ours", False)
