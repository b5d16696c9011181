"""Data sets of images and of text as tensors: named ones and the user's own, in three disjoint parts.

`load_data` gives what a search may see, `load_test` the test part alone. The division depends on the `[data]` section
only, so both can be called in different processes, years apart.
"""

from typing import TypeAlias

from dynamoe_search.data.images import DIGITS_SOURCE, RawImages, read_digits
from dynamoe_search.data.sources import find_text
from dynamoe_search.data.splits import (
    DataInfo,
    ImageData,
    Split,
    TextFacts,
    held_out_test,
    part_sizes,
    search_parts,
)
from dynamoe_search.data.text import (
    TextData,
    TextSplit,
    load_test_text,
    load_text,
)
from dynamoe_search.data.text_sizes import describe_text
from dynamoe_search.data.torchvision_compat import import_torchvision
from dynamoe_search.data.user_files import find_user_files, read_folder, read_npz
from dynamoe_search.data.vision import VISION_SETS, find_vision_set, read_vision_set
from dynamoe_search.data.vocabularies import Tokenizer, load_tokenizer
from dynamoe_search.specs.sections import DataSection
from dynamoe_search.specs.sizes import NUM_EXAMPLES
from dynamoe_search.specs.vocabulary import TEXT_NAMES

SearchData: TypeAlias = ImageData | TextData
"""What a search may see of a data set, of either kind."""


def load_data(section: DataSection) -> SearchData:
    """Gives the training and the validation part of a data set, on the CPU.

    `TextData` for the sets in `TEXT_NAMES`, else `ImageData`.

    Args:
        section: The `[data]` section of a study file.

    Raises:
        DataError: The data are missing, broken, of the wrong shape or too few; the message says where it looked.
    """
    if section.name in TEXT_NAMES:
        return load_text(section)
    return search_parts(_read(section), section, has_test=section.name in VISION_SETS)


def load_test(section: DataSection) -> Split | TextSplit:
    """Gives the test part; of images, standardised with the training part's mean and deviation, on the CPU.

    The official test part where the set has one, else the examples that `load_data` leaves out for it.

    Args:
        section: The `[data]` section of a study file.

    Raises:
        DataError: As for `load_data`.
    """
    if section.name in TEXT_NAMES:
        return load_test_text(section)
    official = read_vision_set(section, is_train=False) if section.name in VISION_SETS else None
    return held_out_test(_read(section), official, section)


def find_data(section: DataSection) -> str | None:
    """Gives where a data set would be read from, without reading it, or None if it is not on this machine.

    Raises:
        DataError: `data.path` cannot be a path, or may not be looked at.
    """
    if section.name == "digits":
        return DIGITS_SOURCE
    if section.name in TEXT_NAMES:
        return find_text(section)
    found = find_vision_set(section) if section.name in VISION_SETS else find_user_files(section)
    return None if found is None else str(found)


def describe(section: DataSection, *, quickly: bool = False) -> DataInfo:
    """Gives the size of a data set: from what is published of a named one, else by reading it.

    Args:
        section: The `[data]` section of a study file.
        quickly: Whether to guess where a vocabulary would have to be made from a long text first.

    Raises:
        DataError: A part would be empty, or the user's own data cannot be read.
    """
    if section.name in TEXT_NAMES:
        return describe_text(section, quickly=quickly)
    if section.name == "digits":
        shape, num_classes, num_examples = (1, 8, 8), 10, NUM_EXAMPLES["digits"]
    elif section.name in VISION_SETS:
        known = VISION_SETS[section.name]
        shape, num_classes = known.input_shape, known.num_classes
        num_examples = NUM_EXAMPLES[section.name]
    else:
        raw = _read(section)
        shape, num_classes, num_examples = raw.input_shape, raw.num_classes, len(raw.y)
    sizes = part_sizes(num_examples, section, has_test=section.name in VISION_SETS)
    return DataInfo(
        input_shape=shape,
        num_classes=num_classes,
        num_train=sizes.train,
        num_validation=sizes.validation,
        epoch_size=section.epoch_size,
    )


def _read(section: DataSection) -> RawImages:
    """Gives the training file of a set with an official test part, or else the whole set."""
    if section.name == "digits":
        return read_digits()
    if section.name == "npz":
        return read_npz(section)
    if section.name == "folder":
        return read_folder(section)
    return read_vision_set(section, is_train=True)


__all__ = [
    "DataInfo",
    "ImageData",
    "SearchData",
    "Split",
    "TextData",
    "TextFacts",
    "TextSplit",
    "Tokenizer",
    "describe",
    "find_data",
    "import_torchvision",
    "load_data",
    "load_test",
    "load_tokenizer",
]
