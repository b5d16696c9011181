"""Token streams on disk: written once, whole or not at all, and read through a memory map.

    CACHE/tokens/KEY/train.npy, validation.npy, test.npy     int64, one axis; never pickled
    CACHE/tokens/KEY/manifest.json                           their checksums, and what else is worth keeping

Whatever is damaged or cut short does not agree with its manifest, and is written anew.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from dynamoe_search.cached_texts import MANIFEST, cache_folder
from dynamoe_search.data.images import Array
from dynamoe_search.errors import DataError, in_one_line

_LOOKS = 40
PARTS = ("train", "validation", "test")
_FORMAT = 1
_CHUNK_TOKENS = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What is kept beside the streams. Every table is by part."""

    num_documents: dict[str, int]
    num_bytes: dict[str, int]  # of the documents' text in UTF-8
    checksums: dict[str, str] = field(
        default_factory=dict
    )  # SHA-256 of the tokens, and of the tokenizer
    tokenizer: str = ""  # `Tokenizer.to_json` of one that was trained on the training part
    source: str = ""  # of the text, for people
    format: int = _FORMAT


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenStreams:
    """The tokens of each part (tokens,) int64, mapped into memory, and their manifest."""

    streams: dict[str, Array]
    manifest: Manifest


def key_of(ingredients: Mapping[str, object]) -> str:
    """Gives the name of a cache entry: a checksum of all that its content depends on."""
    text = json.dumps(dict(ingredients) | {"format": _FORMAT}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def is_cached(key: str) -> bool:
    """Tells whether there are streams under a key; they may be damaged."""
    return (cache_folder() / "tokens" / key / MANIFEST).is_file()


def cached_streams(key: str, write: Callable[[Path], Manifest]) -> TokenStreams:
    """Gives the streams under a key, written first if they are missing or damaged.

    Args:
        key: See `key_of`.
        write: Writes a raw file of int64 tokens for each of `PARTS` into the folder that it is given.

    Raises:
        DataError: The cache cannot be written.
    """
    folder = cache_folder() / "tokens" / key
    if (found := _read(folder)) is not None:
        return found
    with writing(folder, lambda: _read(folder) is not None) as fresh:
        manifest = write(fresh)
        checksums = {part: _to_npy(fresh / part) for part in PARTS}
        checksums["tokenizer"] = hashlib.sha256(manifest.tokenizer.encode()).hexdigest()
        entry = TypeAdapter(Manifest).dump_python(manifest) | {"checksums": checksums}
        (fresh / MANIFEST).write_text(json.dumps(entry), encoding="utf-8")
    for _ in range(_LOOKS):  # another process may be about to put a damaged one aside
        if (found := _read(folder)) is not None:
            return found
        time.sleep(0.05)
    raise DataError(f"{folder} was damaged while it was written; remove it and try again")


@contextmanager
def writing(path: Path, is_whole: Callable[[], bool]) -> Iterator[Path]:
    """Gives a new folder that takes the place of `path` when the body is through, or is removed if it fails.

    Args:
        path: Where a damaged entry may lie, or what another process wrote meanwhile.
        is_whole: Tells whether what lies there can be used; it then stays.

    Raises:
        DataError: There is no room, or no permission.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield fresh
        for file in fresh.iterdir():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        _place(fresh, path, is_whole)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _place(fresh: Path, path: Path, is_whole: Callable[[], bool]) -> None:
    """Moves a folder to where nothing lies, or something damaged."""
    with suppress(OSError):
        fresh.rename(path)  # fails if a folder with files lies there
        return
    if is_whole():
        return
    old = fresh.with_name(f"{fresh.name}.old")
    with suppress(FileNotFoundError):
        path.rename(old)
    shutil.rmtree(old, ignore_errors=True)
    try:
        fresh.rename(path)
    except OSError:
        if not path.is_dir():  # else another process was faster
            raise


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"the cache {path.parent} cannot be written: {in_one_line(error)}; make room there, or set "
        "XDG_CACHE_HOME to another folder"
    )


def _read(folder: Path) -> TokenStreams | None:
    """Gives the streams of a folder, or None if they are missing or damaged."""
    try:
        manifest = TypeAdapter(Manifest).validate_json((folder / MANIFEST).read_bytes())
        trained = hashlib.sha256(manifest.tokenizer.encode()).hexdigest()
        if manifest.format != _FORMAT or manifest.checksums.get("tokenizer") != trained:
            return None
        # "c": copies on writing, since a tensor on a read-only array is not allowed
        streams = {
            part: np.load(folder / f"{part}.npy", mmap_mode="c", allow_pickle=False)
            for part in PARTS
        }
    except (OSError, ValueError, EOFError, ValidationError):
        return None
    for part, stream in streams.items():
        if stream.dtype != np.int64 or stream.ndim != 1:
            return None
        if _checksum(stream) != manifest.checksums.get(part):
            return None
    mark_used(folder)
    return TokenStreams(streams=streams, manifest=manifest)


def mark_used(folder: Path) -> None:
    """Notes that an entry was used now, if its manifest may be touched."""
    with suppress(OSError):
        os.utime(folder / MANIFEST)


def _checksum(stream: Array) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(stream), _CHUNK_TOKENS):
        digest.update(stream[start : start + _CHUNK_TOKENS].astype("<i8", copy=False).tobytes())
    return digest.hexdigest()


def _to_npy(raw: Path) -> str:
    """Turns a raw file of int64 into an .npy file beside it, and gives the checksum of the tokens."""
    digest = hashlib.sha256()
    header = {"descr": "<i8", "fortran_order": False, "shape": (raw.stat().st_size // 8,)}
    with raw.open("rb") as source, raw.with_suffix(".npy").open("wb") as target:
        np.lib.format.write_array_header_1_0(target, header)
        while block := source.read(8 * _CHUNK_TOKENS):
            digest.update(block)
            target.write(block)
    raw.unlink()
    return digest.hexdigest()


__all__ = [
    "PARTS",
    "Manifest",
    "TokenStreams",
    "cached_streams",
    "is_cached",
    "key_of",
    "mark_used",
    "writing",
]
