"""What every data set promises, whatever its format."""

import random

import numpy as np
import pytest
import torch

from dynamoe_search.data import describe, find_data, load_data, load_test
from dynamoe_search.data.images import RawImages
from dynamoe_search.data.splits import search_parts
from dynamoe_search.specs.sections import DataSection


def test_tensors_are_standardised_float32_with_int64_labels(section: DataSection) -> None:
    data, test = load_data(section), load_test(section)
    for part in (data.train, data.validation, test):
        assert part.x.dtype == torch.float32
        assert part.y.dtype == torch.int64
        assert tuple(part.x.shape) == (len(part.y), *data.input_shape)
        assert part.x.is_contiguous()
        assert torch.isfinite(part.x).all()
        assert part.y.min() >= 0
        assert part.y.max() < data.num_classes
    is_flat = data.input_shape[:2] == (1, 1)
    axes = (0, 1, 2) if is_flat else (0, 2, 3)
    torch.testing.assert_close(data.train.x.mean(axes), torch.zeros_like(data.train.x.mean(axes)))
    deviation = data.train.x.std(axes, correction=0)
    torch.testing.assert_close(deviation, torch.ones_like(deviation))


def test_every_class_is_in_every_part(section: DataSection) -> None:
    data, test = load_data(section), load_test(section)
    for part in (data.train, data.validation, test):
        assert set(part.y.tolist()) == set(range(data.num_classes))


def test_no_example_is_in_two_parts(section: DataSection) -> None:
    data, test = load_data(section), load_test(section)
    rows = torch.cat([part.x.flatten(1) for part in (data.train, data.validation, test)])
    assert len(rows.unique(dim=0)) == len(rows)


def test_same_section_gives_the_same_tensors(section: DataSection) -> None:
    first, second = load_data(section), load_data(section)
    assert torch.equal(first.train.x, second.train.x)
    assert torch.equal(first.validation.y, second.validation.y)
    assert torch.equal(load_test(section).x, load_test(section).x)


def test_hash_depends_on_both_parts_and_on_nothing_else(section: DataSection) -> None:
    data = load_data(section)
    assert len(data.data_hash) == 64
    assert load_data(section).data_hash == data.data_hash
    for change in ({"split_seed": 1}, {"max_train": 11}):
        assert load_data(section.model_copy(update=change)).data_hash != data.data_hash


@pytest.mark.parametrize("part", ["x", "y"])
def test_hash_sees_one_pixel_and_one_label(part: str) -> None:
    x = np.arange(48, dtype=np.uint8).reshape(12, 1, 2, 2)
    section = DataSection(name="npz", path="unused.npz")
    arrays = {"x": x, "y": np.arange(12) % 2}
    hashes = set()
    for change in (0, 1):
        arrays[part] = arrays[part].copy()
        arrays[part].flat[0] ^= change
        raw = RawImages(**arrays, num_classes=2, source="test")
        everyone = section.model_copy(update={"test_fraction": 0.0})
        hashes.add(search_parts(raw, everyone, has_test=True).data_hash)
    assert len(hashes) == 2


def test_another_seed_gives_another_division(section: DataSection) -> None:
    other = section.model_copy(update={"split_seed": 1})
    first, second = load_data(section).validation.x, load_data(other).validation.x
    assert first.shape == second.shape
    assert not torch.allclose(first, second)


def test_max_train_cuts_only_the_training_part(section: DataSection) -> None:
    limited = section.model_copy(update={"max_train": 11})
    whole, part = load_data(section), load_data(limited)
    assert len(part.train.y) == 11
    assert torch.equal(part.validation.y, whole.validation.y)
    assert torch.equal(load_test(limited).y, load_test(section).y)


def test_test_part_does_not_depend_on_the_validation_fraction(section: DataSection) -> None:
    other = section.model_copy(update={"validation_fraction": 0.4})
    assert torch.equal(load_test(section).y, load_test(other).y)


def numpy_state() -> list[int]:
    return np.random.get_state()[1].tolist()  # noqa: NPY002 - the old global state is the point


def test_global_generators_are_left_alone(section: DataSection) -> None:
    before = torch.get_rng_state(), random.getstate(), numpy_state()
    load_data(section)
    load_test(section)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert numpy_state() == before[2]


def test_source_is_where_find_data_says(section: DataSection) -> None:
    assert load_data(section).source == find_data(section)


@pytest.mark.parametrize("max_train", [None, 20])
def test_describe_agrees_with_the_data(section: DataSection, max_train: int | None) -> None:
    section = section.model_copy(update={"max_train": max_train})
    data, info = load_data(section), describe(section)
    assert (info.input_shape, info.num_classes) == (data.input_shape, data.num_classes)
    if section.name not in ("mnist", "fashion-mnist"):  # described by their published size
        assert info.num_train == len(data.train.y)
        assert info.num_validation == len(data.validation.y)


def test_real_fashion_mnist_where_it_is_installed() -> None:
    section = DataSection(name="fashion-mnist", download=False)
    if find_data(section) is None:
        pytest.skip("Fashion-MNIST is not on this machine")
    data, info = load_data(section), describe(section)
    assert (info.num_train, info.num_validation) == (50_000, 10_000)
    assert tuple(data.train.x.shape) == (50_000, 1, 28, 28)
    assert torch.equal(data.train.y.bincount(), torch.full((10,), 5000))
    assert abs(float(data.train.x.double().mean())) < 1e-6
    assert torch.equal(load_test(section).y.bincount(), torch.full((10,), 1000))
