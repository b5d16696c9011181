"""The tables of the page: what people read and what their columns sort by."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dynamoe_search.records import CandidateRecord
from dynamoe_search.report import series, words
from dynamoe_search.report.comparing import Comparison
from dynamoe_search.report.findings import beside_references, difference
from dynamoe_search.report.reading import StudyData, epochs_of, seconds_of, value
from dynamoe_search.report.words import NONE, label, number

MAX_ROWS = 1000
"""Rows of the table of all candidates; a page with more of them gets slow on a phone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """Text, what it sorts by (itself if None), and text to unfold."""

    text: str
    sort: str | None = None
    more: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Heading:
    """A column's name, and how its cells are set: `num`, `tight`, `wide` or nothing."""

    label: str
    style: str = ""

    @property
    def heading_style(self) -> str:
        """How the heading is set: over numbers to the right, and on several lines if it is long."""
        is_long = "long" if len(self.label) > 24 else ""
        return f"{'num' if self.style == 'num' else ''} {is_long}".strip()


@dataclass(frozen=True, kw_only=True, slots=True)
class GridRow:
    """Cells of a row; a strong one is marked."""

    cells: tuple[Cell, ...]
    is_strong: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A sortable table of the page; nothing is shown of one without rows."""

    caption: str
    columns: tuple[Heading, ...]
    rows: tuple[GridRow, ...]
    note: str = ""


def _headings(*labels: str) -> tuple[Heading, ...]:
    """`#accuracy` holds numbers, `experts_` stays on one line, `message+` needs room."""
    styles = {"_": "tight", "+": "wide"}
    return tuple(
        Heading(label=text[1:], style="num")
        if text.startswith("#")
        else Heading(label=text.rstrip("_+"), style=styles.get(text[-1], ""))
        for text in labels
    )


def _grid(
    caption: str, labels: Iterable[str], rows: Iterable[Sequence[Cell]], note: str = ""
) -> Grid:
    content = tuple(GridRow(cells=tuple(row)) for row in rows)
    return Grid(caption=caption, columns=_headings(*labels), rows=content, note=note)


def _text(value_: Any) -> Cell:
    return Cell(text=NONE, sort="") if value_ in (None, "") else Cell(text=str(value_))


def _count(value_: float) -> Cell:
    return Cell(text=words.count(value_), sort=_sorting(value_))


def _sorting(value_: float | None) -> str:
    return "" if value_ is None or math.isnan(value_) else repr(float(value_))


def _measured(record: CandidateRecord, name: str) -> Cell:
    found = value(record, name)
    return Cell(text=number(name, found), sort=_sorting(found))


def _of(name: str, found: float | None) -> Cell:
    return Cell(text=number(name, found), sort=_sorting(found))


def _fixed(found: float) -> Cell:
    """A number to two decimals, which makes a column of small numbers easy to compare."""
    return Cell(text=NONE if math.isnan(found) else f"{found:.2f}", sort=_sorting(found))


def _time(spent: float) -> Cell:
    return Cell(text=words.seconds(spent), sort=_sorting(spent))


def _design_cells(record: CandidateRecord) -> list[Cell]:
    return [
        _text(words.whole(record.experts_per_layer)),
        _text(words.numbers(words.mean_k(record))),
        _text(words.router(record)),
        _text(record.candidate.schedule.shape),
        _count(record.candidate.model.d_model),
    ]


_DESIGN = ("experts per layer_", "mean K_", "router_", "schedule_", "#width")


def front(data: StudyData) -> Grid:
    """Returns the members of the front, the cheapest first."""
    shown = list(dict.fromkeys([*reversed(data.axes), *data.objectives]))
    rows = (
        [
            _count(record.trial),
            *(_measured(record, name) for name in shown),
            *_design_cells(record),
            _text(", ".join(_marks(data, record))),
        ]
        for record in data.front
    )
    labels = ["#trial", *(f"#{label(name)}" for name in shown), *_DESIGN, "mark_"]
    return _grid("The front; a heading sorts by its column.", labels, rows)


def _marks(data: StudyData, record: CandidateRecord) -> list[str]:
    marks = ["knee"] if record is data.knee and len(data.front) > 2 else []
    if record.candidate.reference:
        marks.append(f"reference {record.candidate.reference}")
    return marks


def references(data: StudyData) -> Grid:
    """Returns the reference designs against searched members of the front."""
    across, upwards = data.axes
    rows = []
    for row in beside_references(data):
        gain, cost = value(row.reference, upwards), value(row.reference, across)
        rows.append(
            [
                _text(row.reference.candidate.reference),
                _measured(row.reference, upwards),
                _measured(row.reference, across),
                _text("yes" if row.is_on_front else "no"),
                _change(row.for_its_cost, upwards, gain),
                _change(row.for_its_gain, across, cost),
            ]
        )
    labels = (
        "reference design_",
        f"#{label(upwards)}",
        f"#{label(across)}",
        "on the front",
        f"best {label(upwards)} of the front at no more {label(across)}_",
        f"{label(across)} of the front at no worse {label(upwards)}_",
    )
    return _grid("Reference designs against the searched members of the front.", labels, rows)


def _change(record: CandidateRecord | None, name: str, theirs: float) -> Cell:
    if record is None:
        return Cell(text="none", sort="")
    ours = value(record, name)
    text = f"{number(name, ours)} ({difference(name, ours, theirs)}), trial {record.trial}"
    return Cell(text=text, sort=_sorting(ours))


def pruned(data: StudyData) -> Grid:
    """Returns who was pruned or paused, where and why."""
    members = [*data.with_status("stopped"), *data.with_status("paused")]
    rows = (
        [
            _count(record.trial),
            _text(words.STATUS[record.status]),
            _count(epochs_of(record, data.progress.get(record.trial, ()))),
            _text(series.why(data, record)),
            _text(words.router(record)),
            _text(words.whole(record.experts_per_layer)),
        ]
        for record in members[:MAX_ROWS]
    )
    labels = ("#trial", "status", "#epochs", "why+", "router_", "experts per layer_")
    caption = "Who did not go on, where and why."
    return _grid(caption, labels, rows, _cut(len(members), "tables/trials.csv"))


def layers(data: StudyData) -> Grid:
    """Returns how the layers of the front's members were routed."""
    rows = (
        [
            _count(record.trial),
            _count(layer.layer + 1),
            _count(layer.num_experts),
            _fixed(layer.mean_k),
            _fixed(layer.std_k),
            _fixed(layer.load_cv),
            _of("accuracy", layer.max_share),
        ]
        for record in series.with_routing(data)
        for layer in (record.outcome.routing if record.outcome else ())
    )
    labels = ("#trial", "#layer", "#experts", "#mean K", "#std of K", "#load CV", "#busiest expert")
    caption = "Routing of the front and the reference designs, layer by layer."
    note = (
        "Load CV is the coefficient of variation of the load over the open experts, 0 if it is even; "
        "the busiest expert's share is of all calls of the layer's experts."
    )
    return _grid(caption, labels, rows, note)


