"""The weights of candidates: one safetensors file per trial, those of the front only.

    17-0123456789abcdef.safetensors     by the beginning of its checksum, which the database names
    17.safetensors                      on a disk, of a study that an older program ran

So a worker that counted as dead and wakes up writes over nobody's weights, which on a CUDA device differ in their last
digits, and half a file is recognised.
"""

import re
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from dynamoe_search.errors import UsageError
from dynamoe_search.places import AnyPath, at_hand, listed
from dynamoe_search.training.durable_files import make_folder, sha256, write_tensors
from dynamoe_search.training.export import load_state

_SUFFIX = ".safetensors"


def path_of(folder: AnyPath, trial: int, checksum: str | None) -> AnyPath:
    """Returns where the weights of a trial are, or would be if they were kept.

    Args:
        folder: Of the weights of a study.
        trial: Whose.
        checksum: What `save` returned; None if an older program wrote them, and the database does not say.
    """
    if checksum is not None and re.fullmatch("[0-9a-f]{64}", checksum):  # else it is no checksum
        return folder / f"{trial}-{checksum[:16]}{_SUFFIX}"
    found = list(_paths(folder, [trial]))
    return found[-1] if found else folder / f"{trial}{_SUFFIX}"


def save(folder: AnyPath, trial: int, state: Mapping[str, Tensor]) -> str:
    """Writes the weights of a trial and returns the checksum of the file; a reader sees the whole file or none.

    Raises:
        OSError: There is no room, or no permission, or the storage does not answer.
        safetensors.SafetensorError: Likewise.
    """
    make_folder(folder)
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    return write_tensors(folder / f"{trial}-{{checksum}}{_SUFFIX}", tensors)


def load(folder: AnyPath, trial: int, checksum: str | None) -> dict[str, Tensor] | None:
    """Returns the weights of a trial on the CPU, None if they were not kept.

    Args:
        folder: Of the weights of a study.
        trial: Whose.
        checksum: As for `path_of`.

    Raises:
        UsageError: The file is damaged.
        PlaceError: The storage does not say.
    """
    place = path_of(folder, trial, checksum)
    if not place.exists():
        return None
    with at_hand(place) as path:
        mark = _named(path.name)[1]
        if mark and not sha256(path).startswith(checksum or mark):
            raise UsageError(f"{place} is damaged")
        # copied to memory, if the file is here for a while only
        return {name: tensor.clone() for name, tensor in load_state(path).items()}


def trials_in(folder: AnyPath) -> set[int]:
    """Returns the trials whose weights are there; none behind a link, where somebody else's files are."""
    if folder.is_symlink() or folder.parent.is_symlink():
        return set()
    return {_named(path.name)[0] for path in _paths(folder)}


def remove(folder: AnyPath, trials: Collection[int]) -> None:
    """Removes the weights of trials; other workers may do the same at the same time."""
    for path in _paths(folder, trials) if trials else ():
        path.unlink(missing_ok=True)


def _paths(folder: AnyPath, trials: Collection[int] | None = None) -> Iterable[AnyPath]:
    """Returns the files of some trials or of all, in the order of their names."""
    found = listed(folder, f"*{_SUFFIX}")
    return [
        path
        for path in found
        if (trial := _named(path.name)[0]) >= 0 and (trials is None or trial in trials)
    ]


def _named(name: str) -> tuple[int, str]:
    """Returns the trial of a file and the beginning of its checksum, if it is in the name; -1 for other files."""
    match = re.fullmatch(r"(\d+)(?:-([0-9a-f]{16}))?\.safetensors", name, re.ASCII)
    return (int(match[1]), match[2] or "") if match else (-1, "")
