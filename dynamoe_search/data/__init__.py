"""Data sets as tensors: named ones and the user's own, divided into training, validation and test part.

`load_data` gives what a search may see, `load_test` the test part alone. The division depends on the `[data]` section
only, so both can be called in different processes, years apart.
"""

from dynamoe_search.data.images import DIGITS_SOURCE, RawImages, read_digits
from dynamoe_search.data.splits import (
    DataInfo,
    ImageData,
    Split,
    held_out_test,
    part_sizes,
    search_parts,
)
from dynamoe_search.data.torchvision_compat import import_torchvision
from dynamoe_search.data.user_files import find_user_files, read_folder, read_npz
from dynamoe_search.data.vision import VISION_SETS, find_vision_set, read_vision_set
from dynamoe_search.specs.sections import DataSection

_NUM_DIGITS = 1797


def load_data(section: DataSection) -> ImageData:
    """Gives the training and the validation part of a data set, on the CPU.

    Args:
        section: The `[data]` section of a study file.

    Raises:
        DataError: The data are missing, broken, of the wrong shape or too few; the message says where it looked.
    """
    return search_parts(_read(section), section, has_test=section.name in VISION_SETS)


def load_test(section: DataSection) -> Split:
    """Gives the test part, standardised with the training part's mean and deviation, on the CPU.

    The official test part where the set has one, else the examples that `load_data` leaves out for it.

    Args:
        section: The `[data]` section of a study file.

    Raises:
        DataError: As for `load_data`.
    """
    official = read_vision_set(section, is_train=False) if section.name in VISION_SETS else None
    return held_out_test(_read(section), official, section)


def find_data(section: DataSection) -> str | None:
    """Gives where a data set would be read from, without reading it, or None if it is not on this machine.

    Raises:
        DataError: `data.path` cannot be a path, or may not be looked at.
    """
    if section.name == "digits":
        return DIGITS_SOURCE
    found = find_vision_set(section) if section.name in VISION_SETS else find_user_files(section)
    return None if found is None else str(found)


def describe(section: DataSection) -> DataInfo:
    """Gives the size of a data set: from what is published of a named one, else by reading it.

    Raises:
        DataError: A part would be empty, or the user's own data cannot be read.
    """
    if section.name == "digits":
        shape, num_classes, num_examples = (1, 8, 8), 10, _NUM_DIGITS
    elif section.name in VISION_SETS:
        known = VISION_SETS[section.name]
        shape, num_classes, num_examples = known.input_shape, known.num_classes, known.num_train
    else:
        raw = _read(section)
        shape, num_classes, num_examples = raw.input_shape, raw.num_classes, len(raw.y)
    sizes = part_sizes(num_examples, section, has_test=section.name in VISION_SETS)
    return DataInfo(
        input_shape=shape,
        num_classes=num_classes,
        num_train=sizes.train,
        num_validation=sizes.validation,
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
    "Split",
    "describe",
    "find_data",
    "import_torchvision",
    "load_data",
    "load_test",
]
