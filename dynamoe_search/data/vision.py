"""MNIST, Fashion-MNIST and CIFAR-10: found in a folder, or downloaded, and read by torchvision.

The four IDX files of the MNIST family may lie in torchvision's own layout (`ROOT/MNIST/raw`) or directly in the root
folder, compressed or not, which is how Debian's package `dataset-fashion-mnist` installs them.
"""

import gzip
import http.client
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from dynamoe_search.data.images import (
    READ_ERRORS,
    Array,
    RawImages,
    check_images,
    reading,
)
from dynamoe_search.data.torchvision_compat import import_torchvision
from dynamoe_search.errors import DataError, in_one_line
from dynamoe_search.specs.sections import DataSection
from dynamoe_search.specs.vocabulary import DataName

_STALL_SECONDS = 30.0
_CIFAR_NAMES = ("cifar-10-batches-py", "cifar-10-python.tar.gz")


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionSet:
    """What is known of a published data set without reading it."""

    class_name: str  # in torchvision.datasets
    input_shape: tuple[int, int, int]  # (C, H, W)
    num_classes: int = 10
    system_folders: tuple[Path, ...] = ()  # where a package manager puts it
    is_idx: bool = True  # four files of the MNIST family


VISION_SETS: dict[DataName, VisionSet] = {
    "mnist": VisionSet(class_name="MNIST", input_shape=(1, 28, 28)),
    "fashion-mnist": VisionSet(
        class_name="FashionMNIST",
        input_shape=(1, 28, 28),
        system_folders=(Path("/usr/share/datasets/fashion-mnist"),),
    ),
    "cifar10": VisionSet(class_name="CIFAR10", input_shape=(3, 32, 32), is_idx=False),
}


def root_folder(section: DataSection) -> Path:
    """Gives the folder that holds or receives a named set: `data.path`, else the per-user data folder."""
    if section.path is not None:
        return user_path(section.path)
    return platformdirs.user_data_path("dynamoe-search") / "data"


def user_path(text: str) -> Path:
    """Gives a path as the user wrote it, with `~` resolved.

    Raises:
        DataError: `~name` names nobody.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise DataError(f"data.path {text}: {in_one_line(error)}") from error


def find_vision_set(section: DataSection) -> Path | None:
    """Gives the folder that holds the files of a named set, or None if it would have to be downloaded.

    Raises:
        DataError: The folder may not be looked into.
    """
    known = VISION_SETS[section.name]
    places = [folder for root in _roots(section) for folder in _layouts(root, known)]
    with reading(root_folder(section)):
        return next((folder for folder in places if _holds(folder, known)), None)


def read_vision_set(section: DataSection, *, is_train: bool) -> RawImages:
    """Gives one official part of a named set, downloaded first if need be.

    Args:
        section: Which set, where, and whether it may be downloaded.
        is_train: The training part, or else the test part.

    Raises:
        DataError: Not found, not downloadable or broken; the message says where it looked.
    """
    known = VISION_SETS[section.name]
    folder = find_vision_set(section)
    if folder is None and not section.download:
        looked = _places(section)
        raise DataError(
            f"{section.name} was not found in {looked}; set data.download = true or data.path"
        )
    if folder is not None and known.is_idx:
        x, y = _read_idx(folder, is_train=is_train)
    else:
        dataset_class = getattr(import_torchvision().datasets, known.class_name)
        with _fetching(section, is_found=folder is not None):
            x, y = read_torchvision(
                dataset_class, root_folder(section), is_train=is_train, download=section.download
            )
    source = str(folder or find_vision_set(section))
    raw = check_images(x, y, source=source, num_classes=known.num_classes)
    if raw.input_shape != known.input_shape:
        raise DataError(
            f"{source}: images of {section.name} have shape {known.input_shape}, got {raw.input_shape}"
        )
    return raw


def read_torchvision(
    dataset_class: Any, root: Path, *, is_train: bool, download: bool
) -> tuple[Array, Array]:
    """Gives pixels (n, C, H, W) and labels (n,) of a class of `torchvision.datasets` that keeps `data` and `targets`.

    CIFAR-10's files are pickles; torchvision compares their checksums with the published ones before it opens them.

    Args:
        dataset_class: For example `torchvision.datasets.CIFAR10`.
        root: Folder that holds or receives the files.
        is_train: The training part, or else the test part.
        download: Whether to download what is missing.
    """
    dataset = dataset_class(str(root), train=is_train, download=download)
    x = np.asarray(dataset.data)  # (n, H, W) or (n, H, W, C)
    return _channels_first(x), np.asarray(dataset.targets)


def _channels_first(x: Array) -> Array:
    return x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)


def _roots(section: DataSection) -> list[Path]:
    """Gives where to look: in `data.path` alone if it is set."""
    system = VISION_SETS[section.name].system_folders if section.path is None else ()
    return [root_folder(section), *system]


def _layouts(root: Path, known: VisionSet) -> list[Path]:
    return [root / known.class_name / "raw", root] if known.is_idx else [root]


def _holds(folder: Path, known: VisionSet) -> bool:
    if known.is_idx:
        return all(_idx_file(folder, name) for name in _idx_names(True) + _idx_names(False))
    return any((folder / name).exists() for name in _CIFAR_NAMES)


def _idx_names(is_train: bool) -> tuple[str, str]:
    stem = "train" if is_train else "t10k"
    return f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte"


def _idx_file(folder: Path, name: str) -> Path | None:
    """Gives the file, plain or compressed, or None."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read_idx(folder: Path, *, is_train: bool) -> tuple[Array, Array]:
    """Gives pixels (n, 1, H, W) and labels (n,) of two IDX files, through torchvision's own reader."""
    reader = import_torchvision().datasets.mnist
    images_name, labels_name = _idx_names(is_train)
    with _plain_idx(folder, images_name) as path:
        x = reader.read_image_file(str(path)).numpy()
    with _plain_idx(folder, labels_name) as path:
        y = reader.read_label_file(str(path)).numpy()
    return _channels_first(x), y


@contextmanager
def _plain_idx(folder: Path, name: str) -> Iterator[Path]:
    """Gives the path of an uncompressed copy that lives as long as the context; names the file if it is broken."""
    found = _idx_file(folder, name)
    if found is None:
        raise DataError(f"{folder / name} is missing")
    with reading(found), tempfile.TemporaryDirectory() as temporary:
        if found.suffix == ".gz":
            plain = Path(temporary) / name
            with gzip.open(found, "rb") as packed, plain.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
            yield plain
        else:
            yield found


@contextmanager
def _fetching(section: DataSection, *, is_found: bool) -> Iterator[None]:
    """Lets a stalled download fail, and turns what goes wrong into one sentence."""
    problem = (
        f"{section.name} in {root_folder(section)} is incomplete or broken"
        if is_found
        else f"{section.name} was not found in {_places(section)}"
    )
    stall_seconds = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALL_SECONDS if stall_seconds is None else stall_seconds)
    try:
        yield
    except (*READ_ERRORS, http.client.HTTPException) as error:
        if not section.download:
            raise DataError(f"{problem}; set data.download = true or data.path") from error
        raise DataError(
            f"{problem}, and the download to {root_folder(section)} failed: {in_one_line(error)}"
        ) from error
    finally:
        socket.setdefaulttimeout(stall_seconds)


def _places(section: DataSection) -> str:
    return " or ".join(str(root) for root in _roots(section))


__all__ = [
    "VISION_SETS",
    "VisionSet",
    "find_vision_set",
    "read_torchvision",
    "read_vision_set",
    "root_folder",
    "user_path",
]
