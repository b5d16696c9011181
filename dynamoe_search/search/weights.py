"""The weights of candidates on disk: one safetensors file per trial, those of the front only."""

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from dynamoe_search.training.durable_files import write_tensors
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
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(path_of(folder, trial), {n: tensor.contiguous() for n, tensor in state.items()})


def load(folder: Path, trial: int) -> dict[str, Tensor] | None:
    """Returns the weights of a trial on the CPU, None if they were not kept."""
    path = path_of(folder, trial)
    return load_state(path) if path.exists() else None


def keep_only(folder: Path, trials: Collection[int]) -> None:
    """Removes the weights of all other trials; other workers may do the same, or write theirs.

    A folder that is a link is somebody else's: nothing in it is removed.
    """
    if folder.is_symlink():
        return
    kept = {path_of(folder, trial) for trial in trials}
    for path in folder.glob(f"*{_SUFFIX}"):
        if path.stem.isdecimal() and path not in kept:
            path.unlink(missing_ok=True)
