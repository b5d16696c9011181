"""A worker that lost its turn to plan, whatever it was about to store, plans again and comes to the same study."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults.small_studies import NAME, PARETO, SmallStudy, facts, spec_with
from dynamoe_search.records import Ended, Leg, RungDecision
from dynamoe_search.search import run_study
from dynamoe_search.store import Addition, Store, tables

STUDY = SmallStudy(
    title="some paused at the end, in a space that gives out",
    spec=spec_with(
        study={"trials": 12, "references": ["dense"]},
        schedule={"shape": "uniform", "max_experts": 2},
        router={"kind": "top-k", "k": [1, 2]},
        model={"d_expert": [8, 12]},
        train={"learning_rate": 3e-3, "epochs": 2},
        adaptive={"enabled": False},
        search={"cohort_size": 3, "pruner": PARETO},
    ),
)


class Sleepy(Store):
    """Loses its turn once before everything that it stores as the one that plans."""

    slept: set[str]

    def sleep(self, what: str) -> None:
        if what not in self.slept:
            self.slept.add(what)
            with self._database.write() as connection:
                connection.execute(tables.studies.update().values(planner=None))

    def stop_paused(
        self,
        name: str,
        worker: str,
        ended: Sequence[Ended],
        decisions: Sequence[RungDecision] = (),
    ) -> None:
        self.sleep("stop")
        super().stop_paused(name, worker, ended, decisions)

    def add_candidates(
        self, name: str, additions: Sequence[Addition], *, worker: str | None = None
    ) -> list[int]:
        self.sleep("add")
        return super().add_candidates(name, additions, worker=worker)

    def set_exhausted(self, name: str, ordinal: int | None, *, worker: str | None = None) -> None:
        self.sleep("exhausted")
        super().set_exhausted(name, ordinal, worker=worker)

    def open_leg(self, name: str, worker: str, trials: Sequence[int], **where: Any) -> Leg:
        self.sleep("open")
        return super().open_leg(name, worker, trials, **where)


def test_worker_that_loses_its_turn_again_and_again_comes_to_the_same_study(tmp_path: Path) -> None:
    found = []
    for number, kind in enumerate((Store, Sleepy)):
        url = f"sqlite:///{tmp_path / str(number) / 'studies.db'}"
        (tmp_path / str(number)).mkdir()
        STUDY.create(url)
        with kind.open(url) as store:
            if isinstance(store, Sleepy):
                store.slept = set()
            run_study(store, NAME)
        found.append(facts(url))
        if isinstance(store, Sleepy):
            assert store.slept == {"stop", "add", "exhausted", "open"}
    assert found[0] == found[1]
