"""Writes reports: the page, the pictures, the tables and the study file into one folder."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from dynamoe_search.report import columns, figures
from dynamoe_search.report.comparing import Comparison, compare
from dynamoe_search.report.exports import FORMATS
from dynamoe_search.report.folder import ReportFolder
from dynamoe_search.report.pages import comparison_page, study_page
from dynamoe_search.report.provenance import study_file
from dynamoe_search.report.reading import read
from dynamoe_search.report.tables import Table, front_rows, hypervolume_rows, study_tables, table
from dynamoe_search.store import Store


def write_report(store: Store, name: str, out: Path) -> list[Path]:
    """Writes the report of a study and returns the files, the page first.

    Args:
        store: The open database; it is only read.
        name: The study.
        out: The folder; made if it is missing. Files in it that no report wrote are left alone.

    Raises:
        UsageError: There is no such study, or the folder cannot be used.
    """
    data = read(store, name)
    folder = ReportFolder(out)
    file, text = study_file(data)
    files = {"index.html": study_page(data).encode(), file: text.encode()}
    with figures.style():
        files |= _pictures(figures.study_figures(data))
    files |= _files(study_tables(data))
    return folder.write(files.items(), [name])


def write_comparison(store: Store, names: Sequence[str], out: Path) -> list[Path]:
    """Writes the report of studies side by side and returns the files, the page first.

    Args:
        store: The open database; it is only read.
        names: Two studies or more.
        out: The folder; made if it is missing. Files in it that no report wrote are left alone.

    Raises:
        UsageError: A study is missing, they have nothing in common, or the folder cannot be used.
    """
    compared = compare([read(store, name) for name in names])
    folder = ReportFolder(out)
    files = {"index.html": comparison_page(compared).encode()}
    with figures.style():
        files |= _pictures(_comparison_figures(compared))
    files |= _files(_comparison_tables(compared))
    return folder.write(files.items(), names)


def _comparison_figures(compared: Comparison) -> dict[str, Figure]:
    if not any(one.ranked for one in compared.studies):
        return {}
    return {
        "fronts": figures.fronts(compared.studies, compared.axes),
        "hypervolume": figures.hypervolume(
            compared.studies, compared.objectives, compared.reference
        ),
    }


def _comparison_tables(compared: Comparison) -> Iterator[Table]:
    studies = compared.studies
    yield table(columns.FRONT, (row for one in studies for row in front_rows(one)))
    rows = (
        row
        for one in studies
        for row in hypervolume_rows(one, compared.objectives, compared.reference)
    )
    yield table(columns.HYPERVOLUME, rows)
    yield table(columns.BUDGETS, compared.budgets())


def _pictures(drawn: Mapping[str, Figure]) -> dict[str, bytes]:
    return {
        f"figures/{name}.{suffix}": content
        for name, figure in drawn.items()
        for suffix, content in figures.rendered(figure)
    }


def _files(tables: Sequence[Table] | Iterator[Table]) -> dict[str, bytes]:
    return {
        f"tables/{one.kind.name}.{suffix}": write(one)
        for one in tables
        for suffix, write in FORMATS.items()
    }
