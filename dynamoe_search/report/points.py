"""The plots in which candidates are points: the front, pairs of objectives, the fronts of several studies."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from dynamoe_search.records import CandidateRecord
from dynamoe_search.report import series, words
from dynamoe_search.report.colours import LOOKS, SERIES_SYMBOLS
from dynamoe_search.report.history import stages
from dynamoe_search.report.plot_parts import Plot, axis, colour, plain, rounded
from dynamoe_search.report.reading import StudyData, value
from dynamoe_search.report.words import label, number

CROWD = 500
"""From here on the points of a group are small and faint."""
_STAGE_DASHES = ("dot", "dashdot", "dash", "solid")


def front(data: StudyData) -> Plot:
    """Returns all candidates with the front as it grew."""
    across, upwards = data.axes
    traces: list[Any] = []
    for place, stage in enumerate(found := stages(data)):
        is_last = place == len(found) - 1
        points = stage.corners
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "front at the end" if is_last else f"after {stage.share:.0%}",
                "x": [x for x, _, _ in points],
                "y": [y for _, y, _ in points],
                "line": {
                    "shape": "hv",
                    "color": "@front",
                    "width": 2.5 if is_last else 1.3,
                    "dash": _STAGE_DASHES[place - len(found)],
                },
                "opacity": 1.0 if is_last else 0.6,
                "hoverinfo": "skip",
            }
        )
    by_group = series.dots(data)
    traces += [
        _dots(data, group, by_group[group]) for group in series.GROUP_NAMES if group in by_group
    ]
    layout = {"xaxis": axis(across), "yaxis": axis(upwards), "hovermode": "closest"}
    return {"data": traces, "layout": layout, "height": 480}


def _dots(data: StudyData, group: str, dots: Sequence[series.Dot]) -> dict[str, Any]:
    look = LOOKS[group]
    faint = group in ("complete", "stopped", "paused", "running")
    is_crowd = faint and len(dots) > CROWD
    return {
        "type": "scatter",
        "mode": "markers",
        "name": series.GROUP_NAMES[group],
        "x": [rounded(dot.across) for dot in dots],
        "y": [rounded(dot.upwards) for dot in dots],
        "text": [hover(data, dot) for dot in dots],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "symbol": look.symbol,
            "size": 4 if is_crowd else look.size,
            "color": f"@{group}",
            "opacity": 0.4 if is_crowd else 0.75 if faint else 1.0,
            "line": {"width": 1.5, "color": f"@{group}" if faint else "@ground"},
        },
    }


def hover(data: StudyData, dot: series.Dot) -> str:
    """Returns what a candidate's point says when the pointer is over it."""
    record = dot.record
    across, upwards = data.axes
    shown = (
        {name: value(record, name) for name in dict.fromkeys((upwards, across, *data.objectives))}
        if dot.is_last
        else {upwards: dot.upwards, across: dot.across}
    )
    lines = [
        f"<b>{plain(words.title(record))}</b>",
        *(f"{label(name)} {number(name, found)}" for name, found in shown.items()),
        f"{plain(words.router(record))} · {plain(record.candidate.schedule.shape)}",
        f"experts {words.whole(record.experts_per_layer)}",
    ]
    if k := words.mean_k(record):
        lines.append(f"mean K {words.numbers(k)}")
    if not dot.is_last:
        reports = data.progress[record.trial]
        lines.append(f"{words.STATUS[record.status]}, values after epoch {reports[-1].epoch}")
    if record.status == "complete" and not record.feasible:
        lines.append("breaks a constraint of the study")
    return "<br>".join(lines)


def pairs(data: StudyData) -> dict[str, Plot]:
    """Returns the other pairs of objectives against each other, for studies with more than two."""
    others = [
        (across, upwards)
        for across, upwards in combinations(data.objectives, 2)
        if {across, upwards} != set(data.axes)
    ]
    return {
        f"pair-{place}": _pair(data, across, upwards)
        for place, (across, upwards) in enumerate(others)
    }


def _pair(data: StudyData, across: str, upwards: str) -> Plot:
    if words.is_maximised(across):
        across, upwards = upwards, across
    traces = []
    for group in series.GROUP_NAMES:
        members = [one for one in data.ranked if data.group(one) == group]
        dots = [
            series.Dot(record=one, across=value(one, across), upwards=value(one, upwards))
            for one in members
        ]
        if dots:
            traces.append(_dots(data, group, dots))
    layout = {"xaxis": axis(across), "yaxis": axis(upwards), "hovermode": "closest"}
    return {"data": traces, "layout": layout, "height": 360}


def fronts(studies: Sequence[StudyData], axes: tuple[str, str]) -> Plot:
    """Returns the fronts of several studies in one plot, over all of their candidates in grey."""
    traces: list[Any] = []
    for place, data in enumerate(studies):
        symbol = SERIES_SYMBOLS[place % len(SERIES_SYMBOLS)]
        name = plain(data.name)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": f"{name}: others",
                "legendgroup": str(place),
                "showlegend": False,
                "x": [rounded(value(one, axes[0])) for one in data.ranked],
                "y": [rounded(value(one, axes[1])) for one in data.ranked],
                "opacity": 0.3,
                "marker": {"symbol": f"{symbol}-open", "size": 6, "color": colour(place)},
                "hoverinfo": "skip",
            }
        )
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "legendgroup": str(place),
                "x": [rounded(value(one, axes[0])) for one in data.front],
                "y": [rounded(value(one, axes[1])) for one in data.front],
                "text": [_of_study(data, one, axes) for one in data.front],
                "hovertemplate": "%{text}<extra></extra>",
                "line": {"shape": "hv", "width": 2, "color": colour(place)},
                "marker": {"symbol": symbol, "size": 10, "color": colour(place)},
            }
        )
    layout = {"xaxis": axis(axes[0]), "yaxis": axis(axes[1]), "hovermode": "closest"}
    return {"data": traces, "layout": layout, "height": 480}


def _of_study(data: StudyData, record: CandidateRecord, axes: tuple[str, str]) -> str:
    return "<br>".join(
        [
            f"<b>{plain(data.name)}: {plain(words.title(record))}</b>",
            *(f"{label(name)} {number(name, value(record, name))}" for name in reversed(axes)),
            f"{plain(words.router(record))} · experts {words.whole(record.experts_per_layer)}",
        ]
    )
