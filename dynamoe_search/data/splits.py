"""Disjoint, seeded training, validation and test parts, standardised with the training part's mean and deviation.

Legend: n examples, C channels, H rows, W columns; `x` is (n, C, H, W) float32, `y` (n,) int64.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from dynamoe_search.data.images import Array, RawImages
from dynamoe_search.errors import DataError
from dynamoe_search.specs.sections import DataSection
from dynamoe_search.specs.sizes import divided

_CHUNK_EXAMPLES = 1024


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Split:
    """One part of a data set: `x` (n, C, H, W) float32, standardised; `y` (n,) int64. On the CPU."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageData:
    """What a search may see of a data set: the training and the validation part, never the test part."""

    name: str
    train: Split
    validation: Split
    input_shape: tuple[int, int, int]  # (C, H, W)
    num_classes: int
    source: str  # where it was read from
    mean: tuple[float, ...]  # of the training part, per channel (per feature for flat data)
    std: tuple[float, ...]  # what is divided by; 1 where the training part is constant
    data_hash: str = ""  # of both parts as they were read; empty for data made by hand
    epoch_size: int | None = None  # training examples of an epoch; none means all

    @property
    def per_epoch(self) -> int:
        """Training examples that an epoch visits."""
        return min(self.epoch_size or len(self.train.y), len(self.train.y))


