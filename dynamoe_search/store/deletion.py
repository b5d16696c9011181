"""What must be true before a study is deleted, and the end of its files."""

import shutil
import time
from collections.abc import Callable

from dynamoe_search.errors import StorageError, UsageError
from dynamoe_search.places import AnyPath, RemotePath
from dynamoe_search.records import Worker
from dynamoe_search.store.runs import lives_here, runner_of, this_process


def refuse_live_workers(
    name: str, workers: Callable[[str], list[Worker]], silence_seconds: float
) -> None:
    """Returns if no other process works on a study; of one on another machine it waits for a sign of life.

    Args:
        name: The study.
        workers: Returns the workers of a study as they are now.
        silence_seconds: How long a process of another machine must be silent to count as dead.

    Raises:
        UsageError: Another process is alive.
    """
    me = this_process()
    deadline = time.monotonic() + 2 * silence_seconds
    beats: dict[str, int] = {}
    while others := [one for one in workers(name) if one.is_alive and runner_of(one) != me]:
        for one in others:
            is_heard = beats.setdefault(one.id, one.beats) != one.beats
            if is_heard or lives_here(runner_of(one)) or time.monotonic() > deadline:
                raise UsageError(
                    f"the study {name!r} is being run by process {one.pid} on {one.host}; "
                    "stop it before deleting it"
                )
        time.sleep(silence_seconds / 60)


def delete_files(folder: AnyPath, parent: AnyPath) -> None:
    """Deletes one folder directly inside `parent`, following no links; it need not be there."""
    if folder.parent != parent:
        raise StorageError(f"{folder} is not a folder of this database; nothing was deleted")
    try:
        if isinstance(folder, RemotePath):
            folder.remove_tree()
        elif folder.is_symlink() or folder.is_file():
            folder.unlink()
        elif folder.is_dir():
            shutil.rmtree(folder)
    except OSError as error:
        raise StorageError(
            f"the files in {folder} cannot be deleted ({error.strerror}); delete the study again"
        ) from error
