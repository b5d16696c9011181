"""Small parts of the command line: times, quantities, pictures, progress."""

import dataclasses
import io
import json
from typing import Any

import pytest
import typer
from rich.console import Console

from dynamoe_search.cli.options import bound, duration, quantity
from dynamoe_search.cli.pictures import bars, scatter
from dynamoe_search.cli.progress import LiveView, Tally
from dynamoe_search.cli.screens import print_json
from dynamoe_search.cli.words import cell, seconds, size, words_of
from dynamoe_search.records import Leg, Progress, Stood
from dynamoe_search.search.events import (
    CandidateFinished,
    EpochFinished,
    FrontChanged,
    LegFinished,
    LegStarted,
    StudyStarted,
)
from dynamoe_search.store import Store


@pytest.mark.parametrize(
    ("text", "expected"),
    [("45s", 45), ("30m", 1800), ("1h30m", 5400), ("2d", 172800), ("90", 90), ("1.5h", 5400)],
)
def test_duration(text: str, expected: float) -> None:
    assert duration(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "1h30", "-5m", "0", "5 m", "1e3", "m"])
def test_no_duration(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("50k", 50_000), ("1.5M", 1.5e6), ("90%", 0.9), ("0.9", 0.9), ("-1", -1), ("2e3", 2000)],
)
def test_quantity(text: str, expected: float) -> None:
    assert quantity(text) == pytest.approx(expected)
    assert bound(f"activated_params={text}") == ("activated_params", pytest.approx(expected))