def importance(data: StudyData) -> Grid:
    """Returns importances by parameter, a column for each objective and method."""
    found = {(one.objective, one.method, one.parameter): one for one in data.importances}
    names = list(dict.fromkeys(one.parameter for one in data.importances))
    pairs = [(name, method) for method in ("fanova", "ped-anova") for name in data.objectives]
    rows = []
    for parameter in names:
        ones = [found.get((name, method, parameter)) for name, method in pairs]
        candidates = max((one.candidates for one in ones if one is not None), default=0)
        cells = (_of("accuracy", one.importance if one else None) for one in ones)
        rows.append([_text(parameter), *cells, _count(candidates)])
    methods = {"fanova": "fANOVA", "ped-anova": "PED-ANOVA"}
    columns = [f"#{label(name)}, {methods[method]}" for name, method in pairs]
    labels = ["parameter_", *columns, "#candidates"]
    return _grid("Importance of the searched parameters.", labels, rows)


def times(data: StudyData) -> Grid:
    """Returns candidate time by model."""
    rows = (
        [
            _text(row.model),
            _count(row.candidates),
            _count(row.epochs),
            _time(row.total),
            Cell(text=words.seconds(row.total / row.epochs), sort=_sorting(row.total / row.epochs))
            if row.epochs
            else Cell(text=NONE, sort=""),
        ]
        for row in series.times(data)
    )
    labels = ("model_", "#candidates", "#epochs", "#candidate time", "#time per epoch")
    return _grid("Candidate time by model.", labels, rows)


