"""What is too large to be said on a line: its tensors go through a file, the rest is said.

So nothing of a file is run: it holds tensors and nothing else. Who reads maps it into memory.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Large:
    """Something that was written.

    Attributes:
        path: File of its tensors.
        rest: Itself with places in place of tensors.
    """

    path: str
    rest: Any


@dataclass(frozen=True, slots=True)
class _Place:
    number: int


def write(value: Any, path: Path | str) -> Large:
    """Writes the tensors of a value made of records, mappings, lists and tuples.

    Raises:
        OSError: There is no room for it; of torch's own writer, `RuntimeError`.
    """
    tensors: list[Tensor] = []

    def taken(part: Any) -> Any:
        if not isinstance(part, Tensor):
            return part
        tensors.append(part)
        return _Place(len(tensors) - 1)

    rest = _changed(value, taken)
    torch.save(tensors, path)
    return Large(str(path), rest)


def read(large: Large) -> Any:
    """Returns what was written; its tensors lie in the file."""
    tensors: list[Tensor] = torch.load(large.path, mmap=True, weights_only=True)
    return _changed(large.rest, lambda part: tensors[part.number] if _is_place(part) else part)


_kept: dict[str, Any] = {}


def read_once(large: Large) -> Any:
    """Returns the same again, without reading it again, as long as nothing else was asked for."""
    if large.path not in _kept:
        _kept.clear()
        _kept[large.path] = read(large)
    return _kept[large.path]


def _is_place(part: Any) -> bool:
    return isinstance(part, _Place)


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """Returns a value with its smallest parts changed; what has none that changes is left as it is."""
    if isinstance(value, Mapping):
        items = {key: _changed(one, change) for key, one in value.items()}
        return items if any(items[key] is not value[key] for key in items) else value
    if type(value) in (list, tuple):
        parts = [_changed(one, change) for one in value]
        is_new = any(own is not before for own, before in zip(parts, value, strict=True))
        return type(value)(parts) if is_new else value
    if not dataclasses.is_dataclass(value) or isinstance(value, type | _Place | Large):
        return change(value)
    new = value
    for field in dataclasses.fields(value):
        before = getattr(value, field.name)
        after = _changed(before, change)
        if after is not before:
            new = copy.copy(value) if new is value else new
            object.__setattr__(new, field.name, after)
    return new
