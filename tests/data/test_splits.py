"""Sizes, division and standardisation, without files."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamoe_search.data import describe
from dynamoe_search.data.splits import Standardizer, part_indices, part_sizes
from dynamoe_search.errors import DataError
from dynamoe_search.specs.sections import DataSection
from dynamoe_search.specs.sizes import most_train

fractions = st.floats(0.01, 0.6)


@given(
    labels=st.lists(st.integers(0, 4), min_size=6, max_size=80),
    validation=fractions,
    test=fractions,
    max_train=st.none() | st.integers(1, 90),
    seed=st.integers(0, 2**32 - 1),
    has_test=st.booleans(),
)
def test_parts_are_disjoint_and_have_the_announced_sizes(
    labels: list[int],
    validation: float,
    test: float,
    max_train: int | None,
    seed: int,
    has_test: bool,
) -> None:
    section = DataSection(
        validation_fraction=validation, test_fraction=test, max_train=max_train, split_seed=seed
    )
    try:
        sizes = part_sizes(len(labels), section, has_test=has_test)
    except DataError:
        return
    parts = part_indices(np.array(labels), section, has_test=has_test)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (
        sizes.train,
        sizes.validation,
        sizes.test,
    )
    rows = np.concatenate([parts.train, parts.validation, parts.test])
    assert len(np.unique(rows)) == len(rows)
    assert rows.max() < len(labels)
    assert max_train is None or sizes.train <= max_train
    if max_train is None or max_train > len(labels):
        assert len(rows) == len(labels)
    if has_test:
        assert sizes.test == 0


def test_class_shares_are_kept() -> None:
    y = np.repeat([0, 1], [300, 60])
    parts = part_indices(y, DataSection(max_train=100), has_test=False)
    for rows in (parts.train, parts.validation, parts.test):
        assert y[rows].mean() == pytest.approx(1 / 6, abs=0.01)


def test_class_with_one_example_is_divided_all_the_same() -> None:
    y = np.array([0] * 30 + [1])
    parts = part_indices(y, DataSection(), has_test=False)
    assert len(parts.train) + len(parts.validation) + len(parts.test) == 31


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(DataError, match="2 examples are too few"):
        part_sizes(2, DataSection(name="npz"), has_test=False)


def test_constant_channel_becomes_zero() -> None:
    x = np.random.default_rng(0).normal(size=(20, 3, 4, 4)).astype(np.float32)
    x[:, 1] = 0.1
    part = Standardizer(x, is_flat=False, source="")(x, np.zeros(20, dtype=np.int64))
    assert torch.equal(part.x[:, 1], torch.zeros(20, 4, 4))
    assert part.x[:, 0].std(correction=0) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float32, np.float64, bool])
def test_standardising_equals_the_formula(dtype: type) -> None:
    x = np.random.default_rng(0).integers(0, 200, (3000, 2, 3, 3)).astype(dtype)
    part = Standardizer(x, is_flat=False, source="")(x, np.zeros(3000, dtype=np.int64))
    wide = x.astype(np.float64)
    expected = wide - wide.mean((0, 2, 3), keepdims=True)
    deviation = wide.std((0, 2, 3), keepdims=True)
    expected /= np.where(deviation == 0, 1, deviation)
    torch.testing.assert_close(part.x, torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-4)


def test_large_offset_does_not_lose_the_signal() -> None:
    signal = np.random.default_rng(0).normal(size=(50, 1, 1, 2))
    part = Standardizer(signal + 1e9, is_flat=True, source="")(signal + 1e9, np.zeros(50, int))
    expected = (signal - signal.mean(0)) / signal.std(0)
    np.testing.assert_allclose(part.x.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(("largest", "dtype"), [(1e300, np.float64), (3e38, np.float32)])
def test_numbers_that_overflow_are_refused(largest: float, dtype: type) -> None:
    x = np.array([largest, -largest, largest, largest, largest], dtype=dtype).reshape(5, 1, 1, 1)
    standardize = Standardizer(x, is_flat=False, source="own")
    with pytest.raises(DataError, match="own: the pixels are too large"):
        standardize(x, np.zeros(5, dtype=np.int64))


@given(
    st.sampled_from(["digits", "mnist", "cifar10"]),
    st.floats(0.01, 0.9),
    st.floats(0.01, 0.9),
    st.none() | st.integers(1, 60_000),
)
def test_a_file_knows_how_many_training_examples_a_named_set_has(
    name: str, validation: float, test: float, most: int | None
) -> None:
    section = DataSection.model_validate(
        {
            "name": name,
            "validation_fraction": validation,
            "test_fraction": test,
            "max_train": most,
        }
    )
    assert most_train(section) == describe(section).num_train
