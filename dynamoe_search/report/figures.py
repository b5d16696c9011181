"""The pictures of a report as PNG, SVG and PDF, drawn by matplotlib without a screen."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from dynamoe_search.records import CandidateRecord
from dynamoe_search.report import series, words
from dynamoe_search.report.colours import LOOKS, SCALE, SERIES_LIGHT, SERIES_MARKERS
from dynamoe_search.report.history import hypervolumes, stages
from dynamoe_search.report.reading import StudyData, value
from dynamoe_search.report.words import label, measure

SUFFIXES = ("png", "svg", "pdf")
_WIDTH = 7.2  # inches; two columns of a paper
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.dpi": 160,
    "pdf.fonttype": 42,  # text stays text
    "svg.hashsalt": "dynamoe-search",  # the same picture is the same file
    "text.parse_math": False,  # a dollar is a dollar
}
_METADATA = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
_STAGE_DASHES = (":", "-.", "--", "-")


@contextmanager
def style() -> Iterator[None]:
    """Draws with the style of reports inside the `with`."""
    with mpl.rc_context(_STYLE):
        yield


def study_figures(data: StudyData) -> dict[str, Figure]:
    """Returns the pictures of a study by name; those that would be empty are left out. Use inside `style`."""
    found: dict[str, Figure] = {}
    if any(series.dots(data).values()):
        found["front"] = front(data)
    if data.ranked:
        found["hypervolume"] = hypervolume([data])
        if len(data.objectives) > 2:
            found["pairs"] = pairs(data)
    if data.progress:
        found["learning-curves"] = curves(data)
    if data.front:
        found["schedules"] = schedules(data)
    if members := series.with_routing(data):
        found["expert-load"] = loads(data, series.chosen(members))
        found["k-histograms"] = histograms(data, series.chosen(members))
    if data.importances:
        found["importance"] = importance(data)
    if data.seconds:
        found["time"] = time(data)
    return found


def rendered(figure: Figure) -> Iterator[tuple[str, bytes]]:
    """Yields a picture as the bytes of each kind of file. Use inside `style`."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # once is enough: finding the layout takes most of the time
    for suffix in SUFFIXES:
        sink = io.BytesIO()
        figure.savefig(sink, format=suffix, metadata=_METADATA[suffix])
        yield suffix, sink.getvalue()


