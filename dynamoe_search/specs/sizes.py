"""How many examples a data set has, and how they are divided: what is known before any data are read."""

from collections.abc import Mapping

from dynamoe_search.specs.sections import DataSection
from dynamoe_search.specs.vocabulary import DataName

NUM_EXAMPLES: Mapping[DataName, int] = {
    "digits": 1797,
    "mnist": 60_000,
    "fashion-mnist": 60_000,
    "cifar10": 50_000,
}
"""Of the named sets of images: all, or those of the training file where there is a test file."""
_WITH_TEST_FILE = ("mnist", "fashion-mnist", "cifar10")


def divided(num_examples: int, section: DataSection, *, has_test: bool) -> tuple[int, int, int]:
    """Returns how many examples are for training, validation and test; `max_train` is not yet looked at.

    The first may be 0 or less, if there are too few examples.

    Args:
        num_examples: Examples of the training file, or of the whole set where there is only one.
        section: The fractions.
        has_test: Whether the set comes with a test part of its own, which is not divided.
    """
    test = 0 if has_test else max(1, round(num_examples * section.test_fraction))
    validation = max(1, round((num_examples - test) * section.validation_fraction))
    return num_examples - test - validation, validation, test


def most_train(section: DataSection) -> int | None:
    """Returns the most training examples that a set can have, or None if only the data can tell."""
    known = NUM_EXAMPLES.get(section.name)
    if known is None:
        return section.max_train
    train, _, _ = divided(known, section, has_test=section.name in _WITH_TEST_FILE)
    return train if section.max_train is None else min(train, section.max_train)
