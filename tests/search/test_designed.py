"""Designed studies: made from a search, trained like any other study, every run with a seed of its own."""

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from dynamoe_search.errors import DataError, UsageError
from dynamoe_search.records import Candidate, RouterConfig
from dynamoe_search.search import Limits, create_study, export_candidate, run_study, weights
from dynamoe_search.search.designed import (
    Design,
    create_designed,
    designed_runs,
    replicated,
    run_designed,
)
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Addition, Store, weight_files
from dynamoe_search.training.batches import epoch_order
from tests.conftest import TINY
from tests.finished import copy_of, finish

PLAN = {"seeds": 3}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a database with the finished study `tiny`; tests copy it."""
    return finish(
        tmp_path_factory.mktemp("parent"),
        router={"kind": "top-k", "k": [1, 2]},
        search=TINY["search"] | {"pruner": {"kind": "none"}},
    )


@pytest.fixture
def url(parent: str, tmp_path: Path) -> str:
    return copy_of(parent, tmp_path / "copy")


def designs(store: Store, seeds: int = 3) -> list[Design]:
    one = store.candidate("tiny", 0).candidate
    wide = {"experts_per_layer": (4, 5), "router": RouterConfig(kind="dense")}
    other = Candidate(**{name: getattr(one, name) for name in one.__slots__} | wide)
    return replicated({"trial-0": one, "dense": other}, seeds)


def numbers(store: Store, name: str) -> list[Any]:
    found = []
    for one in designed_runs(store, name):
        assert one.record.outcome is not None
        found.append((one.design, one.replicate, one.record.values, one.record.outcome.metrics))
    return found


def test_every_design_is_trained_with_every_seed(url: str) -> None:
    with Store.open(url) as store:
        name = create_designed(store, "tiny", "confirm", PLAN, designs(store))
        assert name == "tiny.confirm"
        record = store.study(name)
        assert (record.parent, record.purpose, record.trials) == ("tiny", "confirm", 6)
        assert (record.settings.num_slots, record.num_running) == (5, 6)
        assert record.settings.data_hash == store.study("tiny").settings.data_hash
        summary = run_designed(store, name)
        assert (summary.state, summary.complete) == ("finished", 6)
        runs = designed_runs(store, name)
        assert [(one.design, one.replicate) for one in runs] == [
            (design, replicate) for replicate in range(3) for design in ("trial-0", "dense")
        ]
        assert weight_files.present(store.files_of(name) / "models").keys() == set(range(6))
        legs = store.legs(name)
        assert [leg.trials for leg in legs] == [(0, 1), (2, 3), (4, 5)]  # packed by replicate
        again = run_study(store, name)
        assert (again.complete, len(store.legs(name))) == (6, 3)


def test_replicates_differ_in_weights_and_batches_and_designs_share_the_batches(url: str) -> None:
    with Store.open(url) as store:
        name = create_designed(store, "tiny", "confirm", PLAN, designs(store))
        runs = designed_runs(store, name)
        seeds = {one.replicate: set[int]() for one in runs}
        for one in runs:
            seeds[one.replicate].add(one.record.candidate.study_seed)
        assert all(len(found) == 1 for found in seeds.values())
        first, second, third = (found.pop() for found in seeds.values())
        assert len({first, second, third, store.candidate("tiny", 0).candidate.study_seed}) == 4
        orders = [epoch_order(256, seed, 0) for seed in (first, second)]
        assert not torch.equal(orders[0], orders[1])
        run_designed(store, name)
        folder = store.files_of(name) / "models"
        a, b = (
            weights.load(folder, trial, store.candidate(name, trial).weights) for trial in (0, 2)
        )
        assert a is not None
        assert b is not None
        assert not torch.equal(a["head.weight"], b["head.weight"])


def test_same_request_gives_the_same_study_and_another_one_another(url: str) -> None:
    with Store.open(url) as store:
        first = create_designed(store, "tiny", "confirm", PLAN, designs(store))
        assert create_designed(store, "tiny", "confirm", PLAN, designs(store)) == first
        assert create_designed(store, "tiny", "audit", PLAN, designs(store)) == "tiny.audit"
        more = create_designed(store, "tiny", "confirm", {"seeds": 4}, designs(store, 4))
        assert more == "tiny.confirm-2"
        assert store.children("tiny") == ["tiny.confirm", "tiny.audit", "tiny.confirm-2"]
        assert [store.study(name).num_running for name in store.children("tiny")] == [6, 6, 8]


class Dies(Store):
    """A store whose process dies after four candidates."""

    def add_candidates(
        self, name: str, additions: Sequence[Addition], *, worker: str | None = None
    ) -> list[int]:
        if additions[-1].candidate.ordinal > 3:
            raise KeyboardInterrupt
        return super().add_candidates(name, additions, worker=worker)


def test_creation_that_was_cut_short_is_completed(url: str) -> None:
    with Store.open(url) as store:
        wanted = designs(store)
    with Dies.open(url) as store, pytest.raises(KeyboardInterrupt):
        create_designed(store, "tiny", "confirm", PLAN, wanted)
    with Store.open(url) as store:
        assert store.study("tiny.confirm").num_running == 4
        with pytest.raises(UsageError, match="not made to its end; call confirm on 'tiny' again"):
            run_study(store, "tiny.confirm")
        assert create_designed(store, "tiny", "confirm", PLAN, wanted) == "tiny.confirm"
        assert run_designed(store, "tiny.confirm").complete == 6


class Countdown:
    """Asks to stop after a few steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_interrupted_runs_come_to_the_same_numbers(url: str, tmp_path: Path) -> None:
    other = copy_of(url, tmp_path / "other")
    with Store.open(url) as store:
        name = create_designed(store, "tiny", "confirm", PLAN, designs(store))
        run_designed(store, name)
        expected = numbers(store, name)
    with Store.open(other) as store:
        name = create_designed(store, "tiny", "confirm", PLAN, designs(store))
        num_runs = 0
        while store.study(name).state != "finished":
            run_designed(store, name, should_stop=Countdown(6))
            num_runs += 1
        assert num_runs > 2
        assert numbers(store, name) == expected