def _one(height: float = 4.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _label(axes: Axes, across: str, upwards: str) -> None:
    axes.set_xlabel(label(across))
    axes.set_ylabel(label(upwards))
    for axis, name in ((axes.xaxis, across), (axes.yaxis, upwards)):
        if measure(name).unit == "share":
            axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
        elif measure(name).unit == "count":
            axis.set_major_formatter(EngFormatter(sep=""))


def _scatter(axes: Axes, group: str, x: Sequence[float], y: Sequence[float]) -> None:
    look = LOOKS[group]
    is_strong = group in ("front", "reference")
    filled = {"color": look.light} if is_strong or look.marker in "x+" else {}
    hollow = {} if filled else {"facecolors": "none", "edgecolors": look.light}
    axes.scatter(
        x,
        y,
        s=look.size**2 * 0.45,
        marker=look.marker,
        linewidths=1.0,
        label=series.GROUP_NAMES[group],
        alpha=1.0 if is_strong else 0.7,
        zorder=3 if is_strong else 2,
        **filled,  # type: ignore[arg-type]
        **hollow,  # type: ignore[arg-type]
    )


def front(data: StudyData) -> Figure:
    """Returns all candidates with the front as it grew."""
    figure, axes = _one()
    found = stages(data)
    for place, stage in enumerate(found):
        is_last = place == len(found) - 1
        axes.step(
            [x for x, _, _ in stage.corners],
            [y for _, y, _ in stage.corners],
            where="post",
            color=LOOKS["front"].light,
            linestyle=_STAGE_DASHES[place - len(found)],
            linewidth=1.8 if is_last else 0.9,
            alpha=1.0 if is_last else 0.6,
            label="front at the end" if is_last else f"after {stage.share:.0%}",
        )
    by_group = series.dots(data)
    for group in series.GROUP_NAMES:
        if dots := by_group.get(group):
            _scatter(axes, group, [dot.across for dot in dots], [dot.upwards for dot in dots])
    _label(axes, *data.axes)
    axes.set_title(_short(data.name), loc="left")
    _legend(figure)
    return figure


def pairs(data: StudyData) -> Figure:
    """Returns every pair of objectives against each other."""
    names = data.objectives
    size = len(names) - 1
    figure = Figure(figsize=(_WIDTH, 0.85 * _WIDTH), layout="constrained")
    grid = figure.subplots(size, size, squeeze=False)
    for row, upwards in enumerate(names[1:]):
        for column, across in enumerate(names[:-1]):
            axes = grid[row][column]
            if column > row:
                axes.set_axis_off()
                continue
            for group in series.GROUP_NAMES:
                members = [one for one in data.ranked if data.group(one) == group]
                if members:
                    x = [value(one, across) for one in members]
                    _scatter(axes, group, x, [value(one, upwards) for one in members])
            _label(axes, across, upwards)
    _legend(figure, grid[0][0])
    return figure


def hypervolume(
    studies: Sequence[StudyData],
    objectives: Sequence[str] | None = None,
    reference: Sequence[float] | None = None,
) -> Figure:
    """Returns the hypervolume over the epochs that were trained, one line per study."""
    figure, axes = _one(3.2)
    for place, data in enumerate(studies):
        moments = hypervolumes(data, objectives, reference)
        axes.step(
            [moment.epochs for moment in moments],
            [moment.hypervolume for moment in moments],
            where="post",
            color=SERIES_LIGHT[place % len(SERIES_LIGHT)],
            label=_short(data.name),
        )
    axes.set_xlabel("epochs trained, all candidates together")
    axes.set_ylabel("hypervolume")
    if len(studies) > 1:
        axes.legend(loc="lower right")
    return figure


def curves(data: StudyData) -> Figure:
    """Returns validation accuracy or loss by epoch, with a mark where a candidate was pruned or paused."""
    figure, axes = _one()
    drawn, _ = series.curves(data)
    for group in series.GROUP_NAMES:
        look, is_strong = LOOKS[group], group in ("front", "reference")
        for place, curve in enumerate(curve for curve in drawn if curve.group == group):
            axes.plot(
                curve.epochs,
                curve.values,
                color=look.light,
                linestyle="--" if group == "reference" else "-",
                linewidth=1.5 if is_strong else 0.7,
                alpha=1.0 if is_strong else 0.5,
                label=None if place else series.GROUP_NAMES[group],
            )
            if group in ("stopped", "paused", "failed"):
                end = (curve.epochs[-1:], curve.values[-1:])
                axes.plot(*end, look.marker, color=look.light, markersize=5)
    name = series.curve_measure(data)
    _label(axes, "epoch", name)
    axes.set_ylabel(words.curve_label(name))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure)
    return figure


def _grid(members: Sequence[CandidateRecord], height: float) -> tuple[Figure, list[Axes]]:
    """A grid with a small picture for each candidate, at most four abreast."""
    columns = min(4, len(members))
    rows = math.ceil(len(members) / columns)
    figure = Figure(figsize=(_WIDTH, 0.3 + height * rows), layout="constrained")
    cells = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in cells[len(members) :]:
        spare.set_axis_off()
    return figure, cells[: len(members)]


def _name(data: StudyData, record: CandidateRecord) -> str:
    return f"{words.title(record)}\n{series.card_line(data, record)}"


def schedules(data: StudyData) -> Figure:
    """Returns the experts of each layer of the front's members, and how many of them a token used."""
    members = series.chosen(data.front)
    figure, cells = _grid(members, 1.55)
    most = max(max(record.experts_per_layer) for record in members)
    for axes, record in zip(cells, members, strict=True):
        experts = record.experts_per_layer
        layers = range(len(experts))
        axes.bar(layers, experts, color="#C9DDEC", edgecolor=LOOKS["front"].light, label="experts")
        if k := words.mean_k(record):
            axes.bar(layers, k, color=LOOKS["front"].light, width=0.5, label="mean K, measured")
        axes.set_title(_name(data, record), fontsize=7)
        axes.set_ylim(0, 1.05 * most)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        axes.tick_params(labelsize=7)
        axes.grid(visible=False, axis="x")
    cells[0].set_ylabel("experts")
    cells[0].set_xlabel("layer")
    _legend(figure, cells[0])
    return figure


