"""Whether a worker looks for the files of a study where the others do, and can write there: seen before it trains.

The first worker of a study writes a small file among its files, and into the database who wrote it and where. Whoever
comes later must find that file. So a folder that is not mounted, or another one, makes nobody train all again.
"""

import json
import logging
import os
import platform
import time
import uuid
from datetime import UTC, datetime

from dynamoe_search.credentials import masked
from dynamoe_search.errors import StorageError
from dynamoe_search.places import AnyPath, PlaceError
from dynamoe_search.records import FilesMark, to_json
from dynamoe_search.search.study_files import StudyFiles
from dynamoe_search.store import Store
from dynamoe_search.store.addresses import FILES_VARIABLE
from dynamoe_search.store.folders import check_writable, unusable
from dynamoe_search.training.durable_files import write_text

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 5.0  # what another machine wrote just now may not be seen at once
_POLL_SECONDS = 0.5


def require_files(store: Store, name: str) -> None:
    """Returns if the files of a study are here and can be written; the first to ask says where they are.

    Args:
        store: The open database.
        name: The study.

    Raises:
        StorageError: They are somewhere else, or cannot be read or written; the message names both machines.
        UsageError: There is no such study.
    """
    folder, mark = store.files_of(name), store.files_mark(name)
    if mark is None:
        own = _new(folder, name)
        _write(folder, folder / own.file, to_json(own))
        mark = store.claim_files(name, own)
        if mark.id != own.id:  # another was faster
            (folder / own.file).unlink(missing_ok=True)
    if not is_here(folder, mark, _PATIENCE_SECONDS):
        raise StorageError(missing(folder, mark))
    check_writable(folder)


def is_here(folder: AnyPath, mark: FilesMark, patience_seconds: float = 0.0) -> bool:
    """Says whether a folder is the one that the first worker of a study wrote to.

    Args:
        folder: Where the files of the study should be.
        mark: What the first worker wrote.
        patience_seconds: How long to wait for it.

    Raises:
        StorageError: That cannot be read.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            found = json.loads((folder / mark.file).read_text(encoding="utf-8"))
            if isinstance(found, dict) and found.get("id") == mark.id:
                return True
        except PlaceError as error:
            raise unusable("read", folder, error) from error
        except (FileNotFoundError, NotADirectoryError, ValueError):  # or not whole yet
            pass
        except OSError as error:
            raise unusable("read", folder, error) from error
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)


def missing(folder: AnyPath, mark: FilesMark) -> str:
    """Returns what to say where the files of a study are not."""
    here, chosen = platform.node(), os.environ.get(FILES_VARIABLE)
    what = f"{FILES_VARIABLE} is {masked(chosen)}" if chosen else f"{FILES_VARIABLE} is not set"
    if (mark.host, mark.place) == (here, str(folder)):
        return (
            f"the files of the study {mark.study!r} are gone from {folder} on {here}, where they were since "
            f"{mark.made_at[:19]}: removed, or not mounted; put them back, or copy the study with the command copy: "
            "the copy trains again what is missing"
        )
    return (
        f"the files of the study {mark.study!r} are in {mark.place} on {mark.host}, and {here} looks in {folder}, "
        f"where they are not ({what}); let {FILES_VARIABLE} name one folder or URL that both reach, "
        "mount it, and write the URL of the database the same way on both"
    )


def _new(folder: AnyPath, name: str) -> FilesMark:
    return FilesMark(
        id=uuid.uuid4().hex,
        study=name,
        host=platform.node(),
        place=str(folder),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _write(folder: AnyPath, path: AnyPath, text: str) -> None:
    try:
        StudyFiles(folder).make()
        write_text(path, text)
    except OSError as error:
        raise unusable("write", folder, error) from error
