"""Studies: made, found, run by one process at a time, deleted; and seen by Optuna's own tools."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamoe_search.errors import UsageError
from dynamoe_search.records import StudySettings, from_json, to_json
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store, tables
from dynamoe_search.store.tables import metadata
from dynamoe_search.store.texts import safe_name
from tests.store.builders import SETTINGS, add, add_complete, report


def test_study_comes_back_as_it_went_in(store: Store, tiny_spec: Callable[..., StudySpec]) -> None:
    spec = tiny_spec(
        study={"seed": 2**32 - 1, "constraints": {"max_activated_params": 5e4}},
        router={"kind": ["top-k", "top-any"], "threshold": {"low": -1.0, "high": 1.0}},
    )
    store.create_study(spec, source="a.toml", settings=SETTINGS)
    found = store.study("tiny")
    assert StudySpec.model_validate_json(found.spec_json) == spec
    assert (found.source, found.settings, found.trials) == ("a.toml", SETTINGS, 4)
    assert found.objectives == ("accuracy", "activated_params")
    assert found.maximise == (True, False)
    assert found.state == "created"
    assert store.studies() == [found]


def test_counts_of_a_study(store: Store, study: str) -> None:
    add_complete(store, study, 0, 0.5, 5.0)
    add(store, study, 1)
    store.refresh_front(study)
    found = store.study(study)
    assert (found.num_complete, found.num_running, found.num_failed) == (1, 1, 0)
    assert found.num_front == 1
    assert store.studies() == [found]


def test_name_that_is_taken(store: Store, study: str, tiny_spec: Callable[..., StudySpec]) -> None:
    with pytest.raises(UsageError, match=r"'tiny' exists already.*resume.*--name"):
        store.create_study(tiny_spec(), source="x", settings=SETTINGS)
    optuna.create_study(study_name="theirs", storage=store.storage_for_optuna())
    with pytest.raises(UsageError, match="this program did not make"):
        store.create_study(tiny_spec(study={"name": "theirs"}), source="x", settings=SETTINGS)
    assert [item.name for item in store.studies()] == [study]


def test_a_reader_sees_one_state_throughout(store: Store, study: str) -> None:
    """What is written between two queries of a reader is in neither."""
    add(store, study, 0)

    def count(connection: sa.Connection) -> int:
        query = sa.select(sa.func.count()).select_from(tables.candidates)
        return int(connection.execute(query).scalar_one())

    def read(connection: sa.Connection) -> tuple[int, int]:
        before = count(connection)
        with Store.open(store.url) as other:
            add(other, study, before)
        return before, count(connection)

    assert store._database.query(read) == (1, 1)
    assert store._database.query(count) == 2


def test_missing_study_names_close_matches(store: Store, study: str) -> None:
    for ask in (
        store.study,
        store.candidates,
        store.progress,
        store.front,
        store.refresh_front,
        store.spent,
        store.request_stop,
        store.join,
        store.workers,
        store.legs,
        store.standings,
        store.decisions,
        store.zombies,
        store.orders,
        store.replay_tells,
        store.delete_study,
    ):
        with pytest.raises(UsageError, match="no study 'tyny'; did you mean 'tiny'"):
            ask("tyny")
    with pytest.raises(UsageError, match="see the command list"):
        store.study("something else")
    store.delete_study(study)
    with pytest.raises(UsageError, match="none other in this database"):
        store.study(study)


def test_optuna_sees_names_directions_and_trials(store: Store, study: str) -> None:
    add_complete(store, study, 0, 0.5, 5.0)
    loaded = optuna.load_study(study_name=study, storage=store.storage_for_optuna())
    assert loaded.metric_names == ["accuracy", "activated_params"]
    assert [item.name for item in loaded.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert [trial.values for trial in loaded.trials] == [[0.5, 5.0]]


def test_optuna_dashboard_shows_the_study(store: Store, study: str) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    add_complete(store, study, 0, 0.5, 5.0, -1.0)
    app = dashboard.wsgi(store.storage_for_optuna())

    def get(path: str, query: str = "") -> Any:
        statuses: list[str] = []

        def start_response(status: str, *_: Any) -> None:
            statuses.append(status)

        environ = {"PATH_INFO": path, "QUERY_STRING": query}
        setup_testing_defaults(environ)
        body = b"".join(app(environ, start_response))
        assert statuses == ["200 OK"]
        return json.loads(body)

    (summary,) = get("/api/studies")["study_summaries"]
    assert summary["study_name"] == study
    assert summary["directions"] == ["maximize", "minimize"]
    detail = get(f"/api/studies/{summary['study_id']}", "after=0")
    (trial,) = detail["trials"]
    assert trial["values"] == [0.5, 5.0]
    assert trial["constraints"] == [-1.0]
    assert detail["objective_names"] == ["accuracy", "activated_params"]


def test_nothing_is_printed_and_no_warning_leaks(
    store: Store,
    tiny_spec: Callable[..., StudySpec],
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    before = optuna.logging.get_verbosity()
    store.create_study(tiny_spec(), source="x", settings=SETTINGS)
    add_complete(store, "tiny", 0, 0.5, 5.0, 0.0)
    store.refresh_front("tiny")
    store.delete_study("tiny")
    assert capfd.readouterr() == ("", "")
    assert not list(recwarn)
    assert optuna.logging.get_verbosity() == before


def test_stop_is_asked_of_those_who_are_there(store: Store, study: str) -> None:
    store.request_stop(study)
    assert not store.study(study).is_stop_requested
    worker = store.join(study)
    assert not store.orders(study)[0]
    store.request_stop(study)
    assert store.orders(study)[0]
    assert store.study(study).is_stop_requested
    store.leave(study, worker, "interrupted")
    assert not store.study(study).is_stop_requested
    store.join(study)
    assert not store.orders(study)[0]


def test_limits_of_a_study(store: Store, study: str) -> None:
    found = store.study(study)
    assert (found.max_epochs, found.max_seconds, found.max_pack) == (None, None, None)
    store.set_trials(study, 99)
    store.set_max_epochs(study, 400)
    store.set_time_budget(study, 3600.5)
    store.set_max_pack(study, 8)
    found = store.study(study)
    assert (found.trials, found.max_epochs) == (99, 400)
    assert (found.max_seconds, found.max_pack) == (3600.5, 8)


def test_settings_without_a_hash_of_the_data_are_read() -> None:
    older = json.loads(to_json(SETTINGS))
    del older["data_hash"]
    assert from_json(StudySettings, json.dumps(older)).data_hash == ""


def test_deleting_leaves_nothing_of_the_study_and_all_of_the_others(
    store: Store, study: str, tiny_spec: Callable[..., StudySpec]
) -> None:
    store.create_study(tiny_spec(study={"name": "other"}), source="x", settings=SETTINGS)
    for name in (study, "other"):
        add_complete(store, name, 0, 0.5, 5.0)
        store.add_progress(name, [report(0, 1)])
        store.refresh_front(name)
        store.files_of(name).mkdir(parents=True)
        (store.files_of(name) / "weights.safetensors").write_bytes(b"x")
    store.delete_study(study)
    assert [item.name for item in store.studies()] == ["other"]
    assert optuna.get_all_study_names(store.storage_for_optuna()) == ["other"]
    assert not store.files_of(study).exists()
    assert store.files_of("other").is_dir()
    with store._database.read() as connection:
        for table in metadata.tables.values():
            if "study_name" in table.c:
                query = table.select().where(table.c.study_name == study)
                assert connection.execute(query).all() == []
    assert len(store.front("other")) == len(store.progress("other")) == 1
    store.create_study(tiny_spec(), source="x", settings=SETTINGS)
    assert add(store, study, 0) == 0


@pytest.mark.parametrize(
    "name", ["../../out", "..", ".", "/etc", "a/../../b", "C:\\x", "", "con", "x" * 500, "\udce4"]
)
def test_hostile_names_stay_inside_the_folder(store: Store, name: str) -> None:
    folder = store.files_of(name)
    assert folder.parent == store.folder
    assert folder.resolve().is_relative_to(store.folder.resolve())
    assert len(folder.name) < 64


@settings(max_examples=30)
@given(st.lists(st.text(max_size=30), unique=True, max_size=20))
def test_different_names_have_different_folders(names: list[str]) -> None:
    assert len({safe_name(name).lower() for name in names}) == len(names)


def test_deleting_follows_no_link_out_of_the_folder(
    store: Store, study: str, tmp_path: Path
) -> None:
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "file").touch()
    store.folder.mkdir()
    store.files_of(study).symlink_to(outside, target_is_directory=True)
    store.delete_study(study)
    assert (outside / "file").exists()
    assert not store.files_of(study).is_symlink()


def test_deletion_that_was_cut_short_is_finished_by_deleting_again(
    store: Store, study: str
) -> None:
    add_complete(store, study, 0, 0.5, 5.0)
    store.leave(study, store.join(study), "finished")
    store._update(study, state="deleting")
    store._optuna.delete(study)
    assert store.study(study).state == "deleting"
    for use in (store.join, store.replay_tells, lambda name: add(store, name, 1)):
        with pytest.raises(UsageError, match="being deleted"):
            use(study)
    store.delete_study(study)
    assert store.studies() == []
