"""What stands in a checkpoint besides tensors, as checksummed JSON."""

import errno
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file

from dynamoe_search.places import AnyPath, at_hand
from dynamoe_search.records import Candidate, Outcome, Progress
from dynamoe_search.training.durable_files import sha256
from dynamoe_search.training.settings import Events

FORMAT = 2

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How a candidate of the pack ended; `weights` is the checksum of their file, None for a failed one."""

    outcome: Outcome
    weights: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything of a pack on its leg that is not a tensor."""

    format: int
    circumstances: dict[str, str]  # what could change a number, besides the candidates
    candidates: tuple[Candidate, ...]  # all that began together, in order
    live: tuple[int, ...]  # ordinals of those still in training, in order
    start: int  # epoch at which the leg began
    epoch: int
    batch: int  # steps in the epoch that has begun
    step: int
    seconds: tuple[float, ...]  # of all that began
    epoch_seconds: float  # of the whole pack in the epoch that has begun
    histories: tuple[Events, ...]  # open experts over time, of the live
    reports: tuple[Progress, ...]  # of this leg
    ends: tuple[End, ...]
    tensors: str | None  # checksum of their file; None if nobody is left in training

    @classmethod
    def read(cls, path: AnyPath) -> "Manifest":
        """Reads a manifest; raises `OSError` or `ValueError` if it is none, or damaged."""
        return read_content(cls, path)

    def seconds_of(self) -> dict[int, float]:
        """Returns everybody's share of the time, by ordinal."""
        ordinals = [candidate.ordinal for candidate in self.candidates]
        return dict(zip(ordinals, self.seconds, strict=True))

    def check(
        self, pack: Sequence[Candidate], facts: Mapping[str, str], *, start: int, until: int
    ) -> None:
        """Raises `ValueError` if it is not of this pack, on this leg, under these circumstances."""
        if self.circumstances != facts:
            raise ValueError("it was made on other data, with other settings or other versions")
        if not set(pack) <= set(self.candidates):
            raise ValueError("it is of other candidates")
        if self.start != start or not start <= self.epoch <= until:
            raise ValueError("it is of another leg")
        ended = [end.outcome.ordinal for end in self.ends]
        live = set(self.live)
        ordinals = [candidate.ordinal for candidate in self.candidates]
        if not {candidate.ordinal for candidate in pack} <= live | set(ended):
            raise ValueError("somebody to train is missing in it")
        if (
            not live <= set(ordinals)
            or len({*live, *ended}) != len(self.live) + len(ended)
            or len(self.histories) != len(live)
            or len(self.seconds) != len(ordinals)
            or bool(live) != (self.tensors is not None)
        ):
            raise ValueError("it contradicts itself")


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A pack that is trained in parts."""

    format: int
    parts: tuple[tuple[int, ...], ...]  # ordinals
    is_memory: bool  # whether it was split because memory ran out

    def divide(self, pack: Sequence[Candidate]) -> list[list[Candidate]]:
        """Returns the parts of a pack; raises `ValueError` if they are not parts of it."""
        ordinals = [ordinal for part in self.parts for ordinal in part]
        if len(set(ordinals)) < len(ordinals) or len(self.parts) < 2:
            raise ValueError("it contradicts itself")
        if not {candidate.ordinal for candidate in pack} <= set(ordinals):
            raise ValueError("it is of other candidates")
        return [[one for one in pack if one.ordinal in part] for part in self.parts]


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def wrapped(content: Mapping[str, Any]) -> str:
    """Returns content as JSON with its checksum."""
    return json.dumps({"sha256": _checksum(content), "content": content})


def read_content(kind: type[_T], path: AnyPath) -> _T:
    """Reads what `wrapped` made of a record; raises `OSError` or `ValueError` if it is none, or damaged."""
    return unwrapped(kind, path.read_text(encoding="utf-8"))


def unwrapped(kind: type[_T], text: str) -> _T:
    """Returns the record that `wrapped` made a text of; raises `ValueError` if it is none, or damaged."""
    envelope = json.loads(text)
    content = envelope.get("content") if isinstance(envelope, dict) else None
    if not isinstance(content, dict) or envelope.get("sha256") != _checksum(content):
        raise ValueError("its manifest is damaged")
    if content.get("format") != FORMAT:
        raise ValueError(f"it has format {content.get('format')}, and this version reads {FORMAT}")
    record: _T = _adapter(kind).validate_python(content)  # type: ignore[arg-type]
    return record


def _checksum(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def verified(place: AnyPath, checksum: str) -> dict[str, torch.Tensor]:
    """Returns the tensors of a safetensors file with this checksum.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it has another one, or is no such file.
    """
    with at_hand(place) as path:
        if sha256(path) != checksum:
            raise ValueError(f"{path.name} is damaged")
        return tensors_in(path)


def tensors_in(path: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors of a safetensors file, unchecked.

    Raises:
        OSError: if it cannot be read, or went away meanwhile.
        ValueError: if it is no such file.
    """
    try:
        tensors = load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path.name} is not a safetensors file") from error
    except RuntimeError as error:  # of torch, which opens it once more
        if path.exists():
            raise
        raise FileNotFoundError(errno.ENOENT, "it is missing", str(path)) from error
    # copied: to memory of torch's own alignment, on which rounding may depend, and free of the file
    return {name: tensor.clone() for name, tensor in tensors.items()}


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message."""
    return (str(error) or type(error).__name__).partition("\n")[0]
