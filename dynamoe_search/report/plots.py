"""The interactive plots of the page, as plain plotly figures.

A figure is a dictionary with `data`, `layout` and `height`. Colours that depend on the theme are written as names that
begin with `@`; the page puts in the colour of the theme when it draws.
"""

import html
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from dynamoe_search.records import CandidateRecord
from dynamoe_search.report import series, words
from dynamoe_search.report.colours import LOOKS, SCALE, SERIES_SYMBOLS
from dynamoe_search.report.history import hypervolumes, stages
from dynamoe_search.report.reading import StudyData, value
from dynamoe_search.report.words import label, measure, number

Plot = dict[str, Any]
CROWD = 500
"""From here on the points of a group are small and faint."""
_STAGE_DASHES = ("dot", "dashdot", "dash", "solid")


def study_plots(data: StudyData) -> dict[str, Plot]:
    """Returns the plots of a study by name; those that would be empty are left out."""
    found: dict[str, Plot] = {}
    if any(series.dots(data).values()):
        found["front"] = front(data)
    if data.ranked:
        found["hypervolume"] = hypervolume([data])
        found |= pairs(data)
    if data.progress:
        found["curves"] = curves(data)
    if data.seconds:
        found["time"] = time(data)
    for method in ("fanova", "ped-anova"):
        if any(one.method == method for one in data.importances):
            found[f"importance-{method}"] = importance(data, method)
    return found


def plain(text: str) -> str:
    """Returns text that plotly shows as it is, without taking it for markup."""
    return html.escape(text)


def axis(name: str) -> dict[str, Any]:
    """Returns the axis of a measure."""
    formats = {"share": ".4~p", "count": "~s", "real": "~r"}
    return {"title": {"text": label(name)}, "tickformat": formats[measure(name).unit]}


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
        "x": [_rounded(dot.across) for dot in dots],
        "y": [_rounded(dot.upwards) for dot in dots],
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


def hypervolume(
    studies: Sequence[StudyData],
    objectives: Sequence[str] | None = None,
    reference: Sequence[float] | None = None,
) -> Plot:
    """Returns the hypervolume over the epochs that were trained, one line per study."""
    traces = []
    for place, data in enumerate(studies):
        moments = hypervolumes(data, objectives, reference)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": plain(data.name),
                "x": [moment.epochs for moment in moments],
                "y": [round(moment.hypervolume, 6) for moment in moments],
                "text": [
                    f"{moment.finished} candidates · {words.seconds(moment.seconds)}"
                    for moment in moments
                ],
                "hovertemplate": "%{y:.4f} after %{x:,} epochs<br>%{text}<extra></extra>",
                "line": {"shape": "hv", "width": 2.5, "color": _series(place)},
                "showlegend": len(studies) > 1,
            }
        )
    layout = {
        "xaxis": {"title": {"text": "epochs trained, all candidates together"}, "tickformat": "~s"},
        "yaxis": {"title": {"text": "hypervolume"}},
    }
    return {"data": traces, "layout": layout, "height": 380}


def curves(data: StudyData) -> Plot:
    """Returns validation accuracy or loss by epoch, with a mark where a candidate was pruned or paused."""
    drawn, _ = series.curves(data)
    name = series.curve_measure(data)
    shown = "%{y:.2%}" if measure(name).unit == "share" else "%{y:.4f}"
    traces: list[Any] = []
    for group in series.GROUP_NAMES:
        if members := [curve for curve in drawn if curve.group == group]:
            traces.append(_lines(group, members, shown))
            if group in ("stopped", "paused", "failed"):
                traces.append(_ends(data, group, members))
    layout = {
        "xaxis": {"title": {"text": "epoch"}, "rangemode": "tozero"},
        "yaxis": {
            **axis(name),
            "title": {"text": words.curve_label(name)},
            "rangemode": "nonnegative",
        },
        "hovermode": "closest",
    }
    return {"data": traces, "layout": layout, "height": 460}


def _lines(group: str, members: Iterable[series.Curve], shown: str) -> dict[str, Any]:
    """All curves of a group as one line with gaps, which draws faster than one line each."""
    x: list[int | None] = []
    y: list[float | None] = []
    trials: list[int | None] = []
    for curve in members:
        x += [*curve.epochs, None]
        y += [*(_rounded(value) for value in curve.values), None]
        trials += [curve.record.trial] * len(curve.epochs) + [None]
    is_strong = group in ("front", "reference")
    return {
        "type": "scatter",
        "mode": "lines+markers" if is_strong else "lines",
        "name": series.GROUP_NAMES[group],
        "legendgroup": group,
        "x": x,
        "y": y,
        "customdata": trials,
        "connectgaps": False,
        "line": {
            "color": f"@{group}",
            "width": 2 if is_strong else 1,
            "dash": "dash" if group == "reference" else "solid",
        },
        "marker": {"symbol": LOOKS[group].symbol, "size": 5},
        "opacity": 1.0 if is_strong else 0.6,
        "hovertemplate": f"trial %{{customdata}}<br>{shown} after epoch %{{x}}<extra></extra>",
    }


