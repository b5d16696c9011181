"""Finds and removes files that no study needs: folders without a study, half-written files, cut-short deletions.

So does it with the weights that a worker that counted as dead wrote, and its successor again.
"""

import shutil
from dataclasses import dataclass
from typing import Literal

from dynamoe_search.errors import StorageError
from dynamoe_search.places import AnyPath, RemotePath, bytes_in, listed
from dynamoe_search.records import FilesMark
from dynamoe_search.store import Store, weight_files


@dataclass(frozen=True, kw_only=True, slots=True)
class Garbage:
    """One thing that can go: a folder or file, or a study whose deletion did not end."""

    kind: Literal["folder", "file", "study"]
    name: str  # path, or name of the study
    num_bytes: int
    path: AnyPath | None = None


def find_garbage(store: Store) -> list[Garbage]:
    """Returns what can be removed; files of a running study are left alone, and what may be another database's.

    Args:
        store: The open database; only files beside it are looked at.
    """
    entries = listed(
        store.folder
    )  # before the studies are read: one that is made meanwhile is none of them
    records = store.studies()
    folders = {store.files_of(record.name): record for record in records}
    found = [
        Garbage(kind="study", name=record.name, num_bytes=bytes_in(store.files_of(record.name)))
        for record in records
        if record.state == "deleting"
    ]
    for entry in entries:
        record = folders.get(entry)
        if record is None:
            if store.may_share_folder and listed(entry, FilesMark.PATTERN):
                continue  # somebody runs, or ran, a study there that this database knows nothing of
            found.append(
                Garbage(kind="folder", name=str(entry), num_bytes=bytes_in(entry), path=entry)
            )
        elif record.state not in ("running", "deleting"):
            paths = [*listed(entry, "*.partial", below=True), *_outdated(store, record.name)]
            found += [
                Garbage(kind="file", name=str(path), num_bytes=bytes_in(path), path=path)
                for path in paths
            ]
    return found


def _outdated(store: Store, name: str) -> list[AnyPath]:
    """Returns the weights of a study that are not those that the database names."""
    found = weight_files.present(store.files_of(name) / weight_files.FOLDER)
    records = store.candidates(name, trials=found.keys()) if found else []
    return weight_files.outdated(found, {one.trial: one.weights for one in records})


def remove_garbage(store: Store, garbage: list[Garbage]) -> None:
    """Removes what `find_garbage` found; links are removed, not followed.

    Raises:
        StorageError: Something cannot be removed; what came before it is gone.
    """
    for item in garbage:
        if item.kind == "study":
            store.delete_study(item.name)
            continue
        path = item.path
        assert path is not None
        try:
            if isinstance(path, RemotePath):
                path.remove_tree()
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{path} cannot be removed: {error.strerror}") from error
