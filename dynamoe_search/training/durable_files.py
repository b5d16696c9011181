"""Files that appear whole or not at all, and are on the disk when the function returns."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

PARTIAL = ".partial"
"""Suffix of a file in the making; `gc` removes what a killed process left."""


def sha256(path: Path) -> str:
    """Returns the checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Writes tensors as safetensors and returns the file's checksum.

    Raises:
        OSError: if there is no room, or no permission.
        safetensors.SafetensorError: likewise.
    """
    return _write(path, lambda temporary: save_file(dict(tensors), temporary))


def write_text(path: Path, text: str) -> str:
    """Writes text and returns the file's checksum; raises `OSError` if that is impossible."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    return _write(path, write)


def _write(path: Path, write: Callable[[Path], None]) -> str:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        checksum = sha256(temporary)
        temporary.replace(path)
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
