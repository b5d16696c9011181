"""The tables of a study's page: what people read and what their columns sort by."""

from dynamoe_search.records import CandidateRecord
from dynamoe_search.report import cells, series, words
from dynamoe_search.report.cells import MAX_ROWS, Cell, Grid, GridRow
from dynamoe_search.report.findings import beside_references, difference
from dynamoe_search.report.reading import StudyData, epochs_of, seconds_of, value
from dynamoe_search.report.words import label, number


def front(data: StudyData) -> Grid:
    """Returns the members of the front, the cheapest first."""
    shown = list(dict.fromkeys([*reversed(data.axes), *data.objectives]))
    rows = (
        [
            cells.count(record.trial),
            *(cells.measured(record, name) for name in shown),
            *cells.design(record),
            cells.text(", ".join(_marks(data, record))),
        ]
        for record in data.front
    )
    labels = ["#trial", *(f"#{label(name)}" for name in shown), *cells.DESIGN, "mark_"]
    return cells.grid("The front; a heading sorts by its column.", labels, rows)


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
                cells.text(row.reference.candidate.reference),
                cells.measured(row.reference, upwards),
                cells.measured(row.reference, across),
                cells.text("yes" if row.is_on_front else "no"),
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
    return cells.grid("Reference designs against the searched members of the front.", labels, rows)


def _change(record: CandidateRecord | None, name: str, theirs: float) -> Cell:
    if record is None:
        return Cell(text="none", sort="")
    ours = value(record, name)
    text = f"{number(name, ours)} ({difference(name, ours, theirs)}), trial {record.trial}"
    return cells.number(ours, text)


def pruned(data: StudyData) -> Grid:
    """Returns who was pruned or paused, where and why."""
    members = [*data.with_status("stopped"), *data.with_status("paused")]
    rows = (
        [
            cells.count(record.trial),
            cells.text(words.STATUS[record.status]),
            cells.count(epochs_of(record, data.progress.get(record.trial, ()))),
            cells.text(series.why(data, record)),
            cells.text(words.router(record)),
            cells.text(words.whole(record.experts_per_layer)),
        ]
        for record in members[:MAX_ROWS]
    )
    labels = ("#trial", "status", "#epochs", "why+", "router_", "experts per layer_")
    caption = "Who did not go on, where and why."
    return cells.grid(caption, labels, rows, _cut(len(members), "tables/trials.csv"))


def layers(data: StudyData) -> Grid:
    """Returns how the layers of the front's members were routed."""
    rows = (
        [
            cells.count(record.trial),
            cells.count(layer.layer),
            cells.count(layer.num_experts),
            cells.fixed(layer.mean_k),
            cells.fixed(layer.std_k),
            cells.fixed(layer.load_cv),
            cells.amount("accuracy", layer.max_share),
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
    return cells.grid(caption, labels, rows, note)


def importance(data: StudyData) -> Grid:
    """Returns importances by parameter, a column for each objective and method."""
    found = {(one.objective, one.method, one.parameter): one for one in data.importances}
    names = list(dict.fromkeys(one.parameter for one in data.importances))
    pairs = [(name, method) for method in ("fanova", "ped-anova") for name in data.objectives]
    rows = []
    for parameter in names:
        ones = [found.get((name, method, parameter)) for name, method in pairs]
        candidates = max((one.candidates for one in ones if one is not None), default=0)
        shares = (cells.amount("accuracy", one.importance if one else None) for one in ones)
        rows.append([cells.text(parameter), *shares, cells.count(candidates)])
    methods = {"fanova": "fANOVA", "ped-anova": "PED-ANOVA"}
    columns = [f"#{label(name)}, {methods[method]}" for name, method in pairs]
    labels = ["parameter_", *columns, "#candidates"]
    return cells.grid("Importance of the searched parameters.", labels, rows)


def times(data: StudyData) -> Grid:
    """Returns candidate time by model."""
    rows = (
        [
            cells.text(row.model),
            cells.count(row.candidates),
            cells.count(row.epochs),
            cells.time(row.total),
            cells.time(row.total / row.epochs) if row.epochs else cells.text(None),
        ]
        for row in series.times(data)
    )
    labels = ("model_", "#candidates", "#epochs", "#candidate time", "#time per epoch")
    return cells.grid("Candidate time by model.", labels, rows)


def failures(data: StudyData) -> Grid:
    """Returns the failed candidates with their reasons."""
    members = data.with_status("failed")
    rows = (
        [
            cells.count(record.trial),
            cells.text(record.reason),
            _message(record.message),
            cells.text(words.router(record)),
            cells.text(words.whole(record.experts_per_layer)),
        ]
        for record in members[:MAX_ROWS]
    )
    labels = ("#trial", "reason_", "message+", "router_", "experts per layer_")
    return cells.grid("Failed candidates.", labels, rows, _cut(len(members), "tables/failures.csv"))


def _message(text: str | None) -> Cell:
    lines = (text or "").strip().splitlines()
    if not lines:
        return cells.text(None)
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
        row = [
            cells.count(record.trial),
            cells.text(
                "front" if is_member else status if record.feasible else "breaks a constraint"
            ),
            *(cells.measured(record, name) for name in shown),
            *cells.design(record),
            cells.count(epochs_of(record, reports)),
            cells.time(seconds_of(record, reports)),
            cells.text(record.candidate.reference),
        ]
        rows.append(GridRow(cells=tuple(row), is_strong=is_member))
    labels = [
        "#trial",
        "status_",
        *(f"#{label(name)}" for name in shown),
        *cells.DESIGN,
        "#epochs",
        "#time",
        "reference_",
    ]
    return Grid(
        caption="All candidates; a heading sorts by its column.",
        columns=cells.headings(*labels),
        rows=tuple(rows),
        note=_cut(len(ordered), "tables/trials.csv"),
    )


def _cut(rows: int, file: str) -> str:
    return f"The first {MAX_ROWS:,} of {rows:,} rows; all are in {file}." if rows > MAX_ROWS else ""
