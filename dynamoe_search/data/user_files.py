"""The user's own data: an `.npz` archive with `x` and `y`, or a folder with one sub-folder of images per class."""

import os
import warnings
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from dynamoe_search.data.images import Array, RawImages, check_images, reading
from dynamoe_search.data.torchvision_compat import import_torchvision
from dynamoe_search.data.vision import user_path
from dynamoe_search.errors import DataError
from dynamoe_search.specs.sections import DataSection

_PART_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
_GREY_MODES = frozenset({"1", "L"})
_DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})


def find_user_files(section: DataSection) -> Path | None:
    """Gives the archive or the folder, or None if there is none at `data.path`.

    Raises:
        DataError: The path cannot be a path, or may not be looked at.
    """
    if section.path is None:
        return None
    path = user_path(section.path)
    with reading(path):
        exists = path.is_file() if section.name == "npz" else path.is_dir()
    return path if exists else None


def read_npz(section: DataSection) -> RawImages:
    """Gives the arrays `x` and `y` of an archive that `numpy.savez` wrote.

    `x` is (n, H, W), (n, H, W, C), (n, C, H, W) or (n, features); flat features become (n, 1, 1, features) and are
    standardised one by one. Of four axes, the shorter one of the second and the last is the channels (the second if
    they are equally long). `y` is (n,), integers 0 .. classes - 1. Pickled objects are never loaded.

    Raises:
        DataError: The archive is missing, broken, or holds something else.
    """
    path = _required(section)
    with reading(path), path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            raise DataError(f"{path} is a single array; write x and y with numpy.savez")
        file.seek(0)
        if not zipfile.is_zipfile(file):
            raise DataError(f"{path} is no .npz archive; write x and y with numpy.savez")
        file.seek(0)
        archive = np.load(file, allow_pickle=False)
        missing = {"x", "y"} - set(archive.files)
        if missing:
            raise DataError(
                f"{path} must hold the arrays x and y, got {', '.join(archive.files) or 'none'}"
            )
        x, y = np.asarray(archive["x"]), np.asarray(archive["y"])
    return check_images(_four_axes(x, path), y, source=str(path), is_flat=x.ndim == 2)


def _four_axes(x: Array, path: Path) -> Array:
    """Gives the pixels as (n, C, H, W)."""
    if x.ndim == 2:
        return x[:, None, None]  # (n, 1, 1, features)
    if x.ndim == 3:
        return x[:, None]  # (n, 1, H, W)
    if x.ndim == 4:
        return x.transpose(0, 3, 1, 2) if x.shape[3] < x.shape[1] else x
    raise DataError(
        f"{path}: x must have the shape (n, height, width), (n, height, width, channels), "
        f"(n, channels, height, width) or (n, features), got {x.shape}"
    )


def read_folder(section: DataSection) -> RawImages:
    """Gives the images of a folder, classes and files in alphabetical order, hidden folders left out.

    Grey if all images are grey, else RGB without transparency. Scaled to `image_size`, or all of one size already.

    Raises:
        DataError: No such folder, fewer than two classes, a class without images, an image that cannot be read,
            or images of different sizes.
    """
    root = _required(section)
    with reading(root):
        classes = sorted(
            entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != "."
        )
    if len(classes) < 2:
        raise DataError(
            f"{root} must hold one sub-folder of images for each of at least 2 classes, "
            f"got {', '.join(classes) or 'none'}"
        )
    if _PART_NAMES.issuperset(name.lower() for name in classes):
        raise DataError(
            f"{root} holds parts ({', '.join(classes)}) instead of classes; "
            "set data.path to one of them, it is divided with data.split_seed"
        )
    files = import_torchvision().datasets.folder
    numbers = {name: number for number, name in enumerate(classes)}
    with reading(root):
        samples = files.make_dataset(str(root), numbers, extensions=files.IMG_EXTENSIONS)
    x = _stack([_open_image(path, section.image_size) for path, _ in samples], samples)
    y = np.array([number for _, number in samples], dtype=np.int64)
    return check_images(x, y, source=str(root))


def _open_image(path: str, image_size: int | None) -> Image.Image:
    """Gives one image in grey (`L`) or RGB, scaled to a square if a size is given."""
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # damaged tags that Pillow can do without
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as opened:
                if opened.mode in _DEEP_MODES:
                    raise DataError(
                        f"{path} has more than 8 bits per channel (mode {opened.mode}); "
                        "convert it to 8 bits"
                    )
                is_grey = opened.mode in _GREY_MODES
                # to RGB through RGBA, because a palette may carry transparency
                image = opened.convert("L" if is_grey else "RGBA")
                image = image if is_grey else image.convert("RGB")
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise DataError(f"cannot read {path}: {error}") from error
        if image_size is not None:
            image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
        return image


def _stack(images: list[Image.Image], samples: list[tuple[str, int]]) -> Array:
    """Gives all images as (n, C, H, W) bytes."""
    for image, (path, _) in zip(images, samples, strict=True):
        if image.size != images[0].size:
            raise DataError(
                f"images have different sizes, {images[0].size} in {samples[0][0]} and "
                f"{image.size} in {path}; set data.image_size to scale them"
            )
    mode = "L" if all(image.mode == "L" for image in images) else "RGB"
    pixels = np.stack([np.asarray(image.convert(mode)) for image in images])  # (n, H, W[, C])
    return pixels[:, None] if mode == "L" else pixels.transpose(0, 3, 1, 2)


def _required(section: DataSection) -> Path:
    """Gives the path of the user's data, which must exist."""
    kind = "file" if section.name == "npz" else "folder"
    if section.path is None:
        raise DataError(f"data.path must name the {kind} when data.name is {section.name}")
    path = find_user_files(section)
    if path is None:
        where = user_path(section.path).absolute()
        if where.exists():
            raise DataError(
                f"{where} (data.path) is no {kind}, which data.name = {section.name} needs"
            )
        raise DataError(f"there is no {kind} {where} (data.path)")
    return path


__all__ = ["find_user_files", "read_folder", "read_npz"]
