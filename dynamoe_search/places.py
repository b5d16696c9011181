"""Where files are: a folder of this machine, or storage that other machines reach too, by any fsspec URL.

An `AnyPath` is one of both. `RemotePath` has those methods of `pathlib.Path` that this program needs, so that whoever
lists, reads and removes files need not know which it is.

Object stores have no rename and no folders, and a reader of some storage sees half of what is being written. So whoever
writes there gives every content a name of its own (`is_remote`, `durable_files.named`), names what makes it count last,
and whoever reads compares checksums.
"""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import fsspec

from dynamoe_search.credentials import Mask, masked, secrets_in
from dynamoe_search.errors import StorageError

_SEPARATOR = "://"
_FEW_SLASHES = re.compile(r"([a-z][a-z0-9+.-]+):/([^/].*)", re.I)
"""A URL that lacks a slash; the drive of a Windows path has one letter."""
_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "ocilake", "oss", "tos")
"""Storage without folders; to make one there would make a bucket."""
_LASTING = (PermissionError, FileExistsError, NotImplementedError, TypeError, ValueError)
"""What does not pass by waiting; a name that speaks of credentials or of invalid parameters does not either."""
_LASTING_NAMES = re.compile("Credential|Validation|Unauthorized|Forbidden|Auth")

Result = TypeVar("Result")


class PlaceError(StorageError, OSError):
    """Remote storage that could not be asked, which says nothing of what is there.

    Args:
        message: Where, and why.
        reason: Why.
        may_pass: Whether the same may work later.
    """

    def __init__(self, message: str, reason: str, *, may_pass: bool) -> None:
        super().__init__(message)
        self.strerror = reason
        self.may_pass = may_pass

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, order=True, slots=True, repr=False)
class RemotePath:
    """A file or folder on storage that fsspec knows; there is a folder as long as there is something in it.

    Attributes:
        root: URL of the storage and of a folder in it, as the user wrote it; it may hold a password.
        inner: Path below it.
    """

    root: str
    inner: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (masked(self.root), self.inner)))

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __truediv__(self, inner: str | Path) -> "RemotePath":
        return RemotePath(self.root, "/".join(filter(None, (self.inner, str(inner)))))

    @property
    def name(self) -> str:
        """Last part of the path."""
        return PurePosixPath(self.inner or masked(self.root)).name

    @property
    def stem(self) -> str:
        """Last part of the path without its suffix."""
        return PurePosixPath(self.inner).stem

    @property
    def parent(self) -> "RemotePath":
        """The folder that it is in; the root has itself."""
        return RemotePath(self.root, self.inner.rpartition("/")[0])

    def with_name(self, name: str) -> "RemotePath":
        """Returns another file of the same folder."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> "RemotePath":
        """Returns the same with another suffix."""
        return self.with_name(self.stem + suffix)

    def relative_to(self, folder: "RemotePath") -> PurePosixPath:
        """Returns the path below a folder."""
        return PurePosixPath(self.inner).relative_to(folder.inner)

    def exists(self) -> bool:
        """Says whether there is such a file, or something in such a folder."""
        return self._kind() is not None

    def is_dir(self) -> bool:
        """Says whether something is in such a folder."""
        return self._kind() == "directory"

    def is_file(self) -> bool:
        """Says whether there is such a file."""
        return self._kind() == "file"

    def is_symlink(self) -> bool:
        """Storage of this kind has no links."""
        return False

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a folder is there once something is in it."""

    def iterdir(self) -> Iterator["RemotePath"]:
        """Yields what is in a folder; nothing if there is none."""
        own, found = self._listed(lambda storage, key: storage.ls(key, detail=True))
        yield from (self / path for path in _below(own, found))

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Yields what is in a folder and has such a name; nothing if there is none."""
        yield from (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def rglob(self, pattern: str) -> Iterator["RemotePath"]:
        """Yields all files with such a name in a folder and those in it."""
        yield from (path for path in self.files() if fnmatchcase(path.name, pattern))

    def files(self) -> dict["RemotePath", int]:
        """Returns all files in a folder and in those in it, with their bytes, of one listing."""
        own, found = self._listed(lambda storage, key: storage.find(key, detail=True).values())
        return {self / path: int(size) for path, size in _below(own, found).items()}

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes a file."""
        try:
            self._ask(lambda storage, key: storage.rm_file(key))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self) -> None:
        """Removes a folder and all that is in it; it need not be there."""
        with suppress(FileNotFoundError):
            self._ask(lambda storage, key: storage.rm(key, recursive=True))

    def read_text(self, encoding: str = "utf-8") -> str:
        """Returns the text of a file."""
        content: bytes = self._ask(lambda storage, key: storage.cat_file(key))
        return content.decode(encoding)

    def fetch(self, target: Path) -> None:
        """Copies it to a file of this machine, part by part."""
        self._ask(lambda storage, key: storage.get_file(key, str(target)))

    def put(self, source: Path) -> None:
        """Copies a file of this machine to it, part by part."""
        try:
            self._ask(lambda storage, key: _put(storage, str(source), key, self.root))
        except FileNotFoundError:
            reason = "there is no such bucket or folder"
            raise PlaceError(f"{self}: {reason}", reason, may_pass=False) from None

    def _kind(self) -> str | None:
        """What it is; what the libraries say of themselves takes every failure for a no."""
        try:
            return str(self._ask(lambda storage, key: storage.info(key))["type"])
        except FileNotFoundError:
            return None

    def _listed(
        self, ask: Callable[[fsspec.AbstractFileSystem, str], Iterable[Mapping[str, Any]]]
    ) -> tuple[str, list[Mapping[str, Any]]]:
        """Returns its own key and what is listed in it; nothing if there is no such folder."""
        try:
            return self._ask(lambda storage, key: (key, list(ask(storage, key))))
        except FileNotFoundError:
            return "", []

    def _ask(self, question: Callable[[fsspec.AbstractFileSystem, str], Result]) -> Result:
        """Returns the answer of the storage, as of now.

        Raises:
            FileNotFoundError: There is no such thing.
            PlaceError: There is no answer.
        """
        try:
            storage, key = fsspec.core.url_to_fs(self.root)
            storage.invalidate_cache()  # others write, too
            return question(storage, "/".join(filter(None, (key.rstrip("/"), self.inner))))
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "it is missing", str(self)) from None
        except Exception as error:  # noqa: BLE001 - every kind of storage has errors of its own
            raise _place_error(self, error) from None  # it may show what no log may


