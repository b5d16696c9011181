"""The user's own archives and image folders, whole and broken."""

import contextlib
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dynamoe_search.data import describe, find_data, load_data, load_test
from dynamoe_search.errors import DataError
from dynamoe_search.specs.sections import DataSection

Y = np.arange(12) % 2


def npz(path: Path) -> DataSection:
    return DataSection(name="npz", path=str(path))


def folder(path: Path, image_size: int | None = None) -> DataSection:
    return DataSection(name="folder", path=str(path), image_size=image_size)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((12, 5), (1, 1, 5)),
        ((12, 5, 6), (1, 5, 6)),
        ((12, 5, 6, 3), (3, 5, 6)),
        ((12, 3, 5, 6), (3, 5, 6)),
        ((12, 1, 1, 5), (1, 1, 5)),
        ((12, 4, 4, 4), (4, 4, 4)),
    ],
)
def test_layouts_of_x(
    tmp_path: Path,
    npz_file: Callable[..., Path],
    shape: tuple[int, ...],
    expected: tuple[int, int, int],
) -> None:
    section = npz(npz_file(tmp_path / "own.npz", shape, classes=2))
    assert describe(section).input_shape == expected


def test_channels_last_and_first_hold_the_same_images(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (12, 5, 6, 3), dtype=np.uint8)
    np.savez(tmp_path / "last.npz", x=x, y=Y)
    np.savez(tmp_path / "first.npz", x=x.transpose(0, 3, 1, 2), y=Y)
    last, first = (load_data(npz(tmp_path / f"{name}.npz")) for name in ("last", "first"))
    assert (last.train.x == first.train.x).all()


BROKEN_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "no y": ({"x": np.ones((12, 3))}, "must hold the arrays x and y, got x"),
    "one axis": ({"x": np.ones(12), "y": Y}, r"x must have the shape .* got \(12,\)"),
    "no pixels": ({"x": np.ones((12, 0)), "y": Y}, "there are no pixels"),
    "lengths differ": ({"x": np.ones((11, 3)), "y": Y}, "got 11 images and labels of shape"),
    "labels in columns": ({"x": np.ones((12, 3)), "y": np.eye(12)}, "one label per image"),
    "NaN": ({"x": np.full((12, 3), np.nan), "y": Y}, "12 of 12 examples hold NaN"),
    "infinite": ({"x": np.full((12, 3), np.inf), "y": Y}, "NaN or infinite"),
    "text pixels": ({"x": np.full((12, 3), "a"), "y": Y}, "must be real numbers, got <U1"),
    "complex pixels": ({"x": np.ones((12, 3), complex), "y": Y}, "must be real numbers"),
    "float labels": ({"x": np.ones((12, 3)), "y": Y / 2}, "must be the integers .* got float64"),
    "negative label": ({"x": np.ones((12, 3)), "y": Y - 1}, "must be the integers .* got -1"),
    "gap": ({"x": np.ones((12, 3)), "y": Y * 3}, "up to 3 but no example of class 1, 2"),
    "huge label": ({"x": np.ones((12, 3)), "y": Y * 9}, "no example of class 1, 2, 3, 4, 5, ..."),
    "one class": ({"x": np.ones((12, 3)), "y": Y * 0}, "at least 2 classes are needed, got 1"),
    "too few": ({"x": np.ones((2, 3)), "y": Y[:2]}, "2 examples are too few"),
    "objects": ({"x": np.array([{}] * 12, dtype=object), "y": Y}, "Object arrays cannot be loaded"),
}


@pytest.mark.parametrize("name", BROKEN_ARRAYS)
def test_wrong_arrays_are_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    arrays, message = BROKEN_ARRAYS[name]
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        load_data(npz(path))
    assert "\n" not in str(caught.value)
    assert name == "too few" or str(path) in str(caught.value)


def test_labels_beyond_int64_are_refused(tmp_path: Path) -> None:
    y = np.array([0, 1, 2**64 - 1], dtype=np.uint64)
    np.savez(tmp_path / "own.npz", x=np.ones((3, 3)), y=y)
    with pytest.raises(DataError, match="no example of class 2"):
        load_data(npz(tmp_path / "own.npz"))


def test_missing_files_are_named(tmp_path: Path) -> None:
    for section in (npz(tmp_path / "no.npz"), folder(tmp_path / "none"), npz(tmp_path)):
        assert find_data(section) is None
        with pytest.raises(
            DataError, match=f"there is no .*{tmp_path.name}|{tmp_path.name}.* is no file"
        ):
            load_data(section)
    with pytest.raises(DataError, match=r"data.path must name the file"):
        load_data(DataSection(name="npz"))
    with pytest.raises(DataError, match="no_such_user_here"):
        find_data(DataSection(name="npz", path="~no_such_user_here/x.npz"))