def failures(data: StudyData) -> Grid:
    """Returns the failed candidates with their reasons."""
    members = data.with_status("failed")
    rows = (
        [
            _count(record.trial),
            _text(record.reason),
            _message(record.message),
            _text(words.router(record)),
            _text(words.whole(record.experts_per_layer)),
        ]
        for record in members[:MAX_ROWS]
    )
    labels = ("#trial", "reason_", "message+", "router_", "experts per layer_")
    return _grid("Failed candidates.", labels, rows, _cut(len(members), "tables/failures.csv"))


def _message(text: str | None) -> Cell:
    lines = (text or "").strip().splitlines()
    if not lines:
        return Cell(text=NONE, sort="")
    if len(lines) == 1 and len(text or "") < 400:
        return Cell(text=lines[0])
    return Cell(text=lines[-1][:300], more=(text or "")[-4000:])


def trials(data: StudyData) -> Grid:
    """Returns all candidates, the front first."""
    shown = list(dict.fromkeys([*reversed(data.axes), *data.objectives]))
    ordered = sorted(data.candidates, key=lambda one: one.trial not in data.front_trials)
    rows = []
    for record in ordered[:MAX_ROWS]:
        reports = data.progress.get(record.trial, ())
        status = words.STATUS[record.status]
        is_member = record.trial in data.front_trials
        cells = [
            _count(record.trial),
            _text("front" if is_member else status if record.feasible else "breaks a constraint"),
            *(_measured(record, name) for name in shown),
            *_design_cells(record),
            _count(epochs_of(record, reports)),
            _time(seconds_of(record, reports)),
            _text(record.candidate.reference),
        ]
        rows.append(GridRow(cells=tuple(cells), is_strong=is_member))
    labels = [
        "#trial",
        "status_",
        *(f"#{label(name)}" for name in shown),
        *_DESIGN,
        "#epochs",
        "#time",
        "reference_",
    ]
    return Grid(
        caption="All candidates; a heading sorts by its column.",
        columns=_headings(*labels),
        rows=tuple(rows),
        note=_cut(len(ordered), "tables/trials.csv"),
    )


def _cut(rows: int, file: str) -> str:
    return f"The first {MAX_ROWS:,} of {rows:,} rows; all are in {file}." if rows > MAX_ROWS else ""


def summary(compared: Comparison) -> Grid:
    """Returns one row per study of a comparison."""
    across, upwards = compared.axes
    rows = []
    for data in compared.studies:
        gains = [value(one, upwards) for one in data.front]
        costs = [value(one, across) for one in data.front]
        best = max if words.is_maximised(upwards) else min
        rows.append(
            [
                _text(data.name),
                _count(len(data.candidates)),
                _count(data.epochs),
                _time(data.seconds),
                _count(len(data.front)),
                _of(upwards, best(gains) if gains else None),
                _of(across, min(costs) if costs else None),
                _of("", compared.hypervolume(data)),
            ]
        )
    labels = (
        "study_",
        "#candidates",
        "#epochs",
        "#candidate time",
        "#front",
        f"#best {label(upwards)}",
        f"#lowest {label(across)}",
        "#hypervolume",
    )
    return _grid("The studies; hypervolume on the common reference point.", labels, rows)


def fronts(compared: Comparison) -> Grid:
    """Returns the members of all fronts."""
    rows = (
        [
            _text(data.name),
            _count(record.trial),
            *(_measured(record, name) for name in dict.fromkeys(reversed(compared.axes))),
            *_design_cells(record),
        ]
        for data in compared.studies
        for record in data.front[:MAX_ROWS]
    )
    shown = [f"#{label(name)}" for name in dict.fromkeys(reversed(compared.axes))]
    return _grid("The fronts.", ["study_", "#trial", *shown, *_DESIGN], rows)


def budgets(compared: Comparison) -> Grid:
    """Returns what every study had reached after the same numbers of epochs."""
    across, upwards = compared.axes
    rows = (
        [
            _count(row["epochs"]),
            _text(row["study"]),
            _count(row["finished"]),
            _of("", row["hypervolume"]),
            _of(upwards, row["best"]),
            _of(across, row["cost_of_best"]),
        ]
        for row in compared.budgets()
    )
    labels = (
        "#epochs",
        "study_",
        "#finished candidates",
        "#hypervolume",
        f"#best {label(upwards)}",
        f"#its {label(across)}",
    )
    note = "A candidate counts from the moment at which its outcome was stored."
    return _grid("The best after equal numbers of epochs.", labels, rows, note)