AnyPath: TypeAlias = Path | RemotePath


def place_of(text: str, source: str) -> AnyPath:
    """Returns the place that a path or a URL means; it need not exist.

    Args:
        text: A path, `file:///...`, or a URL of any storage that fsspec knows, such as `s3://bucket/studies`.
        source: What it was read from, for messages.

    Raises:
        StorageError: Nothing is known of such storage, or the Python package for it is missing.
    """
    protocol = text.partition(_SEPARATOR)[0] if _SEPARATOR in text else "file"
    where = f"{source}={masked(text)}"
    if "::" in text:
        raise StorageError(f"{where} chains URLs; name one storage, such as s3://bucket/studies")
    if protocol == "file":
        if _SEPARATOR not in text:
            if slashes := _FEW_SLASHES.match(text):
                meant = masked("{}://{}".format(*slashes.groups()))
                raise StorageError(f"{source} is neither a path nor a URL; write {meant}")
            return Path(text)
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise StorageError(f"{where} names no folder; write it like file:///shared/dynamoe")
        return Path(url2pathname(parts.path))
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError:
        raise StorageError(
            f"{where} names an unknown kind of storage ({protocol}); "
            "use a folder, s3://BUCKET/PATH, gs://BUCKET/PATH or another URL of fsspec"
        ) from None
    except ImportError as error:
        package = _missing_package(error)
        raise StorageError(
            f"{where} needs the Python package {package}, which is not installed; "
            f"install it with: pip install {package}"
        ) from None
    return RemotePath(text.rstrip("/"))


