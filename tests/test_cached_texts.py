"""The cache of texts: what is there, what can go, and that what went is made again."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dynamoe_search.cached_texts import CachedText, find_cached, remove_cached, unused
from dynamoe_search.data import TextData, load_data
from dynamoe_search.errors import DataError
from dynamoe_search.specs.sections import DataSection
from tests.data.text_files import text_section

DAY = 86_400.0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the cache, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "dynamoe-search"
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


@pytest.fixture
def section(cache: Path, tmp_path: Path) -> DataSection:  # noqa: ARG001 - it is read into the empty cache
    return text_section("folder", tmp_path)


def load(section: DataSection) -> TextData:
    data = load_data(section)
    assert isinstance(data, TextData)
    return data


def age(path: Path, days: float) -> None:
    """Makes an entry look as if it was used so long ago."""
    at = time.time() - days * DAY
    for one in path.iterdir():
        os.utime(one, (at, at))


def entry(number: int, num_bytes: int, days: float, kind: str = "tokens") -> CachedText:
    return CachedText(
        path=Path(str(number)), kind=kind, source="", num_bytes=num_bytes, idle_seconds=days * DAY
    )


@pytest.mark.usefixtures("cache")
def test_an_empty_cache_has_nothing() -> None:
    assert find_cached() == []


def test_entries_say_what_they_are_and_reading_them_counts_as_use(section: DataSection) -> None:
    data = load(section)
    (one,) = find_cached()
    assert one.kind == "tokens"
    assert one.source == f"{data.source}, bytes"
    assert one.num_bytes == sum(path.stat().st_size for path in one.path.iterdir())
    age(one.path, 40)
    (old,) = find_cached()
    assert old.idle_seconds == pytest.approx(40 * DAY, rel=0.01)
    load(section)
    (again,) = find_cached()
    assert again.idle_seconds < 60


def test_what_was_removed_is_made_again(cache: Path, section: DataSection) -> None:
    before = load(section).train.tokens.clone()
    remove_cached(find_cached())
    assert find_cached() == []
    assert list((cache / "tokens").iterdir()) == []
    assert torch.equal(load(section).train.tokens, before)


def test_tokens_in_use_can_be_read_on_after_their_removal(section: DataSection) -> None:
    data = load(section)
    remove_cached(find_cached())
    assert int(data.train.tokens.sum()) > 0


def test_removing_twice_is_no_error(cache: Path, section: DataSection) -> None:
    load(section)
    entries = find_cached()
    remove_cached(entries)
    remove_cached(entries)
    assert list((cache / "tokens").iterdir()) == []


def test_only_what_is_ours_is_looked_at(cache: Path, section: DataSection, tmp_path: Path) -> None:
    load(section)
    (own,) = find_cached()
    (cache / "tokens" / "thesis").mkdir()
    (cache / "tokens" / "notes.txt").write_text("mine")
    (cache / "tokens" / ("a" * 32)).symlink_to(tmp_path)
    assert [one.path for one in find_cached()] == [own.path]


def test_half_written_entries_go_when_nobody_can_be_at_it(cache: Path) -> None:
    folder = cache / "tokens" / f".{'b' * 32}.x1"
    folder.mkdir(parents=True)
    (folder / "train").write_bytes(b"12345678")
    (fresh,) = find_cached()
    assert (fresh.kind, fresh.num_bytes) == ("unfinished", 8)
    assert unused([fresh], days=0, most_bytes=0) == []  # somebody may be writing it
    age(folder, 2)
    (old,) = find_cached()
    assert unused([old], days=1000) == [old]


def test_age_and_size() -> None:
    entries = [entry(1, 10, 50), entry(2, 20, 20), entry(3, 30, 5), entry(4, 40, 1)]

    def gone(**limits: float) -> list[str]:
        return [one.path.name for one in unused(entries, **limits)]  # type: ignore[arg-type]

    assert gone(days=30) == ["1"]
    assert gone(days=0) == ["1", "2", "3", "4"]
    assert gone(days=30, most_bytes=90) == ["1"]
    assert gone(days=30, most_bytes=89) == ["1", "2"]
    assert gone(days=30, most_bytes=70) == ["1", "2"]
    assert gone(days=1000, most_bytes=40) == ["1", "2", "3"]
    assert gone(days=1000, most_bytes=0) == ["1", "2", "3", "4"]


def test_a_cache_that_cannot_be_read_is_one_sentence(cache: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (cache / "tokens").mkdir(parents=True)
    (cache / "tokens").chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        find_cached()
    (cache / "tokens").chmod(0o700)
