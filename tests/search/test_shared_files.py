"""A worker that looks for a study's files where the others do not is refused, and says where they are."""

import os
import platform
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.faults.sites import mount, mounted
from dynamoe_search.errors import StorageError, UsageError
from dynamoe_search.places import AnyPath, is_remote, place_of, remove_tree
from dynamoe_search.records import FilesMark
from dynamoe_search.search import (
    check_study,
    create_study,
    export_candidate,
    run_study,
    shared_files,
)
from dynamoe_search.search.shared_files import require_files
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store, tables
from dynamoe_search.store.garbage import find_garbage, remove_garbage
from dynamoe_search.store.runs import Runner, Watcher, this_process
from dynamoe_search.store.texts import safe_name
from dynamoe_search.training.durable_files import write_text

FILES = "DYNAMOE_SEARCH_FILES"
MakeSpec = Callable[..., StudySpec]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_files, "_PATIENCE_SECONDS", 0.0)


@pytest.fixture(params=["folder", "memory"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Two places that have nothing in common."""
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}", f"memory://{uuid.uuid4().hex}"
    return str(tmp_path / "shared"), str(tmp_path / "not" / "mounted" / "here")


@pytest.fixture
def study(storage_url: str, tiny_spec: MakeSpec) -> str:
    """URL of a database with the new study `tiny`."""
    with Store.open(storage_url) as store:
        create_study(store, tiny_spec(), source="test", device="cpu", num_threads=1)
    return storage_url


def test_who_comes_later_must_find_the_files_of_who_came_first(
    study: str, places: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(study) as store:
        monkeypatch.setenv(FILES, places[0])
        for _ in range(3):
            require_files(store, "tiny")
        mark = store.files_mark("tiny")
        assert mark is not None
        assert (mark.host, mark.place) == (platform.node(), str(store.files_of("tiny")))
        assert [path.name for path in store.files_of("tiny").glob("*")] == [mark.file]
        monkeypatch.setenv(FILES, places[1])
        with pytest.raises(StorageError) as caught:
            run_study(store, "tiny")
        said = str(caught.value)
        for part in (mark.place, mark.host, str(store.files_of("tiny")), f"{FILES} is {places[1]}"):
            assert part in said
        assert not store.files_of("tiny").exists()  # nothing is made where it is not
        assert store.workers("tiny") == []
        (found,) = [one for one in check_study(store, "tiny") if one.level == "error"]
        assert mark.place in found.what
        assert FILES in found.how_to_mend
        monkeypatch.delenv(FILES)
        with pytest.raises(StorageError, match=f"{FILES} is not set"):
            require_files(store, "tiny")


def test_files_that_are_gone_are_not_trained_again_without_a_word(
    study: str, places: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FILES, places[0])
    with Store.open(study) as store, Store.open(f"sqlite:///{tmp_path / 'copy.db'}") as other:
        require_files(store, "tiny")
        store.copy_study("tiny", other)
        require_files(other, "tiny")
        mark = other.files_mark("tiny")
        assert mark is not None
        assert mark.place == str(other.files_of("tiny"))  # of the copy
        other.delete_study("tiny")
        remove_tree(store.files_of("tiny"))
        with pytest.raises(
            StorageError, match=r"are gone from .* put them back, or copy the study"
        ):
            require_files(store, "tiny")
        store.copy_study("tiny", other)
        assert other.files_mark("tiny") is None
        require_files(other, "tiny")


def test_of_two_who_come_first_at_once_one_is_first(
    study: str, places: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FILES, places[0])
    with Store.open(study) as store, Store.open(study) as other:
        faster = FilesMark(id="0", study="tiny", host="fast", place="there", made_at="2026-01-01")

        def claim(name: str, mark: FilesMark) -> FilesMark:
            other.claim_files(name, faster)
            return Store.claim_files(store, name, mark)

        monkeypatch.setattr(store, "claim_files", claim)
        with pytest.raises(StorageError, match="are in there on fast"):
            require_files(store, "tiny")
        assert list(store.files_of("tiny").glob("*")) == []
        assert store.files_mark("tiny") == faster


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "another"}'])
def test_a_mark_that_is_not_whole_is_none(
    study: str, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FILES, str(tmp_path / "shared"))
    with Store.open(study) as store:
        require_files(store, "tiny")
        mark, folder = store.files_mark("tiny"), store.files_of("tiny")
        assert mark is not None
        assert isinstance(folder, Path)
        (folder / mark.file).write_text(text)
        with pytest.raises(StorageError, match="are gone from"):
            require_files(store, "tiny")


def test_a_folder_that_cannot_be_written(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setenv(FILES, str(folder))
    sentence = f"{platform.node()} cannot write the files of the study in {folder}.*mend the perm"
    with mounted(folder, "1m") as is_mounted, Store.open(study) as store:
        if not is_mounted and os.geteuid() == 0:
            pytest.skip("mounting is not allowed here")
        require_files(store, "tiny")
        files = store.files_of("tiny")
        assert isinstance(files, Path)
        if is_mounted:
            assert mount("-o", "remount,ro", str(folder))
        else:
            files.chmod(0o500)
        with pytest.raises(StorageError, match=sentence):
            run_study(store, "tiny")
        if is_mounted:
            assert mount("-o", "remount,rw", str(folder))
        files.chmod(0o700)
        require_files(store, "tiny")


def test_an_export_from_elsewhere_says_that_it_trains_again(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(FILES, str(tmp_path / "shared"))
    with Store.open(study) as store:
        run_study(store, "tiny")
        trial = store.front("tiny")[0].trial
        assert not export_candidate(store, "tiny", trial, tmp_path / "out").is_retrained
        assert caplog.text == ""
        monkeypatch.setenv(FILES, str(tmp_path / "elsewhere"))
        assert export_candidate(store, "tiny", trial, tmp_path / "again").is_retrained
        assert (
            f"trial {trial} is trained again: the files of the study 'tiny' are in" in caplog.text
        )


def test_logs_of_workers_stay_here(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(study) as store:
        assert store.logs_of("tiny") == store.files_of("tiny") / "logs"
        monkeypatch.setenv(FILES, f"memory://{uuid.uuid4().hex}")
        logs = store.logs_of("tiny")
        assert is_remote(store.files_of("tiny"))
        logs.mkdir(parents=True)
        (logs / "worker-1.log").write_text("said")
        store.delete_study("tiny")
        assert not logs.exists()
        shutil.rmtree(logs.parent)


OURS = {"torch": "2.13.0", "numpy": "2.0.0"}


def test_who_has_other_versions_does_not_join(study: str, caplog: pytest.LogCaptureFixture) -> None:
    with Store.open(study) as store, Store.open(study) as other:
        first = store.join("tiny", OURS)
        sentence = (
            rf"run with torch 2\.13\.0 by process {os.getpid()} on {platform.node()}, and "
            rf"{platform.node()} has torch 2\.12\.1, with which numbers could differ"
        )
        with pytest.raises(UsageError, match=sentence):
            other.join("tiny", OURS | {"torch": "2.12.1"})
        assert [one.id for one in store.workers("tiny")] == [first]
        other.join("tiny", {"torch": "2.13.0", "optuna": "5.0"})  # as far as both are known
        other.close()
        store.leave("tiny", first, "interrupted")
    with Store.open(study) as store:
        last = store.join("tiny", {"torch": "1.0"})
        store.leave("tiny", last, "finished")
        run_study(store, "tiny")  # nobody is there any more
        assert caplog.text.count("other versions") == 1
        run_study(store, "tiny")
        assert caplog.text.count("other versions") == 1  # the last one had the same
        assert f"was run with other versions on {platform.node()} (torch 1.0 -> " in caplog.text


def test_a_silent_worker_of_another_machine_with_other_versions_keeps_nobody_out(
    study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(study) as store, Store.open(study) as other:
        away = Runner(host="away", pid=1, mark="")
        with monkeypatch.context() as patch:
            patch.setattr("dynamoe_search.store.joining.this_process", lambda: away)
            dead = store.join("tiny", {"torch": "1.0"})
        store._hearts["tiny"].stop()
        assert this_process() != away
        other._watcher = Watcher(silence_seconds=0.6)
        joined = other.join("tiny", OURS)
        assert {one.id: one.is_alive for one in other.workers("tiny")} == {
            dead: False,
            joined: True,
        }


def on_machine(
    name: str, path: Path, make_spec: MakeSpec, *studies: str, is_old: bool = False
) -> dict[str, AnyPath]:
    """Makes a database with studies at a path, tidies up, and moves it out of the way.

    Args:
        name: The machine that it is on, so to say.
        path: The database, the same on all machines.
        make_spec: Makes a study.
        studies: Names of the studies; of each the file that says that its files are there.
        is_old: Whether it was made before databases had an id.
    """
    Store.open(f"sqlite:///{path}").close()
    marks = {}
    if is_old:
        with Store.open(f"sqlite:///{path}") as store, store._database.write() as connection:
            connection.execute(tables.schema.update().values(database_id=None))
    with Store.open(f"sqlite:///{path}") as store:
        for study in studies:
            create_study(store, make_spec(study={"name": study}), source="test", device="cpu")
            require_files(store, study)
            mark = store.files_mark(study)
            assert mark is not None
            marks[study] = store.files_of(study) / mark.file
        remove_garbage(store, find_garbage(store))
    path.rename(path.with_name(name))
    return marks


def test_databases_at_the_same_path_of_two_machines_have_folders_of_their_own(
    places: tuple[str, str], tmp_path: Path, tiny_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FILES, places[0])
    path = tmp_path / "studies.db"
    first = on_machine("one", path, tiny_spec, "tiny", "more")
    second = on_machine("two", path, tiny_spec, "tiny")
    assert first["tiny"].parent != second["tiny"].parent
    assert all(mark.exists() for mark in (*first.values(), *second.values()))
    path.with_name("two").rename(path)
    with Store.open(f"sqlite:///{path}") as store:
        store.delete_study("tiny")
    assert not second["tiny"].exists()
    assert all(mark.exists() for mark in first.values())


def test_databases_that_were_made_before_keep_their_folder_and_gc_leaves_others_alone(
    places: tuple[str, str], tmp_path: Path, tiny_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FILES, places[0])
    path = tmp_path / "studies.db"
    first = on_machine("one", path, tiny_spec, "tiny", is_old=True)
    assert first["tiny"].parent.parent == place_of(places[0], FILES) / safe_name(f"local-0-{path}")
    second = on_machine("two", path, tiny_spec, "other", is_old=True)
    assert first["tiny"].parent.parent == second["other"].parent.parent
    assert first["tiny"].exists()
    path.with_name("one").rename(path)
    with Store.open(f"sqlite:///{path}") as store:
        require_files(store, "tiny")  # a study that was made before goes on where it is
        nobodys = store.folder / "nobodys"
        write_text(_made(nobodys) / "x", "x")
        assert [one.name for one in find_garbage(store)] == [str(nobodys)]


def test_gc_of_a_copied_database_leaves_the_files_of_the_first_alone(
    places: tuple[str, str], tmp_path: Path, tiny_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FILES, places[0])
    path, copied = tmp_path / "studies.db", tmp_path / "copied"
    Store.open(f"sqlite:///{path}").close()
    shutil.copy(path, copied)  # to another machine, where it gets the same path
    first = on_machine("one", path, tiny_spec, "tiny")
    copied.rename(path)
    with Store.open(f"sqlite:///{path}") as store:
        assert store.folder == first["tiny"].parent.parent
        assert find_garbage(store) == []


def _made(folder: AnyPath) -> AnyPath:
    folder.mkdir(parents=True)
    return folder