@dataclass(frozen=True, kw_only=True, slots=True)
class TextFacts:
    """What a text is made of.

    Attributes:
        tokenizer: What turns it into tokens.
        vocab_size: Different tokens; at most so many of a vocabulary that is still to be made.
        tokens: Of `train`, `validation` and `test`; None if they are not known.
        bytes_per_token: UTF-8 bytes that a token of the validation part stands for; None if not known.
        unknown_because: Why numbers are missing; then sizes are guesses.
    """

    tokenizer: str
    vocab_size: int
    tokens: dict[str, int] | None = None
    bytes_per_token: float | None = None
    unknown_because: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DataInfo:
    """The size of a data set, for estimates."""

    input_shape: tuple[int, ...]  # (C, H, W) of images, (tokens,) of text
    num_classes: int  # of text: entries of the vocabulary
    num_train: int
    num_validation: int
    epoch_size: int | None = None  # training examples of an epoch; none means all
    text: TextFacts | None = None  # of text that was described rather than loaded

    @property
    def per_epoch(self) -> int:
        """Training examples that an epoch visits."""
        return min(self.epoch_size or self.num_train, self.num_train)

    @property
    def is_guess(self) -> bool:
        """Whether the data were not looked at."""
        return self.text is not None and self.text.unknown_because is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class PartSizes:
    """How many examples each part gets; `test` is 0 for a set that comes with a test part of its own."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PartIndices:
    """Which examples each part gets: three disjoint arrays of row numbers, in random order."""

    train: Array
    validation: Array
    test: Array


def part_sizes(
    num_examples: int, section: DataSection, *, has_test: bool, unit: str = "examples"
) -> PartSizes:
    """Gives how many examples each part gets.

    The validation fraction is of what remains after the test part; `max_train` cuts the training part only, and
    the examples that it leaves out belong to no part.

    Args:
        num_examples: Examples of the training file, or of the whole set where there is only one.
        section: The fractions and `max_train`.
        has_test: Whether the set comes with a test part of its own.
        unit: What the examples are called in the message.

    Raises:
        DataError: A part would be empty.
    """
    train, validation, test = divided(num_examples, section, has_test=has_test)
    if train < 1:
        cure = (
            "" if num_examples < 3 else ", or lower data.validation_fraction or data.test_fraction"
        )
        raise DataError(
            f"data set {section.name}: {_several(num_examples, unit)} too few for a training part beside "
            f"{validation} for validation and {test} for the test; give more{cure}"
        )
    limit = train if section.max_train is None else section.max_train
    return PartSizes(train=min(train, limit), validation=validation, test=test)


def _several(number: int, unit: str) -> str:
    return f"1 {unit.removesuffix('s')} is" if number == 1 else f"{number:,} {unit} are"


def part_indices(y: Array, section: DataSection, *, has_test: bool) -> PartIndices:
    """Divides the examples at random, with the class shares of the whole in every part.

    Drawn in the order test, validation, training from one generator seeded with `split_seed`, so that the test part
    does not depend on `validation_fraction`, nor the validation part on `max_train`. Where a part is too small to
    hold every class, or a class has a single example, that part is drawn without regard to the classes.

    Args:
        y: Labels (n,).
        section: The fractions, `max_train` and `split_seed`.
        has_test: Whether the set comes with a test part of its own.

    Raises:
        DataError: A part would be empty.
    """
    sizes = part_sizes(len(y), section, has_test=has_test)
    generator = np.random.RandomState(section.split_seed)
    rest, test = _draw(np.arange(len(y)), y, sizes.test, generator)
    rest, validation = _draw(rest, y, sizes.validation, generator)
    _, train = _draw(rest, y, sizes.train, generator)
    return PartIndices(train=train, validation=validation, test=test)


def _draw(
    rows: Array, y: Array, count: int, generator: np.random.RandomState
) -> tuple[Array, Array]:
    """Gives the rows that remain and the `count` rows that were drawn, both in random order."""
    if count == 0:
        return rows, rows[:0]
    if count == len(rows):
        return rows[:0], generator.permutation(rows)
    _, per_class = np.unique(y[rows], return_counts=True)
    room = min(count, len(rows) - count)
    is_stratified = per_class.min() >= 2 and room >= len(per_class)
    kept, drawn = train_test_split(
        rows,
        test_size=count,
        random_state=generator,
        stratify=y[rows] if is_stratified else None,
    )
    return kept, drawn


class Standardizer:
    """Subtracts the training part's mean and divides by its standard deviation, per channel.

    Flat data are standardised per feature. A constant channel or feature becomes 0. The moments are summed in
    float64 by NumPy, so they do not depend on the number of threads.

    Args:
        train: Training examples (n, C, H, W).
        is_flat: Whether the last axis holds separate features.
        source: Where they were read, for messages.
    """

    def __init__(self, train: Array, *, is_flat: bool, source: str) -> None:
        self._axis = 3 if is_flat else 1
        self._source = source
        self._scaler = StandardScaler(copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            for rows in _chunks(len(train)):
                self._scaler.partial_fit(self._columns(train[rows]))

    @property
    def mean(self) -> tuple[float, ...]:
        """What is subtracted, per channel or feature."""
        return tuple(self._scaler.mean_.tolist())

    @property
    def std(self) -> tuple[float, ...]:
        """What is divided by, per channel or feature."""
        return tuple(self._scaler.scale_.tolist())

    def __call__(self, x: Array, y: Array) -> Split:
        """Gives the examples (n, C, H, W) and labels (n,) as a standardised part.

        Raises:
            DataError: The numbers are so large that the arithmetic overflows.
        """
        pixels = np.empty(x.shape, dtype=np.float32)
        channels_last = np.moveaxis(pixels, self._axis, -1)  # a view
        with np.errstate(over="ignore", invalid="ignore"):
            for rows in _chunks(len(x)):
                columns = self._scaler.transform(self._columns(x[rows]))
                channels_last[rows] = columns.reshape(channels_last[rows].shape)
        if not np.isfinite(pixels).all():
            raise DataError(f"{self._source}: the pixels are too large to be standardised")
        return Split(x=torch.from_numpy(pixels), y=torch.from_numpy(y))

    def _columns(self, x: Array) -> Array:
        """Gives a copy as (values, channels) in float32, or float64 where float32 would lose digits."""
        wide = np.moveaxis(x, self._axis, -1).astype(np.result_type(x.dtype, np.float32))
        return wide.reshape(-1, wide.shape[-1])


def _chunks(num_examples: int) -> list[slice]:
    """Gives ranges of rows that bound the memory of intermediate copies."""
    return [
        slice(start, start + _CHUNK_EXAMPLES) for start in range(0, num_examples, _CHUNK_EXAMPLES)
    ]


def search_parts(raw: RawImages, section: DataSection, *, has_test: bool) -> ImageData:
    """Divides a data set and gives the training and the validation part.

    Args:
        raw: The training file, or the whole set where there is only one.
        section: How to divide.
        has_test: Whether the set comes with a test part of its own.

    Raises:
        DataError: Too few examples.
    """
    parts = part_indices(raw.y, section, has_test=has_test)
    train = raw.x[parts.train], raw.y[parts.train]
    validation = raw.x[parts.validation], raw.y[parts.validation]
    standardize = Standardizer(train[0], is_flat=raw.is_flat, source=raw.source)
    return ImageData(
        name=section.name,
        train=standardize(*train),
        validation=standardize(*validation),
        input_shape=raw.input_shape,
        num_classes=raw.num_classes,
        source=raw.source,
        mean=standardize.mean,
        std=standardize.std,
        data_hash=_hash(*train, *validation),
        epoch_size=section.epoch_size,
    )


def _hash(*arrays: Array) -> str:
    """Gives the SHA-256 of arrays: of their types, shapes and bytes.

    They are taken before they are standardised, which machines may round differently.
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def held_out_test(raw: RawImages, official_test: RawImages | None, section: DataSection) -> Split:
    """Gives the test part, standardised as the training part is.

    Args:
        raw: The training file, or the whole set where there is only one.
        official_test: The set's own test part, if it comes with one.
        section: How to divide.

    Raises:
        DataError: Too few examples, or a test part of another shape.
    """
    parts = part_indices(raw.y, section, has_test=official_test is not None)
    standardize = Standardizer(raw.x[parts.train], is_flat=raw.is_flat, source=raw.source)
    if official_test is None:
        return standardize(raw.x[parts.test], raw.y[parts.test])
    if official_test.input_shape != raw.input_shape:
        raise DataError(
            f"{official_test.source}: the test images have shape {official_test.input_shape}, "
            f"the training images {raw.input_shape}"
        )
    return standardize(official_test.x, official_test.y)


__all__ = [
    "DataInfo",
    "ImageData",
    "PartIndices",
    "PartSizes",
    "Split",
    "Standardizer",
    "TextFacts",
    "held_out_test",
    "part_indices",
    "part_sizes",
    "search_parts",
]