def loads(data: StudyData, members: Sequence[CandidateRecord]) -> Figure:
    """Returns heat maps of the share of tokens that used each expert, with one scale for all."""
    figure, cells = _grid(members, 1.55)
    shares = {record.trial: series.loads(record) for record in members}
    top = max((load or 0 for rows in shares.values() for row in rows for load in row), default=1)
    image = None
    for axes, record in zip(cells, members, strict=True):
        rows = [
            [math.nan if load is None else load for load in row] for row in shares[record.trial]
        ]
        image = axes.imshow(rows, cmap=SCALE.lower(), vmin=0, vmax=top, aspect="auto")
        step = max(1, len(rows[0]) // 8)
        axes.set_xticks(
            range(0, len(rows[0]), step), [str(one) for one in range(0, len(rows[0]), step)]
        )
        axes.set_title(_name(data, record), fontsize=7)
        axes.set_yticks(range(len(rows)), [str(layer) for layer in range(len(rows))])
        axes.tick_params(labelsize=7)
        axes.grid(visible=False)
    cells[0].set_ylabel("layer")
    cells[0].set_xlabel("expert")
    if image is not None:
        figure.colorbar(image, ax=cells, label="share of the tokens", shrink=0.7)
    return figure


def histograms(data: StudyData, members: Sequence[CandidateRecord]) -> Figure:
    """Returns the distribution of experts per token, one colour per layer."""
    figure, cells = _grid(members, 1.6)
    depth = max(len(series.k_shares(record)) for record in members)
    colours = mpl.colormaps[SCALE.lower()].resampled(depth + 1)
    for axes, record in zip(cells, members, strict=True):
        for layer, row in enumerate(series.k_shares(record)):
            left = [k + (layer - (depth - 1) / 2) * 0.85 / depth for k in range(len(row))]
            axes.bar(left, row, width=0.85 / depth, color=colours(layer))
        axes.set_title(_name(data, record), fontsize=7)
        axes.set_ylim(0, 1.05)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=7)
    cells[0].set_xlabel("experts per token, K")
    cells[0].set_ylabel("share of the tokens")
    handles = [
        mpl.lines.Line2D([], [], color=colours(layer), label=f"layer {layer}")
        for layer in range(depth)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, depth), fontsize=7)
    return figure


def importance(data: StudyData) -> Figure:
    """Returns how much each parameter mattered for each objective, by both methods side by side."""
    methods = {"fanova": "all candidates (fANOVA)", "ped-anova": "the best quarter (PED-ANOVA)"}
    figure = Figure(figsize=(_WIDTH, 4.2), layout="constrained")
    grid = figure.subplots(1, 2, squeeze=False)
    for axes, (method, heading) in zip(grid[0], methods.items(), strict=True):
        found = [one for one in data.importances if one.method == method]
        names = sorted({one.parameter for one in found})
        totals = {name: sum(x.importance for x in found if x.parameter == name) for name in names}
        order = sorted(names, key=totals.__getitem__)[-12:]
        width = 0.8 / len(data.objectives)
        for place, objective in enumerate(data.objectives):
            shares = {one.parameter: one.importance for one in found if one.objective == objective}
            axes.barh(
                [row + place * width for row in range(len(order))],
                [shares.get(name, 0.0) for name in order],
                height=width,
                color=SERIES_LIGHT[place],
                label=label(objective),
            )
        axes.set_yticks([row + 0.4 - width / 2 for row in range(len(order))], order, fontsize=7)
        axes.grid(visible=False, axis="y")
        axes.set_title(heading, loc="left")
    grid[0][0].set_xlabel("importance")
    _legend(figure, grid[0][0])
    return figure


def time(data: StudyData) -> Figure:
    """Returns candidate time by model and by what became of the candidates."""
    rows = series.times(data)[:12][::-1]
    figure, axes = _one(1.1 + 0.32 * len(rows))
    left = [0.0] * len(rows)
    for status in ("complete", "stopped", "paused", "running", "failed"):
        spent = [row.seconds.get(status, 0.0) for row in rows]
        if any(spent):
            look = LOOKS["front" if status == "complete" else status]
            name = "complete" if status == "complete" else series.GROUP_NAMES[status]
            axes.barh([row.model for row in rows], spent, left=left, color=look.light, label=name)
            left = [before + more for before, more in zip(left, spent, strict=True)]
    axes.set_xlabel("seconds of training")
    axes.grid(visible=False, axis="y")
    _legend(figure)
    return figure


def fronts(studies: Sequence[StudyData], axes_names: tuple[str, str]) -> Figure:
    """Returns the fronts of several studies in one picture."""
    figure, axes = _one()
    for place, data in enumerate(studies):
        look = {
            "color": SERIES_LIGHT[place % len(SERIES_LIGHT)],
            "marker": SERIES_MARKERS[place % len(SERIES_MARKERS)],
        }
        x = [value(one, axes_names[0]) for one in data.front]
        y = [value(one, axes_names[1]) for one in data.front]
        axes.step(x, y, where="post", label=_short(data.name), markersize=5, **look)  # type: ignore[arg-type]
    _label(axes, *axes_names)
    _legend(figure)
    return figure


def _legend(figure: Figure, axes: Axes | None = None) -> None:
    handles, labels = (axes or figure.axes[0]).get_legend_handles_labels()
    if len(handles) > 1:
        columns = min(4, len(handles))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"