def test_pickle_under_a_false_name_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    path.write_bytes(pickle.dumps({"x": [1], "y": [0]}))
    with pytest.raises(DataError, match=r"is no \.npz archive"):
        load_data(npz(path))
    with path.open("wb") as file:
        np.save(file, np.ones((4, 4)))
    with pytest.raises(DataError, match="single array"):
        load_data(npz(path))


def test_impossible_path_is_one_sentence() -> None:
    for name in ("npz", "folder", "mnist"):
        with pytest.raises(DataError, match=r"cannot read xxx.* too long"):
            find_data(DataSection(name=name, path="x" * 900))


@pytest.mark.parametrize(
    "header", [b"{'descr': (", b"{}", b"{'descr': '<f8', 'fortran_order': 0, 'shape': (9**9,)}"]
)
def test_broken_header_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, y=Y)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(DataError, match=r"cannot read .*own.npz"):
        load_data(npz(path))


def test_array_that_does_not_fit_in_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, y=Y)
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 9)}"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(DataError, match=r"cannot read .*own.npz: Unable to allocate"):
        load_data(npz(path))


def archive_bytes() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.arange(36.0).reshape(12, 3), y=Y)
    return buffer.getvalue()


WHOLE = archive_bytes()


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, len(WHOLE) - 1), value=st.integers(0, 255), is_truncated=st.booleans())
def test_damaged_archive_loads_or_is_refused(
    tmp_path: Path, place: int, value: int, is_truncated: bool
) -> None:
    damaged = WHOLE[:place] + (b"" if is_truncated else bytes([value]) + WHOLE[place + 1 :])
    path = tmp_path / "own.npz"
    path.write_bytes(damaged)
    with contextlib.suppress(DataError):
        load_data(npz(path))


def test_folder_has_classes_in_alphabetical_order(
    tmp_path: Path, image_files: Callable[..., Path]
) -> None:
    root = image_files(tmp_path / "pets")
    (root / ".cache").mkdir()
    for number in range(15):
        Image.new("RGB", (8, 6), (0, 0, 0)).save(root / "cat" / f"{number:02}.png")
    data = load_data(folder(root))
    assert (data.input_shape, data.num_classes) == ((3, 6, 8), 2)
    black = data.train.x[data.train.y == 0].flatten(1)
    assert (black == black[0]).all()  # class 0 is cat, the black images
    assert load_test(folder(root)).x.shape[1:] == (3, 6, 8)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_modes_of_pillow(tmp_path: Path, image_files: Callable[..., Path], mode: str) -> None:
    root = image_files(tmp_path / "pets", mode=mode)
    channels = 1 if mode in ("1", "L") else 3
    assert load_data(folder(root, image_size=5)).input_shape == (channels, 5, 5)


def test_one_colour_image_makes_the_set_colour(
    tmp_path: Path, image_files: Callable[..., Path]
) -> None:
    root = image_files(tmp_path / "pets", mode="L")
    Image.new("RGB", (8, 6)).save(root / "dog" / "colour.png")
    assert load_data(folder(root)).input_shape == (3, 6, 8)


def damage_empty(root: Path) -> None:
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def damage_one_class(root: Path) -> None:
    (root / "dog").rename(root.parent / "dog")


def damage_empty_class(root: Path) -> None:
    (root / "ant").mkdir()


def damage_parts(root: Path) -> None:
    (root / "cat").rename(root / "train")
    (root / "dog").rename(root / "Test")


def damage_text(root: Path) -> None:
    (root / "cat" / "03.png").write_text("not an image")


def damage_truncated(root: Path) -> None:
    path = root / "cat" / "03.png"
    path.write_bytes(path.read_bytes()[:90])


def damage_size(root: Path) -> None:
    Image.new("RGB", (9, 9)).save(root / "dog" / "large.png")


def damage_depth(root: Path) -> None:
    Image.new("I;16", (8, 6)).save(root / "dog" / "deep.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_empty, "at least 2 classes, got none"),
        (damage_one_class, "at least 2 classes, got cat"),
        (damage_empty_class, "no valid file for the classes ant"),
        (damage_parts, r"holds parts \(Test, train\) instead of classes"),
        (damage_text, "cannot read .*03.png"),
        (damage_truncated, "cannot read .*03.png"),
        (damage_size, r"different sizes, \(8, 6\) in .*00.png and \(9, 9\) in .*large.png"),
        (damage_depth, "more than 8 bits per channel"),
    ],
)
def test_broken_folder_is_refused_in_one_sentence(
    tmp_path: Path,
    image_files: Callable[..., Path],
    damage: Callable[[Path], None],
    message: str,
) -> None:
    root = image_files(tmp_path / "pets")
    damage(root)
    with pytest.raises(DataError, match=message) as caught:
        load_data(folder(root))
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)


def test_giant_image_is_refused(tmp_path: Path, image_files: Callable[..., Path]) -> None:
    root = image_files(tmp_path / "pets")
    Image.new("1", (20_000, 20_000)).save(root / "dog" / "giant.png")
    with pytest.raises(DataError, match=r"giant.png: .*decompression bomb"):
        load_data(folder(root, image_size=8))
