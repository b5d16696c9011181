"""`StateFolder`: where candidates stand between two legs, one file for each candidate and epoch. No pickle.

    17/epoch-000005-0123456789abcdef.safetensors

The file holds the tensors, and in its header everything else of a `CandidateState`. It is named by the first 16
digits of its SHA-256 checksum. So who writes the same epoch again, such as a worker that was taken for dead and wakes
up, replaces the file only by an equal one.
"""

import contextlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass

import safetensors

from dynamoe_search.data import SearchData
from dynamoe_search.places import (
    AnyPath,
    PlaceError,
    RemotePath,
    at_hand,
    bytes_in,
    listed,
    remove_tree,
)
from dynamoe_search.records import Candidate
from dynamoe_search.training.durable_files import make_folder, sha256, write_tensors
from dynamoe_search.training.manifests import FORMAT, first_line, tensors_in, unwrapped, wrapped
from dynamoe_search.training.settings import DamagedError, Events, TrainSettings
from dynamoe_search.training.states import CandidateState, circumstances

_KEPT = 2
_KEY = "state"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    """What a state is besides tensors."""

    format: int
    candidate: Candidate
    epoch: int
    step: int
    seconds: float
    events: Events
    circumstances: dict[str, str]


class StateFolder:
    """The states of a study's candidates at the ends of epochs.

    Args:
        path: A folder of its own; it is made when the first state is saved.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path

    def save(self, state: CandidateState) -> str:
        """Writes a state to the disk and returns the checksum of its file, which covers everything.

        Of this candidate the state before this one is kept too, and older ones are removed.

        Raises:
            OSError: if there is no room, or no permission.
            safetensors.SafetensorError: likewise.
            ValueError: if it is not a state between two epochs.
        """
        if state.batch:
            raise ValueError(f"a state amid epoch {state.epoch + 1}")
        header = _Header(
            format=FORMAT,
            candidate=state.candidate,
            epoch=state.epoch,
            step=state.step,
            seconds=state.seconds,
            events=state.events,
            circumstances=dict(state.circumstances),
        )
        folder = self._folder(state.ordinal)
        make_folder(folder)
        path = folder / f"epoch-{state.epoch:06d}-{{checksum}}.safetensors"
        checksum = write_tensors(path, state.tensors, {_KEY: wrapped(asdict(header))})
        before = [epoch for epoch in self.epochs(state.ordinal) if epoch <= state.epoch]
        self._remove(state.ordinal, before[:-_KEPT])
        return checksum

    def load(
        self,
        candidate: Candidate,
        epoch: int,
        checksum: str | None,
        data: SearchData,
        settings: TrainSettings,
    ) -> CandidateState:
        """Reads where a candidate stood after an epoch.

        Args:
            candidate: Whose state.
            epoch: Epochs finished.
            checksum: What `save` returned; None takes any whole file of that epoch.
            data: What the training is to go on with.
            settings: Likewise.

        Raises:
            DamagedError: if it is missing, damaged, or of other circumstances.
            PlaceError: if the storage does not say.
        """
        why = "it is missing"
        for path in self._paths(candidate.ordinal, epoch):
            if checksum is not None and not path.stem.endswith(checksum[:16]):
                continue
            try:
                return _read(path, checksum, candidate, epoch, circumstances(data, settings))
            except PlaceError:
                raise
            except (OSError, ValueError, RecursionError, safetensors.SafetensorError) as error:
                why = first_line(error)
        raise DamagedError(
            f"the checkpoint of candidate {candidate.ordinal} at epoch {epoch} cannot be used: "
            f"{why}",
            ordinal=candidate.ordinal,
        )

    def epochs(self, ordinal: int) -> list[int]:
        """Returns the epochs of which a candidate has files, ascending."""
        return sorted({_epoch_of(path) for path in self._paths(ordinal)})

    def files(self) -> dict[int, dict[AnyPath, int]]:
        """Returns the files of each candidate that has a folder, with their bytes; on remote storage of one listing."""
        found: dict[int, dict[AnyPath, int]] = defaultdict(dict)
        if isinstance(self.path, RemotePath):
            for place, size in self.path.files().items():
                owner, *below = place.relative_to(self.path).parts
                if below and owner.isascii() and owner.isdecimal():
                    found[int(owner)][place] = size
            return dict(found)
        for folder in self.path.glob("*"):
            if folder.name.isascii() and folder.name.isdecimal() and folder.is_dir():
                own = found[int(folder.name)]
                for file in folder.glob("*"):
                    with contextlib.suppress(FileNotFoundError):  # another worker may remove it now
                        own[file] = bytes_in(file)
        return dict(found)

    def keep_one(self, files: Collection[AnyPath], epoch: int, checksum: str) -> None:
        """Removes what killed processes wrote beside the file of an epoch; seconds differ, so its name does too.

        Args:
            files: What there is of a candidate in no leg.
            epoch: Where it stands.
            checksum: Of the file to keep there; of an earlier epoch the first file is kept.
        """
        found: dict[int, list[AnyPath]] = defaultdict(list)
        for path in sorted(files, key=str):
            if (kept := _epoch_of(path)) >= 0:
                found[kept].append(path)
        for kept, paths in found.items():
            named = [path for path in paths if path.stem.endswith(checksum[:16])]
            best = named[0] if named else paths[0] if kept < epoch else None
            for path in paths:
                if best is not None and path != best:
                    path.unlink(missing_ok=True)

    def remove(self, ordinal: int) -> None:
        """Removes all files of a candidate, as far as that is possible."""
        remove_tree(self._folder(ordinal))

    def _folder(self, ordinal: int) -> AnyPath:
        return self.path / str(ordinal)

    def _paths(self, ordinal: int, epoch: int | None = None) -> Iterator[AnyPath]:
        for path in listed(self._folder(ordinal), "epoch-*.safetensors"):
            if _epoch_of(path) == epoch or (epoch is None and _epoch_of(path) >= 0):
                yield path

    def _remove(self, ordinal: int, epochs: Collection[int]) -> None:
        for epoch in epochs:
            for path in self._paths(ordinal, epoch):
                path.unlink(missing_ok=True)


def _epoch_of(path: AnyPath) -> int:
    """The epoch in a file's name; -1 if it is another file."""
    match = re.fullmatch(r"epoch-(\d+)-[0-9a-f]{16}\.safetensors", path.name, re.ASCII)
    return int(match[1]) if match else -1


def _read(
    place: AnyPath, checksum: str | None, candidate: Candidate, epoch: int, facts: dict[str, str]
) -> CandidateState:
    with at_hand(place) as path:
        found = sha256(path)
        if not path.stem.endswith(found[:16]) or checksum not in (None, found):
            raise ValueError(f"{path.name} is damaged")
        tensors = tensors_in(path)
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY, "null")
    header = unwrapped(_Header, text)
    if header.candidate != candidate or header.epoch != epoch:
        raise ValueError("it is of another candidate or another epoch")
    if header.circumstances != facts:
        raise ValueError("it was made on other data, with other settings or other versions")
    return CandidateState(
        candidate=header.candidate,
        epoch=header.epoch,
        batch=0,
        step=header.step,
        seconds=header.seconds,
        events=header.events,
        tensors=tensors,
        circumstances=header.circumstances,
    )
