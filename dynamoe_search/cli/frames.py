"""One picture of a study for a terminal of any size: what `watch` shows. Nothing is read here."""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, TypeVar

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dynamoe_search.cli.pace import done, rung_rows, seconds_left
from dynamoe_search.cli.pictures import scatter
from dynamoe_search.cli.screens import table
from dynamoe_search.cli.words import cell, printable, seconds, words_of
from dynamoe_search.confirmation import MEASURES, measure_of
from dynamoe_search.store import Happening, Overview
from dynamoe_search.wording import counted

Item = TypeVar("Item")
Point = tuple[float, float]

_SIDE, _WIDE_SIDE = 38, 46  # columns of the tables beside the plot
_TWO_COLUMNS, _THREE_COLUMNS = 76, 140  # from these widths on
_HEAD_LINES, _PLOT_FRAME = 5, 4
_MOST_LEGS = 4
_BEST = {"accuracy": "best", "perplexity": "perplexity"}  # of a leg; else its lowest loss
_KINDS = {"complete": "complete", "stopped": "pruned"}


def frame(
    view: Overview,
    *,
    width: int,
    height: int,
    rate: float | None = None,
    note: str = "",
) -> RenderableType:
    """Returns a study as a picture of at most so many columns and lines.

    Args:
        view: The study now.
        width: Columns of the terminal.
        height: Lines of the terminal.
        rate: Candidate-epochs a second, if they were seen to rise.
        note: What keeps the picture from being up to date.
    """
    num_events = min(12, max(4, height // 5))
    events = _events(view.happenings, num_events)
    middle = max(8, height - _HEAD_LINES - len(events) - 3)  # the last line is the prompt's
    return Group(
        _head(view, rate, note), _body(view, width, middle), Text("\nlatest", "bold"), *events
    )


def thinned(items: Sequence[Item], most: int) -> list[Item]:
    """Returns at most so many of the items, evenly spread; both ends stay."""
    last = len(items) - 1
    count = min(len(items), most)
    return [
        items[place]
        for place in sorted({round(i * last / max(1, count - 1)) for i in range(count)})
    ]


# The head


def _head(view: Overview, rate: float | None, note: str) -> RenderableType:
    record, spent = view.record, view.spent
    num_workers = len(view.workers)
    state: str = record.state
    if num_workers:
        state += f" on {record.settings.device}, {counted(num_workers, 'worker')}"
    if record.is_stop_requested:
        state += ", asked to stop"
    candidates = [
        f"{spent.complete} of {counted(record.trials, 'candidate')} complete",
        *(f"{number:,} {word}" for number, word in _counts(view) if number),
    ]
    resources = [
        _of_epochs(spent.epochs, record.max_epochs),
        _of_time(record.seconds_spent, record.max_seconds),
        *([f"{rate:.3g} epochs/s"] if rate else []),
        *([f"about {seconds(left)} left"] if (left := seconds_left(view, rate)) else []),
    ]
    title = Text.assemble((printable(record.name), "bold"), f"  {printable(state)}")
    lines = [title, Text(", ".join(candidates)), Text(", ".join(resources))]
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    bar = Table.grid(expand=True)  # a bar alone does not end its line
    bar.add_row(ProgressBar(total=1.0, completed=done(view)))
    return Group(lines[0], bar, *lines[1:], Text(note, "yellow", no_wrap=True, overflow="ellipsis"))


def _counts(view: Overview) -> list[tuple[int, str]]:
    spent = view.spent
    in_training = sum(len(one.leg.trials) for one in view.legs)
    return [
        (spent.failed, "failed"),
        (spent.stopped, "pruned"),
        (spent.paused, "paused"),
        (in_training, "in training"),
        (max(0, spent.running - in_training), "waiting"),
    ]


# The body


def _body(view: Overview, width: int, height: int) -> RenderableType:
    if width < _TWO_COLUMNS:
        return Group(_side(view, width, height), _plot(view, width, 8))
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    is_wide = width >= _THREE_COLUMNS
    side = _WIDE_SIDE if is_wide else _SIDE
    left = width * 2 // 5 if is_wide else width - side - 2
    grid.add_column(width=left)
    grid.add_column(width=side)
    rows = max(4, min(height, left // 2) - _PLOT_FRAME)
    cells = [_plot(view, left, rows), _side(view, side, height, has_front=not is_wide)]
    if is_wide:
        grid.add_column(ratio=1)
        cells.append(_front(view, height - 2, width - left - side - 4))
    grid.add_row(*cells)
    return grid


def _plot(view: Overview, width: int, rows: int) -> RenderableType:
    record = view.record
    if len(record.objectives) < 2:
        return _titled("front", Text("one objective, so there is nothing to plot"))
    upwards, across = record.objectives[:2]
    front = _finite((one.values[across], one.values[upwards]) for one in view.front)
    others = _finite((one[across], one[upwards]) for one in view.complete)
    unfinished = _finite(
        (one["activated_params"], reached)
        for one in view.latest
        if across == "activated_params" and (reached := _reached(one, upwards)) is not None
    )
    if len(front) > 1 and record.maximise[0]:  # the front fills the picture, whoever is far below
        heights = [y for _, y in front]
        lowest = 2 * min(heights) - max(heights)
        others, unfinished = (
            [one for one in group if one[1] >= lowest] for group in (others, unfinished)
        )
    picture = scatter(
        front, across, upwards, others, unfinished, columns=max(8, width - 10), rows=rows
    )
    if not picture:
        return _titled("front", Text("no candidate has reported yet"))
    area = Text(picture.partition("\n")[2], no_wrap=True, overflow="crop")
    area.highlight_regex(r"(?m)(?<=[| .+o])o(?=[ .+o]*$)", "bold green")
    legend = Text("o front  . complete  + unfinished", "dim", no_wrap=True, overflow="crop")
    better = "" if record.maximise[0] else ", lower is better"
    title = printable(f"{upwards}{better} (up) against {across}")
    return Group(Text(title, "bold", no_wrap=True, overflow="ellipsis"), area, legend)


def _reached(report: Mapping[str, float], measure: str) -> float | None:
    """Returns what a candidate has reported of a measure; None if a report does not say it."""
    if measure == "perplexity":
        return MEASURES["perplexity"].shown(report["validation_loss"])
    return report.get(measure)


def _side(view: Overview, width: int, height: int, *, has_front: bool = True) -> RenderableType:
    """What is in training, the rungs, and the front as a table if there is room for it."""
    parts = [_legs(view)]
    lines = 3 + min(_MOST_LEGS, len(view.legs))
    if rungs := rung_rows(view):
        names = ["rung", "reached", "on", "may", "paused", "pruned"]
        parts += [Text(), table(names, rungs)]
        lines += 2 + len(rungs)
    if has_front and height - lines > 4:
        parts += [Text(), _front(view, height - lines - 3, width)]
    return Group(*parts)


def _legs(view: Overview) -> RenderableType:
    if not view.legs:
        return _titled(
            "in training", Text("nobody" if view.workers else "nobody: no worker is there")
        )
    hosts = {one.host for one in view.workers}
    names = {
        one.id: str(one.pid) if len(hosts) < 2 else f"{one.pid}@{one.host}" for one in view.workers
    }
    grid = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for name in ("leg", "worker"):
        grid.add_column(name, no_wrap=True, overflow="ellipsis", max_width=12)
    grid.add_column("trials", no_wrap=True, overflow="ellipsis", ratio=1)
    measure = measure_of(view.record.objectives)
    for name in ("epoch", _BEST.get(measure.name, "loss")):
        grid.add_column(name, no_wrap=True, justify="right")
    shown = view.legs[:_MOST_LEGS]
    for one in shown:
        leg = one.leg
        trials = f"{len(leg.trials)}: {' '.join(map(str, leg.trials))}"
        reached = one.best_accuracy if measure.is_maximised else one.lowest_loss
        places = ".3f" if measure.is_maximised else ".4g"
        best = "" if reached is None else format(measure.shown(reached), places)
        row = (
            str(leg.number),
            names.get(leg.worker or "", "gone"),
            trials,
            f"{one.epoch}/{leg.end}",
            best,
        )
        grid.add_row(*(Text(printable(value)) for value in row))
    more = len(view.legs) - len(shown)
    return Group(grid, Text(f"and {counted(more, 'leg')} more")) if more else grid


def _front(view: Overview, most: int, width: int) -> RenderableType:
    """The front as a table, with as many of its columns as there is room for."""
    places = thinned(view.front, max(2, most - 1))
    objectives = view.record.objectives[: 2 if width < _WIDE_SIDE else None]
    short = {"activated_params": "activated", "total_params": "total"}
    names = ["trial", *(short.get(name, name) for name in objectives)]
    rows: list[list[Any]] = [
        [one.trial, *(float(one.values[name]) for name in objectives)] for one in places
    ]
    if width >= _WIDE_SIDE:
        names += ["router", "experts"]
        for row, one in zip(rows, places, strict=True):
            row += [one.router, " ".join(map(str, one.experts_per_layer))]
    grid = table(names, rows)
    for column in grid.columns:
        column.no_wrap, column.overflow = True, "ellipsis"
    total = len(view.front)
    shown = f"{len(places)} of " if len(places) < total else ""
    return _titled(
        f"front, {shown}{counted(total, 'member')}", grid if rows else Text("empty so far")
    )


# What happened


def _events(happenings: Sequence[Happening], most: int) -> list[Text]:
    lines = []
    for (clock, kind), group in groupby(happenings, key=lambda one: (_clock(one.at), one.kind)):
        same = list(group)
        if len(same) > 2 and kind in _KINDS:
            trials = " ".join(str(one.number) for one in sorted(same, key=lambda one: one.number))
            words = [f"trials {trials} {_KINDS[kind]}"]
        else:
            words = [_event(one) for one in same]
        lines += [f"{clock}  {one}" for one in words]
    shown = lines[:most] or ["nothing yet"]
    return [Text(printable(line), no_wrap=True, overflow="ellipsis") for line in shown]


def _event(one: Happening) -> str:
    match one.kind:
        case "complete":
            values = ", ".join(f"{name} {cell(float(v))}" for name, v in (one.values or {}).items())
            return f"trial {one.number} complete: {values}"
        case "stopped":
            return f"trial {one.number} {one.message or 'pruned'}"
        case "failed":
            why = (one.message or "").strip().splitlines()[-1:] or ["no message"]
            return f"trial {one.number} failed: {why[0]}"
        case "leg":
            return words_of(one.leg) if one.leg else f"leg {one.number}"
        case "joined":
            return f"process {one.number} began to work"
    return f"process {one.number} stopped working"


def _clock(at: str) -> str:
    """Returns the local time of day of a stored moment."""
    return datetime.fromisoformat(at).astimezone().strftime("%H:%M:%S")


# Small things


def _finite(points: Iterable[Point]) -> list[Point]:
    return [one for one in points if math.isfinite(one[0]) and math.isfinite(one[1])]


def _titled(title: str, content: RenderableType) -> RenderableType:
    return Group(Text(title, "bold"), content)


def _of_epochs(spent: int, budget: int | None) -> str:
    if budget is None:
        return counted(spent, "epoch")
    return f"{spent:,} of {counted(budget, 'epoch')}"


def _of_time(spent: float, budget: float | None) -> str:
    return (
        f"{seconds(spent)} of work" if budget is None else f"{seconds(spent)} of {seconds(budget)}"
    )
