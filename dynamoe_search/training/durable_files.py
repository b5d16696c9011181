"""Files that last when the function returns. On a disk they appear whole or not at all.

On remote storage a file may appear before it is whole: there `{checksum}` must be in its name, or a checksum in its
text.
"""

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from safetensors.torch import save_file
from torch import Tensor

from dynamoe_search.places import AnyPath, RemotePath

PARTIAL = ".partial"
"""Suffix of a file in the making; `gc` removes what a killed process left."""


_DEPTH = 4
_Path = TypeVar("_Path", bound=AnyPath)


def make_folder(path: AnyPath) -> None:
    """Makes a folder and what is missing of the few above it that are a study's own.

    Storage that was unmounted or moved away is not made again in its place, where it would be in the way of what
    comes back.

    Raises:
        OSError: if more than that is missing, or there is no permission.
    """
    if isinstance(path, RemotePath):
        return
    missing = 0
    above = path
    while not above.exists():
        above, missing = above.parent, missing + 1
    if missing > _DEPTH:
        raise FileNotFoundError(errno.ENOENT, "the folder of the study is gone", str(path))
    path.mkdir(parents=True, exist_ok=True)


def sha256(path: Path) -> str:
    """Returns the checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(
    path: AnyPath, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> str:
    """Writes tensors, and texts in the file's header, as safetensors and returns the file's checksum.

    Args:
        path: Where to; `{checksum}` in its name becomes the first 16 digits of the checksum.
        tensors: Contiguous, without shared memory.
        metadata: The texts, by name.

    Raises:
        OSError: if there is no room, or no permission, or the storage does not answer.
        safetensors.SafetensorError: likewise.
    """
    header = dict(metadata) if metadata is not None else None
    return _write(path, lambda temporary: save_file(dict(tensors), temporary, header))


def write_text(path: AnyPath, text: str) -> str:
    """Writes text and returns the file's checksum; raises `OSError` if that is impossible."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    return _write(path, write)


def named(path: _Path, checksum: str) -> _Path:
    """Returns the path of a file that was written to `path`, see `write_tensors`."""
    name = path.name.replace("{checksum}", checksum[:16])
    return path.with_name(name)  # type: ignore[return-value]


def _write(path: AnyPath, write: Callable[[Path], None]) -> str:
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory(prefix="dynamoe-") as folder:
            here = Path(folder) / "content"
            write(here)
            checksum = sha256(here)
            named(path, checksum).put(here)
        return checksum
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        checksum = sha256(temporary)
        temporary.replace(named(path, checksum))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return checksum


def _sync_folder(folder: Path) -> None:
    """Makes a rename last; only POSIX can, and needs to."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
