"""The weights of candidates, written and read: one safetensors file per trial, those of the front only."""

from collections.abc import Mapping

from torch import Tensor

from dynamoe_search.errors import UsageError
from dynamoe_search.places import AnyPath, at_hand
from dynamoe_search.store.weight_files import SUFFIX, named, path_of
from dynamoe_search.training.durable_files import make_folder, sha256, write_tensors
from dynamoe_search.training.export import load_state


def save(folder: AnyPath, trial: int, state: Mapping[str, Tensor]) -> str:
    """Writes the weights of a trial and returns the checksum of the file; a reader sees the whole file or none.

    Raises:
        OSError: There is no room, or no permission, or the storage does not answer.
        safetensors.SafetensorError: Likewise.
    """
    make_folder(folder)
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    return write_tensors(folder / f"{trial}-{{checksum}}{SUFFIX}", tensors)


def load(folder: AnyPath, trial: int, checksum: str | None) -> dict[str, Tensor] | None:
    """Returns the weights of a trial on the CPU, None if they were not kept.

    Args:
        folder: Of the weights of a study.
        trial: Whose.
        checksum: What `save` returned; None if an older program wrote them, and the database does not say.

    Raises:
        UsageError: The file is damaged.
        PlaceError: The storage does not say.
    """
    place = path_of(folder, trial, checksum)
    if not place.exists():
        return None
    with at_hand(place) as path:
        mark = named(path.name)[1]
        if mark and not sha256(path).startswith(checksum or mark):
            raise UsageError(f"{place} is damaged")
        # copied to memory, if the file is here for a while only
        return {name: tensor.clone() for name, tensor in load_state(path).items()}
