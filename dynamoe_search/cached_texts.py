"""What texts have left in the per-user cache: which entries there are, how long nobody used them, and removing them.

Every entry can be made again: tokens from their text, documents from where they were streamed. An entry is used
whenever it is read, which sets the time of its manifest. Nothing but what this program writes there is looked at.
No torch here, so that whoever only removes files need not load it.
"""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from pydantic import BaseModel, ConfigDict, ValidationError

from dynamoe_search.errors import DataError, in_one_line

MANIFEST = "manifest.json"
"""Of every entry; its time is when the entry was last used."""
KINDS = ("tokens", "documents")
LEFT_BEHIND_SECONDS = 86_400.0
"""A half-written entry that nobody touched for so long is nobody's any more."""
_WHOLE = re.compile(r"[0-9a-f]{32}")
_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\..+")
_DAY = 86_400.0


class _Told(BaseModel):
    """What of a manifest is of interest here."""

    model_config = ConfigDict(extra="ignore")

    source: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedText:
    """One entry of the cache.

    Attributes:
        path: Its folder.
        kind: `tokens` or `documents`; `unfinished` if whoever wrote it was cut short.
        source: Where the text came from; empty if the entry does not say.
        num_bytes: What it takes.
        idle_seconds: Time since it was last used.
    """

    path: Path
    kind: str
    source: str
    num_bytes: int
    idle_seconds: float


def cache_folder() -> Path:
    """Returns the per-user folder for what can be made again; on Linux ~/.cache/dynamoe-search (see XDG_CACHE_HOME)."""
    return platformdirs.user_cache_path("dynamoe-search")


def find_cached(now: float | None = None) -> list[CachedText]:
    """Returns the entries of the cache, the longest unused first.

    Args:
        now: Seconds since 1970; none is the clock's.

    Raises:
        DataError: The cache cannot be read.
    """
    moment = time.time() if now is None else now
    found = []
    for kind in KINDS:
        folder = cache_folder() / kind
        try:
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.is_symlink() or not path.is_dir():
                    continue  # not of this program
                if _WHOLE.fullmatch(path.name):
                    found.append(_entry(path, kind, moment))
                elif _UNFINISHED.fullmatch(path.name):
                    found.append(_entry(path, "unfinished", moment))
        except OSError as error:
            raise DataError(f"the cache {folder} cannot be read: {in_one_line(error)}") from error
    return sorted(found, key=lambda one: -one.idle_seconds)


def unused(
    entries: Sequence[CachedText], *, days: float, most_bytes: int | None = None
) -> list[CachedText]:
    """Returns which entries can go: those unused for too long, and the longest unused beyond a size.

    What another process is writing stays.

    Args:
        entries: See `find_cached`.
        days: Whoever was not used for so long goes; 0 is everybody.
        most_bytes: What may stay in all; none is no limit.
    """
    gone = [one for one in entries if one.idle_seconds >= _limit(one, days)]
    if most_bytes is not None:
        kept = [one for one in entries if one not in gone and one.kind in KINDS]
        excess = sum(one.num_bytes for one in kept) - most_bytes
        for one in sorted(kept, key=lambda each: -each.idle_seconds):
            if excess <= 0:
                break
            gone.append(one)
            excess -= one.num_bytes
    return gone


def remove_cached(entries: Iterable[CachedText]) -> None:
    """Removes entries; whoever reads one meanwhile has it whole or not at all.

    Raises:
        DataError: Something cannot be removed; what came before it is gone.
    """
    for one in entries:
        try:
            aside = Path(tempfile.mkdtemp(dir=one.path.parent, prefix=f".{'0' * 32}."))
            with suppress(FileNotFoundError):  # another process was faster
                one.path.rename(aside / one.path.name)
            shutil.rmtree(aside)
        except OSError as error:
            raise DataError(f"{one.path} cannot be removed: {in_one_line(error)}") from error


def _limit(entry: CachedText, days: float) -> float:
    return LEFT_BEHIND_SECONDS if entry.kind == "unfinished" else days * _DAY


def _entry(path: Path, kind: str, now: float) -> CachedText:
    files = list(_files(path))
    times = [at for at, _ in files] or [path.stat().st_mtime]
    return CachedText(
        path=path,
        kind=kind,
        source=_source(path),
        num_bytes=sum(size for _, size in files),
        idle_seconds=max(0.0, now - max(times)),
    )


def _files(folder: Path) -> Iterator[tuple[float, int]]:
    """Yields when each file was written and how long it is; what is gone meanwhile is left out."""
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                state = os.lstat(Path(place) / name)
            except FileNotFoundError:
                continue
            yield state.st_mtime, state.st_size


def _source(path: Path) -> str:
    try:
        return _Told.model_validate_json((path / MANIFEST).read_bytes()).source
    except (OSError, ValidationError):
        return ""


__all__ = ["MANIFEST", "CachedText", "cache_folder", "find_cached", "remove_cached", "unused"]
