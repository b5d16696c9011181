"""MNIST, Fashion-MNIST and CIFAR-10 in small files of the real formats, found, downloaded and broken."""

import gzip
import hashlib
import io
import pickle
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynamoe_search.data import find_data, import_torchvision, load_data, load_test
from dynamoe_search.data.vision import read_torchvision
from dynamoe_search.errors import DataError
from dynamoe_search.specs.sections import DataSection


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def mnist(folder: Path, **settings: Any) -> DataSection:
    return DataSection(name="mnist", path=str(folder), **{"download": False, **settings})


def write_cifar(folder: Path, count: int = 20) -> Path:
    """Writes the batches of a small CIFAR-10 as published: pickles with flat channel-first rows."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        rows = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = [number % 10 for number in range(count)]
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": labels}))
    names = {"label_names": [str(number) for number in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names))
    return folder


def small_cifar(batches: Path, archive: Path, url: str) -> type:
    """Gives torchvision's class with the checksums and the address of the small files."""
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(batches, batches.name)
    official = import_torchvision().datasets.CIFAR10
    train = [[f"data_batch_{n}", md5_of(batches / f"data_batch_{n}")] for n in range(1, 6)]
    return type(
        "CIFAR10",
        (official,),
        {
            "url": url + archive.name,
            "tgz_md5": md5_of(archive),
            "train_list": train,
            "test_list": [["test_batch", md5_of(batches / "test_batch")]],
            "meta": {**official.meta, "md5": md5_of(batches / "batches.meta")},
        },
    )


def test_plain_and_compressed_files_hold_the_same(
    tmp_path: Path, mnist_files: Callable[..., Path]
) -> None:
    plain = load_data(mnist(mnist_files(tmp_path / "plain", suffix="")))
    packed = load_data(mnist(mnist_files(tmp_path / "packed")))
    assert torch.equal(plain.train.x, packed.train.x)
    assert torch.equal(plain.train.y, packed.train.y)


def test_images_stay_with_their_labels(tmp_path: Path, mnist_files: Callable[..., Path]) -> None:
    section = mnist(mnist_files(tmp_path))
    for part in (load_data(section).train, load_data(section).validation, load_test(section)):
        first_pixel = part.x[:, 0, 0, 0]  # holds the label
        assert torch.equal(first_pixel.unique(return_inverse=True)[1], part.y)


def test_mnist_is_downloaded_and_then_found(
    tmp_path: Path, mnist_files: Callable[..., Path], web_folder: tuple[str, Path]
) -> None:
    url, folder = web_folder
    mnist_files(folder)
    official = import_torchvision().datasets.MNIST
    resources = [(name, md5_of(folder / name)) for name, _ in official.resources]
    small = type("MNIST", (official,), {"mirrors": [url], "resources": resources})
    root = tmp_path / "root"
    x, y = read_torchvision(small, root, is_train=True, download=True)
    assert x.shape == (120, 1, 28, 28)
    assert y.tolist() == [number % 10 for number in range(120)]
    section = mnist(root)
    assert find_data(section) == str(root / "MNIST" / "raw")
    assert len(load_test(section).y) == 40


def test_cifar_is_downloaded_unpacked_and_read(
    tmp_path: Path, web_folder: tuple[str, Path]
) -> None:
    url, folder = web_folder
    batches = write_cifar(tmp_path / "made" / "cifar-10-batches-py")
    small = small_cifar(batches, folder / "cifar-10-python.tar.gz", url)
    root = tmp_path / "root"
    x, y = read_torchvision(small, root, is_train=True, download=True)
    assert x.shape == (100, 3, 32, 32)
    assert len(y) == 100
    first = pickle.loads((batches / "data_batch_1").read_bytes())["data"]
    assert np.array_equal(x[0].reshape(-1), first[0])  # (3072,), channel first
    again, _ = read_torchvision(small, root, is_train=False, download=False)
    assert again.shape == (20, 3, 32, 32)
    section = DataSection(name="cifar10", path=str(root), download=False)
    assert find_data(section) == str(root)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_forged_cifar_is_never_unpickled(tmp_path: Path) -> None:
    batches = write_cifar(tmp_path / "cifar-10-batches-py")
    for path in batches.iterdir():
        path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    section = DataSection(name="cifar10", path=str(tmp_path), download=False)
    with pytest.raises(DataError, match=r"incomplete or broken; set data.download = true"):
        load_data(section)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_missing_set_says_where_it_looked(tmp_path: Path, name: str) -> None:
    section = DataSection(name=name, path=str(tmp_path), download=False)
    assert find_data(section) is None
    with pytest.raises(DataError, match=f"{name} was not found in {tmp_path}; set data.download"):
        load_data(section)


def test_default_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError, match=f"mnist was not found in {tmp_path}.*dynamoe-search"):
        load_data(DataSection(name="mnist", download=False))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_failed_download_ends_quickly_in_one_sentence(tmp_path: Path, name: str) -> None:
    started = time.monotonic()
    with pytest.raises(DataError, match=f"{name} was not found in .* the download to") as caught:
        load_data(DataSection(name=name, path=str(tmp_path)))
    assert time.monotonic() - started < 10
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.usefixtures("no_network")
def test_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"the download to .*file failed"):
        load_data(DataSection(name="cifar10", path=str(tmp_path / "file")))


def pack(content: bytes) -> bytes:
    return gzip.compress(content)


def idx(values: np.ndarray) -> bytes:
    buffer = io.BytesIO(b"\0\0\x08" + bytes([values.ndim]))
    buffer.seek(0, io.SEEK_END)
    for length in values.shape:
        buffer.write(length.to_bytes(4, "big"))
    buffer.write(values.astype(np.uint8).tobytes())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot read .*train-images"),
        (b"not compressed at all", "cannot read .*train-images"),
        (pack(b""), "cannot read .*train-images"),
        (pack(b"\0\0\x08\x09 rubbish"), "cannot read .*train-images"),
        (pack(idx(np.zeros((120, 28, 28))))[:-20], "cannot read .*train-images"),
        (pack(idx(np.zeros((120, 28, 28)))[:-5]), "cannot read .*train-images"),
        (pack(idx(np.zeros((120, 28)))), "cannot read .*train-images.* should have 3 dimension"),
        (pack(idx(np.zeros((119, 28, 28)))), "got 119 images and labels of shape"),
        (pack(idx(np.zeros((120, 14, 14)))), r"shape \(1, 28, 28\), got \(1, 14, 14\)"),
    ],
)
def test_broken_images_are_refused_in_one_sentence(
    tmp_path: Path, mnist_files: Callable[..., Path], content: bytes, message: str
) -> None:
    (mnist_files(tmp_path) / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_data(mnist(tmp_path))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_label_outside_the_classes_is_refused(
    tmp_path: Path, mnist_files: Callable[..., Path]
) -> None:
    labels = mnist_files(tmp_path) / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(pack(idx(np.full(120, 11))))
    with pytest.raises(DataError, match="labels must lie in 0 to 9, got 11 to 11"):
        load_data(mnist(tmp_path))


def test_search_does_not_read_the_test_files(
    tmp_path: Path, mnist_files: Callable[..., Path]
) -> None:
    mnist_files(tmp_path)
    for path in tmp_path.glob("t10k-*"):
        path.write_bytes(b"broken")
    assert len(load_data(mnist(tmp_path)).train.y) == 100
    with pytest.raises(DataError, match=r"cannot read .*t10k-images"):
        load_test(mnist(tmp_path))