def _ends(data: StudyData, group: str, members: Sequence[series.Curve]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{series.GROUP_NAMES[group]} here",
        "legendgroup": group,
        "showlegend": False,
        "x": [curve.epochs[-1] for curve in members],
        "y": [_rounded(curve.values[-1]) for curve in members],
        "text": [
            f"<b>trial {curve.record.trial}</b><br>{plain(series.why(data, curve.record))}"
            for curve in members
        ],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "symbol": LOOKS[group].symbol,
            "size": 8,
            "color": f"@{group}",
            "line": {"width": 1.8, "color": f"@{group}"},
        },
    }


def time(data: StudyData) -> Plot:
    """Returns candidate time by model and by what became of the candidates."""
    rows = series.times(data)[:12][::-1]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": series.GROUP_NAMES[status] if status != "complete" else "complete",
            "y": [plain(row.model) for row in rows],
            "x": [round(row.seconds.get(status, 0.0), 3) for row in rows],
            "marker": {"color": "@front" if status == "complete" else f"@{status}"},
            "hovertemplate": "%{y}: %{x:.3~s} s<extra></extra>",
        }
        for status in ("complete", "stopped", "paused", "running", "failed")
        if any(status in row.seconds for row in rows)
    ]
    layout = {
        "barmode": "stack",
        "xaxis": {"title": {"text": "seconds of training"}},
        "yaxis": {"automargin": True},
    }
    return {"data": traces, "layout": layout, "height": 150 + 34 * len(rows)}


def importance(data: StudyData, method: str) -> Plot:
    """Returns how much each parameter mattered for each objective, by one method."""
    found = [one for one in data.importances if one.method == method]
    totals: dict[str, float] = defaultdict(float)
    for one in found:
        totals[one.parameter] += one.importance
    order = sorted(totals, key=lambda name: totals[name])[-14:]
    traces = []
    for place, objective in enumerate(data.objectives):
        shares = {one.parameter: one for one in found if one.objective == objective}
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": label(objective),
                "y": order,
                "x": [round(shares[one].importance, 4) if one in shares else 0 for one in order],
                "text": [_candidates(shares.get(one)) for one in order],
                "textposition": "none",
                "marker": {"color": _series(place)},
                "hovertemplate": "%{y}: %{x:.1%}<br>%{text}<extra>%{fullData.name}</extra>",
            }
        )
    layout = {
        "barmode": "group",
        "xaxis": {"title": {"text": "importance"}, "tickformat": ".0%", "rangemode": "tozero"},
        "yaxis": {"automargin": True},
    }
    return {"data": traces, "layout": layout, "height": 150 + 34 * len(order)}


def _candidates(one: Any) -> str:
    return "" if one is None else words.plural(one.candidates, "candidate")


def experts(record: CandidateRecord) -> dict[str, Any]:
    """Returns the data of a candidate's heat map and histogram; the page draws the one that is chosen."""
    layers = record.outcome.routing if record.outcome else ()
    return {
        "load": [
            [None if load is None else _rounded(load) for load in row]
            for row in series.loads(record)
        ],
        "k": [[_rounded(share) for share in row] for row in series.k_shares(record)],
        "mean_k": [_rounded(layer.mean_k) for layer in layers],
        "max_share": [_rounded(layer.max_share) for layer in layers],
        "scale": SCALE,
    }


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
                "x": [_rounded(value(one, axes[0])) for one in data.ranked],
                "y": [_rounded(value(one, axes[1])) for one in data.ranked],
                "opacity": 0.3,
                "marker": {"symbol": f"{symbol}-open", "size": 6, "color": _series(place)},
                "hoverinfo": "skip",
            }
        )
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "legendgroup": str(place),
                "x": [_rounded(value(one, axes[0])) for one in data.front],
                "y": [_rounded(value(one, axes[1])) for one in data.front],
                "text": [_of_study(data, one, axes) for one in data.front],
                "hovertemplate": "%{text}<extra></extra>",
                "line": {"shape": "hv", "width": 2, "color": _series(place)},
                "marker": {"symbol": symbol, "size": 10, "color": _series(place)},
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


def _series(place: int) -> str:
    return f"@series{place % len(SERIES_SYMBOLS)}"


def _rounded(number_: float) -> float | None:
    """Six digits are enough for a picture, and keep the page small."""
    return float(f"{number_:.6g}") if math.isfinite(number_) else None
