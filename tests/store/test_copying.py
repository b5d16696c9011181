"""A study in another database is the same study: rows, Optuna's trials, files; and it goes on to the same end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from dynamoe_search.errors import StorageError, UsageError
from dynamoe_search.search import create_study, run_study
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store, tables

KEPT = [table for table in tables.metadata.sorted_tables if "study_name" in table.c]


def rows(store: Store, name: str) -> dict[str, list[dict[str, Any]]]:
    """Returns everything of ours that must be the same in a copy."""
    found = {}
    with store._database.read() as connection:
        for table in KEPT:
            query = sa.select(table).where(table.c.study_name == name).order_by(*table.primary_key)
            found[table.name] = [dict(row) for row in connection.execute(query).mappings()]
    return found


def trials(store: Store, name: str) -> list[tuple[Any, ...]]:
    study = optuna.load_study(study_name=name, storage=store.storage_for_optuna())
    return [
        (one.number, one.state, one.values, one.params, one.user_attrs, one.system_attrs)
        for one in study.trials
    ]


def results(store: Store, name: str) -> list[tuple[Any, ...]]:
    return [
        (one.trial, one.status, one.candidate, one.outcome and one.outcome.metrics)
        for one in store.candidates(name)
    ]


@pytest.mark.slow
def test_copy_goes_on_to_the_same_end_there_and_back(
    postgres_url: str,
    storage_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_spec: Callable[..., StudySpec],
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    spec = tiny_spec(
        study={"name": "tiny", "trials": 8}, train={"epochs": 4}, search={"cohort_size": 4}
    )
    urls = [storage_url, postgres_url, f"sqlite:///{tmp_path / 'back.db'}"]
    with Store.open(f"sqlite:///{tmp_path / 'whole.db'}") as whole:
        create_study(whole, spec, source="x", device="cpu", num_threads=1)
        run_study(whole, "tiny")
        expected = results(whole, "tiny")
    with Store.open(urls[0]) as first, Store.open(urls[1]) as second, Store.open(urls[2]) as third:
        create_study(first, spec, source="x", device="cpu", num_threads=1)
        for source, target, steps in ((first, second, 10), (second, third, 10)):
            budget = iter(range(steps))
            run_study(source, "tiny", should_stop=lambda left=budget: next(left, None) is None)
            assert source.study("tiny").state == "interrupted"
            assert source.copy_study("tiny", target) == ["tiny"]
            before, after = rows(source, "tiny"), rows(target, "tiny")
            for found in (before, after):
                for row in found["dynamoe_studies"]:
                    del row["updated_at"]
                    assert row.pop("files_json")  # says where those of each are
            assert before == after
            assert trials(source, "tiny") == trials(target, "tiny")
            assert not [one for one in target.check("tiny") if one.level == "error"]
        run_study(third, "tiny")
        assert results(third, "tiny") == expected


def test_copies_that_are_refused(store: Store, study: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is in .* already; name another database"):
        store.copy_study(study, store)
    with Store.open(f"sqlite:///{tmp_path / 'other.db'}") as other:
        with pytest.raises(UsageError, match="no study 'nobody'"):
            store.copy_study("nobody", other)
        worker = store.join(study)
        with pytest.raises(UsageError, match=r"works on the study 'tiny'; stop it before copying"):
            store.copy_study(study, other)
        store.leave(study, worker, "interrupted", 0.0)
        assert store.copy_study(study, other) == [study]
        with pytest.raises(UsageError, match="has a study 'tiny' already"):
            store.copy_study(study, other)
        assert [one.name for one in other.studies()] == [study]


def test_copy_that_was_cut_short_is_no_study(store: Store, study: str, tmp_path: Path) -> None:
    folder = store.files_of(study)
    folder.mkdir(parents=True)
    (folder / "x").write_text("x")
    with Store.open(f"sqlite:///{tmp_path / 'other.db'}") as other:
        other.files_of(study).mkdir(parents=True)  # in the way
        with pytest.raises(StorageError, match="cannot be copied"):
            store.copy_study(study, other)
        with pytest.raises(UsageError, match="being deleted"):
            other.join(study)
        other.delete_study(study)
        assert store.copy_study(study, other) == [study]
        assert (other.files_of(study) / "x").read_text() == "x"