@pytest.mark.parametrize("text", ["accuracy", "=5", "accuracy=", "accuracy=much", "accuracy=nan"])
def test_no_bound(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        bound(text)


def test_bars_are_as_high_as_their_numbers() -> None:
    assert bars([8, 4, 0], 8, rows=2) == ["██", "██ ██"]
    assert bars([1], 8, rows=1) == ["▁▁"]


def test_scatter_puts_points_where_they_are() -> None:
    lines = scatter([(0, 0.0), (10, 1.0)], "size", "accuracy", columns=11, rows=3).splitlines()
    assert lines[0] == "accuracy (up) against size (right)"
    assert lines[1].endswith("o")
    assert lines[3].split("|")[1].startswith("o")
    assert scatter([], "x", "y") == ""
    assert "o" in scatter([(1, 1.0)], "x", "y")


def test_numbers_as_people_read_them() -> None:
    assert [cell(value) for value in (None, True, 1234, 0.5, 12345.6, 2000.0, (1, 2))] == [
        "-",
        "yes",
        "1,234",
        "0.5",
        "12,345.6",
        "2,000",
        "1 2",
    ]
    assert [seconds(value) for value in (None, 5, 600, 9000, 259200)] == [
        "-",
        "5 s",
        "10 min",
        "2.5 h",
        "3 days",
    ]
    assert [size(value) for value in (None, 10, 2048, 3 * 2**30)] == ["-", "10 B", "2 KiB", "3 GiB"]


def started(**changes: Any) -> StudyStarted:
    given = {
        "name": "tiny",
        "trials": 4,
        "num_finished": 2,
        "num_running": 0,
        "num_paused": 0,
        "epochs": 10,
        "epochs_per_candidate": 5,
        "max_epochs": None,
        "is_pruned": False,
        "device": "cpu",
    }
    return StudyStarted(**(given | changes))


def leg_of(*trials: int, start: int = 0, end: int = 5) -> Leg:
    return Leg(number=3, trials=trials, start=start, end=end, pack_key="a", worker="w")


def report(ordinal: int, epoch: int) -> Progress:
    return Progress(
        ordinal=ordinal,
        epoch=epoch,
        train_loss=1.0,
        validation_loss=1.0,
        accuracy=0.5,
        activated_params=10.0,
        mean_k_per_layer=(1.0,),
        experts_per_layer=(1,),
        seconds=1.0,
    )


def test_tally_counts_epochs_and_time_left() -> None:
    tally = Tally()
    tally.add(started())
    tally.add(LegStarted(leg=leg_of(2, 3), candidates=()))
    assert tally.seconds_left is None
    assert tally.done == pytest.approx(0.5)
    tally.add(EpochFinished(reports=(report(2, 1), report(3, 1))))
    tally.add(EpochFinished(reports=(report(2, 1), report(3, 1))))  # a checkpoint has them too
    assert tally.done == pytest.approx(12 / 20)
    assert tally.seconds_left is not None
    assert "2/4 trials done, 0 failed" in tally.line()


def test_tally_counts_who_waits_at_a_rung() -> None:
    tally = Tally()
    tally.add(started(is_pruned=True, num_finished=0, num_paused=1, epochs=1))
    tally.add(LegStarted(leg=leg_of(1, 2, end=1), candidates=()))
    tally.add(EpochFinished(reports=(report(1, 1), report(2, 1))))
    stood = tuple(Stood(trial=trial, epochs=1, checkpoint="") for trial in (1, 2))
    tally.add(LegFinished(leg=leg_of(1, 2, end=1), stood=stood))
    assert tally.seconds_left is None  # the pruner decides
    assert tally.done == pytest.approx(3 / 4)
    assert "0/4 trials done, 0 failed, 3 paused" in tally.line()
    tally.add(LegStarted(leg=leg_of(0, 1, start=1, end=2), candidates=()))
    assert tally.num_paused == 1
    budget = Tally()
    budget.add(started(is_pruned=True, max_epochs=12))
    budget.add(EpochFinished(reports=(report(2, 1),)))
    assert budget.done == pytest.approx(11 / 12)
    assert budget.seconds_left is not None


def test_tally_of_what_others_train_says_the_same(searched: str) -> None:
    own, others = Tally(), Tally()
    with Store.open(searched) as store:
        record, spent, front = store.study("tiny"), store.spent("tiny"), store.front("tiny")
        records = store.candidates("tiny")
    for tally in (own, others):
        tally.add(started(trials=6, num_finished=0, epochs=0, epochs_per_candidate=2))
    own.add(EpochFinished(reports=tuple(report(n, e) for n in range(6) for e in (1, 2))))
    for one in records:
        own.add(CandidateFinished(record=one))
    own.add(FrontChanged(members=tuple(front)))
    others.look(record, spent, front, "2 workers")
    others.started = own.started
    assert (own.finished, own.epochs, own.done) == (others.finished, others.epochs, others.done)
    assert own.line().split(", ")[:3] == others.line().split(", ")[:3]
    assert others.leg == "2 workers"


def test_a_leg_in_words() -> None:
    assert words_of(leg_of(1, start=0, end=1)) == "leg 3: 1 candidate, epoch 1"
    assert words_of(leg_of(1, 2, start=2, end=5)) == "leg 3: 2 candidates, epochs 3 to 5"


def test_live_view_shows_the_study_and_its_best_points(searched: str) -> None:
    with Store.open(searched) as store:
        members = tuple(store.front("tiny"))
        (first, *_) = store.candidates("tiny")
    failed = dataclasses.replace(first, status="failed", reason="nan", message="trace\nnot finite")
    view = LiveView()
    for event in (
        started(trials=6, num_finished=0, epochs=0),
        LegStarted(leg=leg_of(first.trial), candidates=(first.candidate,)),
        CandidateFinished(record=failed),
        FrontChanged(members=members),
    ):
        view(event)
    screen = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    screen.print(view)
    assert isinstance(screen.file, io.StringIO)
    text = screen.file.getvalue()
    assert "tiny on cpu  leg 3: 1 candidate, epochs 1 to 5" in text
    assert "1/6 trials done, 1 failed" in text
    assert f"trial {first.trial} failed (nan): not finite" in text
    assert members[0].candidate.router.kind in text


def test_json_has_null_where_a_number_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"loss": float("nan"), "best": float("inf"), "word": "ü"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"loss": None, "best": None, "word": "ü"}
