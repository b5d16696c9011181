"""Images as they are read, before they are divided and standardised, and the checks that all of them go through.

Legend: n examples, C channels, H rows, W columns; pixels are (n, C, H, W), labels (n,).
"""

import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from sklearn.datasets import load_digits

from dynamoe_search.errors import DataError, in_one_line
from dynamoe_search.wording import counted

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

DIGITS_SOURCE = "scikit-learn (load_digits)"

READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    RuntimeError,
    AssertionError,
    SyntaxError,
    MemoryError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    tokenize.TokenError,
    zipfile.BadZipFile,
)
"""What NumPy, zipfile, gzip, Pillow and torchvision raise on a broken or unreadable file."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RawImages:
    """Examples as they stand in their files.

    `x` is (n, C, H, W) of any real dtype, `y` (n,) int64 in 0 .. num_classes - 1. `is_flat` says that the last axis
    holds features that have nothing to do with each other, so that each is standardised by itself.
    """

    x: Array
    y: Array
    num_classes: int
    source: str
    is_flat: bool = False

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one example."""
        _, channels, height, width = self.x.shape
        return channels, height, width


@contextmanager
def reading(where: object) -> Iterator[None]:
    """Turns what goes wrong while a file is read into one sentence.

    Args:
        where: The file or folder that is read, as the message names it.

    Raises:
        DataError: The body failed.
    """
    try:
        yield
    except DataError:
        raise
    except READ_ERRORS as error:
        raise DataError(f"cannot read {where}: {in_one_line(error)}") from error


def read_digits() -> RawImages:
    """Gives the 1,797 handwritten digits of scikit-learn, 8x8 pixels in 0 .. 16; they need no file.

    Source: Alpaydin and Kaynak, 1998, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository.
    """
    digits = load_digits()
    return RawImages(
        x=digits.images[:, None].astype(np.float32),  # (n, 1, 8, 8)
        y=digits.target.astype(np.int64),
        num_classes=10,
        source=DIGITS_SOURCE,
    )


def check_images(
    x: Array, y: Array, *, source: str, num_classes: int | None = None, is_flat: bool = False
) -> RawImages:
    """Gives the examples as a record, if they can be trained on.

    Args:
        x: Pixels (n, C, H, W).
        y: Labels (n,).
        source: Where they were read, for messages.
        num_classes: How many classes the data set has; none means that the labels show it.
        is_flat: Whether the last axis holds separate features.

    Raises:
        DataError: No examples, lengths that differ, pixels that are not finite numbers, or labels that are not
            0, 1, ..., num_classes - 1.
    """
    if x.dtype.kind not in "buif":
        raise DataError(f"{source}: the pixels must be real numbers, got {x.dtype}")
    if x.size == 0:
        raise DataError(f"{source}: there are no pixels, the shape is {x.shape}")
    if y.ndim != 1 or len(y) != len(x):
        raise DataError(
            f"{source}: there must be one label per image, "
            f"got {counted(len(x), 'image')} and labels of shape {y.shape}"
        )
    if x.dtype.kind == "f":
        broken = int(len(x) - np.isfinite(x).reshape(len(x), -1).all(axis=1).sum())
        if broken:
            raise DataError(f"{source}: {broken} of {len(x)} examples hold NaN or infinite pixels")
    count = _count_classes(y, source) if num_classes is None else num_classes
    if num_classes is not None and not (y.min() >= 0 and y.max() < num_classes):
        raise DataError(
            f"{source}: labels must lie in 0 to {num_classes - 1}, got {y.min()} to {y.max()}"
        )
    return RawImages(x=x, y=y.astype(np.int64), num_classes=count, source=source, is_flat=is_flat)


def _count_classes(y: Array, source: str) -> int:
    """Gives how many classes there are, if the labels are 0, 1, ..., C - 1 without a gap."""
    allowed = "labels must be the integers 0, 1, ..., classes - 1"
    if y.dtype.kind not in "bui":
        raise DataError(f"{source}: {allowed}, got {y.dtype}")
    classes = np.unique(y).astype(object)  # Python integers: any width, no overflow
    if classes[0] < 0:
        raise DataError(f"{source}: {allowed}, got {classes[0]}")
    if classes[-1] != len(classes) - 1:
        first_numbers = range(min(classes[-1], len(classes) + 6))  # labels may be huge
        missing = sorted(set(first_numbers) - set(classes))
        named = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise DataError(
            f"{source}: {allowed}, got labels up to {classes[-1]} but no example of class {named}"
        )
    if len(classes) < 2:
        raise DataError(f"{source}: at least 2 classes are needed, got 1")
    return len(classes)


__all__ = [
    "DIGITS_SOURCE",
    "READ_ERRORS",
    "Array",
    "RawImages",
    "check_images",
    "read_digits",
    "reading",
]
