"""Tokens on disk: mapped, whole or not there, and made again when damaged."""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from dynamoe_search.data import TextData, load_data
from dynamoe_search.data.token_cache import Manifest, cached_streams, key_of
from dynamoe_search.errors import DataError
from dynamoe_search.specs.sections import DataSection
from tests.data.text_files import text_section


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the token streams, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "dynamoe-search" / "tokens"
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def load(section: DataSection) -> TextData:
    data = load_data(section)
    assert isinstance(data, TextData)
    return data


def write(folder: Path) -> Manifest:
    for part, tokens in {"train": 5, "validation": 3, "test": 4}.items():
        np.arange(tokens, dtype=np.int64).tofile(folder / part)
    return Manifest(num_documents={}, num_bytes={"train": 7})


def never(folder: Path) -> Manifest:
    raise AssertionError(folder)


def test_second_reading_writes_nothing_and_maps_the_file(cache: Path) -> None:
    first, second = cached_streams("key", write), cached_streams("key", never)
    for part in ("train", "validation", "test"):
        assert (first.streams[part] == second.streams[part]).all()
        assert isinstance(second.streams[part], np.memmap)
    assert second.manifest.num_bytes == {"train": 7}
    assert [path.name for path in cache.iterdir()] == ["key"]


def test_tensors_are_views_of_the_map(cache: Path, tmp_path: Path) -> None:
    data = load(text_section("folder", tmp_path))
    (stored,) = cache.rglob("train.npy")
    stream = np.load(stored, allow_pickle=False)
    assert (data.train.x.reshape(-1).numpy() == stream[: data.train.x.numel()]).all()
    data.train.tokens[0, 0] = 7  # a copy of the page, not the file
    assert (np.load(stored, allow_pickle=False) == stream).all()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def say_another_size(path: Path) -> None:
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"format": 0}))


DAMAGE = {
    "one bit": ("train.npy", flip),
    "test part": ("test.npy", flip),
    "cut": ("validation.npy", lambda path: path.write_bytes(path.read_bytes()[:-8])),
    "empty": ("train.npy", lambda path: path.write_bytes(b"")),
    "gone": ("train.npy", Path.unlink),
    "pickle": ("train.npy", lambda path: np.save(path, np.array([{}], object))),
    "other type": ("train.npy", lambda path: np.save(path, np.zeros(5, np.int32))),
    "two axes": ("train.npy", lambda path: np.save(path, np.zeros((5, 2), np.int64))),
    "no manifest": ("manifest.json", Path.unlink),
    "bad manifest": ("manifest.json", lambda path: path.write_text("{")),
    "old format": ("manifest.json", say_another_size),
}


@pytest.mark.parametrize("kind", ["folder", "bpe"])
@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_cache_is_made_again(cache: Path, tmp_path: Path, kind: str, name: str) -> None:
    section = text_section(kind, tmp_path)
    before = load(section)
    hashed, tokens = before.data_hash, before.train.tokens.clone()
    file, damage = DAMAGE[name]
    (found,) = cache.rglob(file)
    damage(found)
    after = load(section)
    assert after.data_hash == hashed
    assert torch.equal(after.train.tokens, tokens)
    assert len(list(cache.iterdir())) == 1


def test_damaged_vocabulary_is_trained_again(cache: Path, tmp_path: Path) -> None:
    section = text_section("bpe", tmp_path)
    before = load(section)
    (found,) = cache.rglob("manifest.json")
    manifest = json.loads(found.read_text())
    found.write_text(json.dumps(manifest | {"tokenizer": manifest["tokenizer"][:-9]}))
    assert load(section).tokenizer.fingerprint == before.tokenizer.fingerprint


def test_writing_that_fails_leaves_nothing(cache: Path) -> None:
    def fail(folder: Path) -> Manifest:
        (folder / "train").write_bytes(b"")
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        cached_streams("key", fail)
    assert list(cache.iterdir()) == []


def test_many_at_once_get_the_same(cache: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cached_streams("key", write), range(24)))
    assert all((streams.streams["train"] == np.arange(5)).all() for streams in found)
    assert [path.name for path in cache.iterdir()] == ["key"]


def test_cache_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"the cache .* cannot be written: .*XDG_CACHE_HOME"):
        cached_streams("key", write)


def test_key_sees_every_ingredient() -> None:
    keys = {key_of({"a": 1}), key_of({"a": 2}), key_of({"b": 1}), key_of({"a": 1, "b": 1})}
    assert len(keys) == 4
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


def test_many_at_once_mend_a_damaged_one(cache: Path) -> None:
    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: cached_streams("key", write), range(16)))
        assert all((streams.streams["train"] == np.arange(5)).all() for streams in found)
        flip(cache / "key" / "train.npy")
