"""Whether the place of the studies' files can be used, and what to say if it cannot."""

import platform
import tempfile
import uuid
from pathlib import Path

from dynamoe_search.errors import StorageError
from dynamoe_search.places import AnyPath, PlaceError
from dynamoe_search.store.addresses import FILES_VARIABLE

_PROBE_BYTES = 4096  # an empty file has room on a full disk


def check_writable(folder: AnyPath, *, may_make: bool = False) -> None:
    """Returns if a file can be written in a folder; nothing is left of it.

    Args:
        folder: Where.
        may_make: Whether to make the folder if it is missing.

    Raises:
        StorageError: That is impossible; the message names this machine.
    """
    probe = folder / f".{uuid.uuid4().hex}.partial"
    try:
        if may_make:
            folder.mkdir(parents=True, exist_ok=True)
        _write(probe, bytes(_PROBE_BYTES))
    except OSError as error:
        raise unusable("write", folder, error) from error
    finally:
        _remove(probe)


def check_answers(folder: AnyPath) -> None:
    """Returns if the place of a folder answers, whether the folder is there or not.

    Raises:
        StorageError: It does not; the message names this machine.
    """
    try:
        folder.exists()
    except OSError as error:
        raise unusable("read", folder, error) from error


def unusable(act: str, folder: AnyPath, error: OSError) -> StorageError:
    """Returns the error to raise for one of the file system or of remote storage.

    Args:
        act: What was tried: `read` or `write`.
        folder: Where.
        error: What came of it.
    """
    if isinstance(error, PlaceError) and error.may_pass:
        cure = "check that this machine reaches the storage"
    elif isinstance(folder, Path):
        cure = "mend the permissions, make room"
    else:
        cure = "mend the permissions, make the bucket"
    return StorageError(
        f"{platform.node()} cannot {act} the files of the study in {folder} ({error.strerror or error}); "
        f"{cure}, or name another place in {FILES_VARIABLE}, the same on all machines"
    )


def _write(path: AnyPath, content: bytes) -> None:
    if isinstance(path, Path):
        path.write_bytes(content)
        return
    with tempfile.NamedTemporaryFile(prefix="dynamoe-") as file:
        file.write(content)
        file.flush()
        path.put(Path(file.name))


def _remove(path: AnyPath) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # it could not be written either, or `gc` finds it
        return
