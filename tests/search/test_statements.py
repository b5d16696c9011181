"""What a leg asks of the database does not grow with the number of trials that are stored."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from benchmarks.speed.filling import multiply
from dynamoe_search.search import Event, LegFinished, Limits, run_study
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from tests.finished import copy_of, search

MakeSpec = Callable[..., StudySpec]

FIRST, NEXT = 8, 12
_POLLS = 12
"""Statements by which runs differ because they ask once a second whether somebody stopped them."""

_STATEMENTS = {"none": 140, "pareto": 110}
"""Per leg of four candidates; with no pruner all of them end in it and four others are added."""

_INSTRUCTIONS = 50
"""Of SQLite's machine, per leg and stored trial: it counts rows of an index once. To read a trial takes more."""


class Counter:
    """Counts statements of any kind, and the instructions of SQLite's machine, in tens."""

    def __init__(self) -> None:
        self.statements = self.instructions = 0
        self.legs: list[tuple[int, int]] = []

    def on_event(self, event: Event) -> None:
        if isinstance(event, LegFinished):
            self.legs.append((self.statements, self.instructions))

    def per_leg(self) -> tuple[float, float]:
        """Returns both for a leg after the first: that of a new process reads everything."""
        (first, begin), (last, end), number = self.legs[0], self.legs[-1], len(self.legs) - 1
        return (last - first) / number, (end - begin) / number

    @contextmanager
    def counting(self) -> Iterator[None]:
        def step() -> int:
            self.instructions += 1
            return 0

        def connected(connection: sqlite3.Connection, _: Any) -> None:
            connection.set_progress_handler(step, 10)

        def execute(*_: Any) -> None:
            self.statements += 1

        sa.event.listen(sa.Pool, "connect", connected)
        sa.event.listen(sa.Engine, "before_cursor_execute", execute)
        try:
            yield
        finally:
            sa.event.remove(sa.Pool, "connect", connected)
            sa.event.remove(sa.Engine, "before_cursor_execute", execute)


def legs_after(url: str, stored: int) -> Counter:
    """Returns what the next legs ask of the database of a study that is made one of so many trials."""
    multiply(Path(url.removeprefix("sqlite:///")), stored)
    counter = Counter()
    with counter.counting(), Store.open(url) as store:
        run_study(store, "tiny", limits=Limits(trials=stored + NEXT), on_event=counter.on_event)
    return counter


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["none", "pareto"])
def test_a_leg_of_a_large_study_asks_no_more_than_one_of_a_small_study(
    tmp_path: Path, tiny_spec: MakeSpec, pruner: str
) -> None:
    spec = tiny_spec(
        study={"trials": FIRST},
        schedule={"shape": ["uniform", "descending"]},
        train={"learning_rate": {"low": 1e-3, "high": 1e-2}, "epochs": 2},
        data={"max_train": 64},
        search={"cohort_size": 4, "pruner": {"kind": pruner, "rungs": [1]}},
    )
    (tmp_path / "first").mkdir()
    first = f"sqlite:///{tmp_path / 'first' / 'studies.db'}"
    search(first, spec)
    small = legs_after(copy_of(first, tmp_path / "small"), FIRST)
    large = legs_after(copy_of(first, tmp_path / "large"), 60 * FIRST)
    (statements, tens), (more, more_tens) = small.per_leg(), large.per_leg()
    assert statements <= _STATEMENTS[pruner]
    assert more <= statements + _POLLS
    assert 10 * (more_tens - tens) / (59 * FIRST) <= _INSTRUCTIONS