def is_remote(place: AnyPath) -> bool:
    """Says whether files appear there as they are written, and cannot be renamed."""
    return isinstance(place, RemotePath)


@contextmanager
def at_hand(place: AnyPath) -> Iterator[Path]:
    """Gives a file of this machine with the content of a file, a copy if it is elsewhere.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be read, or not be kept here for a while.
    """
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="dynamoe-") as folder:
        path = Path(folder) / place.name
        place.fetch(path)
        yield path


def listed(folder: AnyPath, pattern: str = "*", *, below: bool = False) -> list[AnyPath]:
    """Returns what is in a folder, in the order of the names; nothing if there is none.

    Args:
        folder: Where.
        pattern: Of the names.
        below: Whether to look in the folders in it, too.
    """
    if isinstance(folder, Path):
        return [*sorted(folder.rglob(pattern) if below else folder.glob(pattern))]
    return [*sorted(folder.rglob(pattern) if below else folder.glob(pattern))]


def remove_tree(place: AnyPath) -> None:
    """Removes a folder with all that is in it, as far as that is possible."""
    if isinstance(place, Path):
        shutil.rmtree(place, ignore_errors=True)
        return
    with suppress(OSError):
        place.remove_tree()


def bytes_in(place: AnyPath) -> int:
    """Returns the bytes of a file, or of all files in a folder; links count nothing."""
    if isinstance(place, RemotePath):
        return sum(place.files().values())
    if place.is_symlink() or not place.exists():
        return 0
    if place.is_file():
        return place.stat().st_size
    return sum(
        one.stat().st_size for one in place.rglob("*") if one.is_file() and not one.is_symlink()
    )


def copy_tree(source: AnyPath, target: AnyPath) -> None:
    """Copies a folder with all that is in it; links of this machine are copied as links to a folder of this machine.

    Raises:
        OSError: It cannot be read or written, or, of this machine, the target is there already.
        shutil.Error: Likewise.
    """
    if isinstance(source, Path) and isinstance(target, Path):
        shutil.copytree(source, target, symlinks=True)
        return
    files = (
        list(source.files())
        if isinstance(source, RemotePath)
        else [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
    )
    for path in files:
        copy = target / str(path.relative_to(source))  # type: ignore[arg-type,operator]
        with at_hand(path) as here:
            if isinstance(copy, RemotePath):
                copy.put(here)
            else:
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(here, copy)


def _below(folder: str, listed: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Returns paths below a folder and their bytes; some storage lists the folder itself, too."""
    start = len(folder.strip("/"))
    found = {str(one["name"]).strip("/")[start:]: float(one.get("size") or 0) for one in listed}
    return {path.strip("/"): size for path, size in found.items() if path}


def _put(storage: fsspec.AbstractFileSystem, source: str, key: str, root: str) -> None:
    try:
        storage.put_file(source, key)
    except FileNotFoundError:
        if root.partition(_SEPARATOR)[0] in _BUCKETS:
            raise
        storage.makedirs(key.rpartition("/")[0], exist_ok=True)
        storage.put_file(source, key)


def _place_error(place: RemotePath, error: Exception) -> PlaceError:
    mask = Mask(secrets_in({**os.environ, "URL": place.root}))
    reason = mask(str(error)).strip().partition("\n")[0] or type(error).__name__
    may_pass = not isinstance(error, _LASTING) and not _LASTING_NAMES.search(type(error).__name__)
    return PlaceError(f"{place} cannot be used: {reason}", reason, may_pass=may_pass)


def _missing_package(error: ImportError) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    module = (cause.name or "").partition(".")[0]
    return {"smbclient": "smbprotocol", "gdrive_fsspec": "gdrive-fsspec"}.get(module, module)
