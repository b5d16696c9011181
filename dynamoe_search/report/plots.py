"""The interactive plots of the page, as plain plotly figures.

Colours that depend on the theme are written as names that begin with `@`; the page puts in the colour of the theme when
it draws.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from dynamoe_search.records import CandidateRecord
from dynamoe_search.report import points, series, words
from dynamoe_search.report.colours import LOOKS, SCALE
from dynamoe_search.report.history import hypervolumes
from dynamoe_search.report.plot_parts import Plot, axis, colour, plain, rounded
from dynamoe_search.report.reading import StudyData
from dynamoe_search.report.words import label, measure
from dynamoe_search.wording import counted


def study_plots(data: StudyData) -> dict[str, Plot]:
    """Returns the plots of a study by name; those that would be empty are left out."""
    found: dict[str, Plot] = {}
    if any(series.dots(data).values()):
        found["front"] = points.front(data)
    if data.ranked:
        found["hypervolume"] = hypervolume([data])
        found |= points.pairs(data)
    if data.progress:
        found["curves"] = curves(data)
    if data.seconds:
        found["time"] = time(data)
    for method in ("fanova", "ped-anova"):
        if any(one.method == method for one in data.importances):
            found[f"importance-{method}"] = importance(data, method)
    return found


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
                    f"{counted(moment.finished, 'candidate')} · {words.seconds(moment.seconds)}"
                    for moment in moments
                ],
                "hovertemplate": "%{y:.4f} after %{x:,} epochs<br>%{text}<extra></extra>",
                "line": {"shape": "hv", "width": 2.5, "color": colour(place)},
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
        y += [*(rounded(value) for value in curve.values), None]
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
        "y": [rounded(curve.values[-1]) for curve in members],
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
                "marker": {"color": colour(place)},
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
    return "" if one is None else counted(one.candidates, "candidate")


def experts(record: CandidateRecord) -> dict[str, Any]:
    """Returns the data of a candidate's heat map and histogram; the page draws the one that is chosen."""
    layers = record.outcome.routing if record.outcome else ()
    return {
        "load": [
            [None if load is None else rounded(load) for load in row]
            for row in series.loads(record)
        ],
        "k": [[rounded(share) for share in row] for row in series.k_shares(record)],
        "mean_k": [rounded(layer.mean_k) for layer in layers],
        "max_share": [rounded(layer.max_share) for layer in layers],
        "scale": SCALE,
    }
