"""What is handed to another process through a file: it comes back as it was, and the file holds tensors only."""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamoe_search.training.large import read, read_once, write


@dataclass(frozen=True, slots=True)
class Record:
    name: str
    part: Any = None
    others: dict[str, Any] = field(default_factory=dict)


tensors = st.lists(st.integers(0, 9), max_size=4).map(torch.tensor)
values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | tensors,
    lambda part: (
        st.lists(part, max_size=3)
        | st.lists(part, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2), part, max_size=3)
        | st.builds(Record, st.text(max_size=2), part, st.dictionaries(st.text(max_size=1), part))
    ),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, Record):
        return type(other) is Record and same(
            (one.name, one.part, one.others), (other.name, other.part, other.others)
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@given(values)
def test_it_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("large") / "file"
    assert same(read(write(value, path)), value)


def test_what_was_written_before_is_left_to_its_own_file(tmp_path: Path) -> None:
    inner = write(Record("inner", torch.arange(3)), tmp_path / "inner")
    outer = read(write([torch.zeros(2), inner], tmp_path / "outer"))
    assert torch.equal(read_once(outer[1]).part, torch.arange(3))
    assert read_once(outer[1]) is read_once(inner)


def test_the_file_names_no_class_of_ours(tmp_path: Path) -> None:
    write(Record("secret", torch.arange(3)), tmp_path / "file")
    with zipfile.ZipFile(tmp_path / "file") as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert b"Record" not in content
    assert b"secret" not in content
