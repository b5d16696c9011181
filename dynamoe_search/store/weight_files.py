"""The files of the weights of candidates: their names, whose they are, and which of them nobody needs.

    17-0123456789abcdef.safetensors     by the beginning of its checksum, which the database names
    17.safetensors                      on a disk, of a study that an older program ran

So a worker that counted as dead and wakes up writes over nobody's weights, which on a CUDA device differ in their last
digits, and half a file is recognised.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from dynamoe_search.places import AnyPath, listed

FOLDER = "models"
"""Name of the folder of the weights among the files of a study."""
SUFFIX = ".safetensors"


def path_of(folder: AnyPath, trial: int, checksum: str | None) -> AnyPath:
    """Returns where the weights of a trial are, or would be if they were kept.

    Args:
        folder: Of the weights of a study.
        trial: Whose.
        checksum: Of the file; None if an older program wrote it, and the database does not say.
    """
    if (mark := _mark(checksum)) is not None:
        return folder / f"{trial}-{mark}{SUFFIX}"
    found = _files(folder).get(trial)
    return found[-1] if found else folder / f"{trial}{SUFFIX}"


def present(folder: AnyPath) -> dict[int, list[AnyPath]]:
    """Returns what is there, by trial; nothing behind a link, where somebody else's files are."""
    if folder.is_symlink() or folder.parent.is_symlink():
        return {}
    return _files(folder)


def outdated(
    found: Mapping[int, Sequence[AnyPath]], known: Mapping[int, str | None]
) -> list[AnyPath]:
    """Returns the files of trials that are over, and whose weights have another name in the database.

    They were written by a worker that counted as dead. It may be alive, but nothing that it writes into the database
    can name them any more. Of a trial that is not over any file may be the one that will be named.

    Args:
        found: Files by trial.
        known: What the database says of the checksum of the weights, by trial; None if it does not, as of a trial that
            is not over.
    """
    return [
        path
        for trial, checksum in known.items()
        if (mark := _mark(checksum)) is not None
        for path in found.get(trial, ())
        if named(path.name)[1] != mark
    ]


def remove(folder: AnyPath, trials: Collection[int]) -> None:
    """Removes the weights of trials; other workers may do the same at the same time."""
    for trial, paths in _files(folder).items() if trials else ():
        for path in paths if trial in trials else ():
            path.unlink(missing_ok=True)


def named(name: str) -> tuple[int, str]:
    """Returns the trial of a file and the beginning of its checksum, if it is in the name; -1 for other files."""
    match = re.fullmatch(r"(\d+)(?:-([0-9a-f]{16}))?\.safetensors", name, re.ASCII)
    return (int(match[1]), match[2] or "") if match else (-1, "")


def _mark(checksum: str | None) -> str | None:
    """Returns what a file's name has of a checksum; None for what is none."""
    return checksum[:16] if checksum and re.fullmatch("[0-9a-f]{64}", checksum) else None


def _files(folder: AnyPath) -> dict[int, list[AnyPath]]:
    """Returns the files by trial, in the order of their names."""
    found: dict[int, list[AnyPath]] = defaultdict(list)
    for path in listed(folder, f"*{SUFFIX}"):
        if (trial := named(path.name)[0]) >= 0:
            found[trial].append(path)
    return dict(found)
