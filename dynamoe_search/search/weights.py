"""The weights of candidates on disk: one safetensors file per trial, those of the front only."""

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from dynamoe_search.training.durable_files import make_folder, write_tensors
from dynamoe_search.training.export import load_state

_SUFFIX = ".safetensors"


def path_of(folder: Path, trial: int) -> Path:
    """Returns where the weights of a trial are, if they are kept."""
    return folder / f"{trial}{_SUFFIX}"


def save(folder: Path, trial: int, state: Mapping[str, Tensor]) -> None:
    """Writes the weights of a trial; a reader sees the whole file or none.

    Raises:
        OSError: There is no room, or no permission.
        safetensors.SafetensorError: Likewise.
    """
    make_folder(folder)
    write_tensors(path_of(folder, trial), {n: tensor.contiguous() for n, tensor in state.items()})


def load(folder: Path, trial: int) -> dict[str, Tensor] | None:
    """Returns the weights of a trial on the CPU, None if they were not kept."""
    path = path_of(folder, trial)
    return load_state(path) if path.exists() else None


def trials_in(folder: Path) -> set[int]:
    """Returns the trials whose weights are there; none behind a link, where somebody else's files are."""
    if folder.is_symlink() or folder.parent.is_symlink():
        return set()
    stems = {path.stem for path in folder.glob(f"*{_SUFFIX}")}
    return {int(stem) for stem in stems if stem.isascii() and stem.isdecimal()}


def remove(folder: Path, trials: Collection[int]) -> None:
    """Removes the weights of trials; other workers may do the same at the same time."""
    for trial in trials:
        path_of(folder, trial).unlink(missing_ok=True)
