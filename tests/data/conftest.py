"""Small data sets in their real file formats."""

import gzip
import struct
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from dynamoe_search.specs.sections import DataSection

NUM_TRAIN, NUM_TEST = 120, 40


def write_idx(path: Path, values: np.ndarray) -> None:
    """Writes bytes in the IDX format of MNIST, compressed if the name ends in .gz."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder: Path, suffix: str = ".gz") -> Path:
    """Writes the four files of a small MNIST: random 28x28 images, the label in the first pixel."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for stem, count in (("train", NUM_TRAIN), ("t10k", NUM_TEST)):
        labels = np.arange(count) % 10
        images = generator.integers(0, 256, (count, 28, 28))
        images[:, 0, 0] = labels
        write_idx(folder / f"{stem}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{stem}-labels-idx1-ubyte{suffix}", labels)
    return folder


def write_npz(path: Path, shape: tuple[int, ...] = (90, 5, 4), classes: int = 3) -> Path:
    """Writes random float64 examples; labels take turns."""
    x = np.random.default_rng(1).normal(3.0, 2.0, shape)
    np.savez_compressed(path, x=x, y=np.arange(shape[0]) % classes)
    return path


def write_images(folder: Path, *, mode: str = "RGB", size: tuple[int, int] = (8, 6)) -> Path:
    """Writes 15 PNG images for each of the classes cat and dog."""
    generator = np.random.default_rng(2)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(15):
            pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / name / f"{number:02}.png")
    return folder


def section_of(kind: str, folder: Path) -> DataSection:
    """Writes the data set and gives the section that reads it."""
    if kind == "digits":
        return DataSection(name="digits")
    if kind == "mnist-gz":
        return DataSection(name="mnist", path=str(write_mnist(folder)), download=False)
    if kind == "fashion-raw":
        write_mnist(folder / "FashionMNIST" / "raw", suffix="")
        return DataSection(name="fashion-mnist", path=str(folder), download=False)
    if kind == "npz-images":
        return DataSection(name="npz", path=str(write_npz(folder / "own.npz", (90, 6, 5, 3))))
    if kind == "npz-flat":
        return DataSection(name="npz", path=str(write_npz(folder / "flat.npz", (90, 7))))
    mode = "L" if kind == "folder-grey" else "RGB"
    return DataSection(name="folder", path=str(write_images(folder / "pets", mode=mode)))


KINDS = (
    "digits",
    "mnist-gz",
    "fashion-raw",
    "npz-images",
    "npz-flat",
    "folder-grey",
    "folder-colour",
)


@pytest.fixture(params=KINDS)
def section(request: pytest.FixtureRequest, tmp_path: Path) -> DataSection:
    """One section per kind of data set that is on every machine."""
    return section_of(request.param, tmp_path)


@pytest.fixture
def mnist_files() -> Callable[..., Path]:
    """The writer of a small MNIST."""
    return write_mnist


@pytest.fixture
def npz_file() -> Callable[..., Path]:
    """The writer of a small archive."""
    return write_npz


@pytest.fixture
def image_files() -> Callable[..., Path]:
    """The writer of a small image folder."""
    return write_images


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keeps the test output clean."""


@pytest.fixture
def web_folder(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address and the folder of a web server on this machine."""
    folder = tmp_path / "web"
    folder.mkdir()
    handler = partial(_QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", folder
        server.shutdown()
        thread.join()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends every request to a port where nobody listens, also on machines with a network."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