def test_designed_study_proposes_nothing_and_keeps_its_number(url: str) -> None:
    with Store.open(url) as store:
        name = create_designed(store, "tiny", "confirm", PLAN, designs(store))
        with pytest.raises(UsageError, match="has its 6 trials; for more, call confirm on 'tiny'"):
            run_study(store, name, limits=Limits(trials=12))
        with pytest.raises(UsageError, match="name the study that it was made from, 'tiny'"):
            create_designed(store, name, "audit", PLAN, designs(store))


def test_other_data_than_the_parents_are_refused(url: str) -> None:
    with Store.open(url) as store:
        wanted = designs(store)
        known = store.study("tiny").settings.data_hash
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        connection.execute(
            "update dynamoe_studies set settings_json = replace(settings_json, ?, 'other')",
            (known,),
        )
        connection.commit()
    with Store.open(url) as store:
        with pytest.raises(DataError, match="are not those that the study 'tiny' began with"):
            create_designed(store, "tiny", "confirm", PLAN, wanted)
        assert store.children("tiny") == []


def test_any_run_can_be_exported(url: str, tmp_path: Path) -> None:
    with Store.open(url) as store:
        name = create_designed(store, "tiny", "confirm", PLAN, designs(store))
        run_designed(store, name)
        for trial in (0, 5):
            exported = export_candidate(store, name, trial, tmp_path / str(trial))
            assert not exported.is_retrained
            assert exported.metrics["accuracy"] == exported.stored["accuracy"]


def test_long_names_are_cut(tiny_spec: Callable[..., StudySpec], storage_url: str) -> None:
    name = "x" * 100
    with Store.open(storage_url) as store:
        spec = tiny_spec(study={"name": name, "trials": 2})
        create_study(store, spec, source="test", device="cpu", num_threads=1)
        run_study(store, name)
        wanted = replicated({"trial-0": store.candidate(name, 0).candidate}, 2)
        child = create_designed(store, name, "confirm", PLAN, wanted)
        assert child == "x" * 92 + ".confirm"
        assert create_designed(store, name, "confirm", {}, wanted) == "x" * 90 + ".confirm-2"
