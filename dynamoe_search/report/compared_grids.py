"""The tables of a comparison's page."""

from dynamoe_search.report import cells, words
from dynamoe_search.report.cells import Grid
from dynamoe_search.report.comparing import Comparison
from dynamoe_search.report.reading import value
from dynamoe_search.report.words import label


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
                cells.text(data.name),
                cells.count(len(data.candidates)),
                cells.count(data.epochs),
                cells.time(data.seconds),
                cells.count(len(data.front)),
                cells.amount(upwards, best(gains) if gains else None),
                cells.amount(across, min(costs) if costs else None),
                cells.amount("", compared.hypervolume(data)),
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
    return cells.grid("The studies; hypervolume on the common reference point.", labels, rows)


def fronts(compared: Comparison) -> Grid:
    """Returns the members of all fronts."""
    rows = (
        [
            cells.text(data.name),
            cells.count(record.trial),
            *(cells.measured(record, name) for name in dict.fromkeys(reversed(compared.axes))),
            *cells.design(record),
        ]
        for data in compared.studies
        for record in data.front[: cells.MAX_ROWS]
    )
    shown = [f"#{label(name)}" for name in dict.fromkeys(reversed(compared.axes))]
    return cells.grid("The fronts.", ["study_", "#trial", *shown, *cells.DESIGN], rows)


def budgets(compared: Comparison) -> Grid:
    """Returns what every study had reached after the same numbers of epochs."""
    across, upwards = compared.axes
    rows = (
        [
            cells.count(row["epochs"]),
            cells.text(row["study"]),
            cells.count(row["finished"]),
            cells.amount("", row["hypervolume"]),
            cells.amount(upwards, row["best"]),
            cells.amount(across, row["cost_of_best"]),
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
    return cells.grid("The best after equal numbers of epochs.", labels, rows, note)
