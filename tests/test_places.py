"""Folders and remote storage answer alike; what is written is whole or recognised; no password is shown."""

import itertools
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamoe_search.errors import StorageError
from dynamoe_search.places import (
    AnyPath,
    PlaceError,
    RemotePath,
    at_hand,
    bytes_in,
    copy_tree,
    is_remote,
    listed,
    place_of,
    remove_tree,
)

SOURCE = "DYNAMOE_SEARCH_FILES"


@pytest.fixture
def remote() -> Iterator[RemotePath]:
    """A folder of fsspec's memory that is empty."""
    place = place_of(f"memory://{uuid.uuid4().hex}/files", SOURCE)
    assert isinstance(place, RemotePath)
    yield place
    remove_tree(place)


@pytest.fixture(params=["disk", "memory", "local"])
def folder(request: pytest.FixtureRequest, remote: RemotePath, tmp_path: Path) -> AnyPath:
    if (
        request.param == "local"
    ):  # fsspec's own way to a disk, as an example of storage with folders
        return RemotePath(f"local://{tmp_path}") / "files"
    return remote if request.param == "memory" else tmp_path / "files"


def put(place: AnyPath, text: str, scratch: Path) -> None:
    """Writes a file as another process would."""
    here = scratch / uuid.uuid4().hex
    here.write_text(text)
    if isinstance(place, RemotePath):
        place.put(here)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        here.replace(place)


def test_both_kinds_answer_alike(folder: AnyPath, tmp_path: Path) -> None:
    assert not folder.exists()
    assert (listed(folder), bytes_in(folder)) == ([], 0)
    put(folder / "a.json", "one", tmp_path)
    put(folder / "17" / "b.safetensors", "four", tmp_path)
    put(folder / "17" / "deep" / "c.json", "five5", tmp_path)
    assert [one.name for one in listed(folder)] == ["17", "a.json"]
    assert [one.name for one in listed(folder, "*.json")] == ["a.json"]
    assert [one.name for one in listed(folder, "*.json", below=True)] == ["c.json", "a.json"]
    assert bytes_in(folder) == 12
    assert (folder.is_dir(), (folder / "17").is_dir(), (folder / "a.json").is_dir()) == (1, 1, 0)
    assert ((folder / "17").is_file(), (folder / "a.json").is_file()) == (False, True)
    assert not folder.is_symlink()
    assert (folder / "a.json").read_text(encoding="utf-8") == "one"
    with at_hand(folder / "17" / "b.safetensors") as path:
        assert (path.name, path.read_text()) == ("b.safetensors", "four")
    (folder / "a.json").unlink()
    (folder / "a.json").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (folder / "a.json").unlink()
    with pytest.raises(FileNotFoundError), at_hand(folder / "a.json") as path:
        path.read_text()
    remove_tree(folder / "17")
    remove_tree(folder / "17")
    assert not (folder / "17").exists()


def test_names_are_those_of_paths() -> None:
    there, here = RemotePath("memory://bucket/x", "a/b-{c}.json"), Path("/bucket/x/a/b-{c}.json")
    assert (there.name, there.stem) == (here.name, here.stem)
    assert str(there.parent.parent) == "memory://bucket/x"
    assert str(there.with_name("d.txt")) == "memory://bucket/x/a/d.txt"
    assert there.relative_to(there.parent) == here.relative_to(here.parent)
    assert there.parent / "e" == RemotePath("memory://bucket/x") / "a" / "e"


def test_every_kind_is_copied_to_every_kind(remote: RemotePath, tmp_path: Path) -> None:
    def places() -> Iterator[AnyPath]:
        yield from (remote / "first", tmp_path / "first", remote / "second", tmp_path / "second")

    put(remote / "first" / "a" / "b.txt", "b", tmp_path)
    put(remote / "first" / "c.txt", "c" * 100, tmp_path)
    for source, target in itertools.pairwise(places()):
        copy_tree(source, target)
        assert (target / "a" / "b.txt").read_text(encoding="utf-8") == "b"
        assert bytes_in(target) == bytes_in(source) == 101


def test_a_path_and_a_file_url_are_the_same_folder(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    for text in (str(folder), f"file://{folder}", folder.as_uri()):
        assert place_of(text, SOURCE) == folder
        assert not is_remote(place_of(text, SOURCE))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("s3:/bucket/x", "SOURCE is neither a path nor a URL; write s3://bucket/x"),
        ("sftp:/me:hunter2@host/x", "neither a path nor a URL; write sftp://me:***@host/x"),
        ("s4://bucket/x", "SOURCE=s4://bucket/x names an unknown kind of storage (s4)"),
        ("abfs://bucket/x", "needs the Python package adlfs, which is not installed; install it"),
        ("sftp://me:hunter2@host/x", "SOURCE=sftp://me:***@host/x needs the Python package param"),
        ("simplecache::s3://bucket/x", "chains URLs; name one storage"),
        ("file://host/x", "names no folder; write it like file:///shared/dynamoe"),
    ],
)
def test_what_is_no_place_is_said_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(StorageError) as caught:
        place_of(text, "SOURCE")
    assert sentence in str(caught.value)


class Broken(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """Storage that cannot be reached; what it says holds what nobody may read."""

    protocol = "broken"
    error: Exception = TimeoutError()

    def __getattribute__(self, name: str) -> object:
        if name in ("info", "ls", "find", "rm", "rm_file", "cat_file", "get_file", "put_file"):
            raise object.__getattribute__(self, "error")
        return super().__getattribute__(name)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> RemotePath:
    fsspec.register_implementation("broken", Broken, clobber=True)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    return RemotePath("broken://me:hunter2@bucket/x")


@pytest.mark.parametrize(
    ("error", "may_pass"),
    [
        (TimeoutError("no answer"), True),
        (ConnectionResetError("by wJalrXUtnFEMI"), True),
        (PermissionError("hunter2 is wrong"), False),
        (ValueError("broken://me:hunter2@bucket"), False),
        (RuntimeError(), True),
    ],
)
def test_storage_that_does_not_answer_is_not_taken_for_empty(
    broken: RemotePath,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    may_pass: bool,
) -> None:
    monkeypatch.setattr(Broken, "error", error)
    for ask in (
        broken.exists,
        broken.is_dir,
        lambda: listed(broken),
        lambda: bytes_in(broken),
        broken.unlink,
        broken.read_text,
        lambda: broken.put(tmp_path),
        lambda: broken.fetch(tmp_path / "x"),
    ):
        with pytest.raises(PlaceError) as caught:
            ask()  # type: ignore[no-untyped-call]
        assert caught.value.may_pass is may_pass
        text = f"{caught.value} {caught.value!r} {caught.value.strerror} {broken!r}"
        assert "hunter2" not in text
        assert "wJalrXUtnFEMI" not in text
        assert "broken://me:***@bucket/x" in text
        assert caught.value.__cause__ is None
    remove_tree(broken)  # as far as that is possible


@given(password=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=4))
def test_no_password_of_a_url_is_ever_shown(password: str) -> None:
    place = RemotePath(f"sftp://somebody:{password}@host/folder") / "candidates" / "17"
    rest = "sftp://somebody:***@host/folder/candidates/17"
    assert str(place) == rest
    assert repr(place) == f"RemotePath({rest!r})"
    assert "***" in str(RemotePath(f"x://host/?token={password.replace('&', '')}"))
