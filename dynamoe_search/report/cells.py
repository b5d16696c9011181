"""What the tables of the page are made of: cells with what they sort by, headings, rows."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dynamoe_search.records import CandidateRecord
from dynamoe_search.report import words
from dynamoe_search.report.reading import value
from dynamoe_search.report.words import NONE

MAX_ROWS = 1000
"""Rows of a table; a page with more of them gets slow on a phone."""
DESIGN = ("experts per layer_", "mean K_", "router_", "schedule_", "#width")
"""The labels over the cells of `design`."""


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


def grid(
    caption: str, labels: Iterable[str], rows: Iterable[Sequence[Cell]], note: str = ""
) -> Grid:
    """Returns a table whose labels say how its columns are set, see `headings`."""
    content = tuple(GridRow(cells=tuple(row)) for row in rows)
    return Grid(caption=caption, columns=headings(*labels), rows=content, note=note)


def headings(*labels: str) -> tuple[Heading, ...]:
    """Returns headings by labels: `#accuracy` holds numbers, `experts_` stays on one line, `message+` needs room."""
    styles = {"_": "tight", "+": "wide"}
    return tuple(
        Heading(label=text[1:], style="num")
        if text.startswith("#")
        else Heading(label=text.rstrip("_+"), style=styles.get(text[-1], ""))
        for text in labels
    )


def text(content: Any) -> Cell:
    """Returns a cell of words."""
    return Cell(text=NONE, sort="") if content in (None, "") else Cell(text=str(content))


def number(found: float | None, shown: str) -> Cell:
    """Returns a cell that shows a number in words and sorts by the number."""
    return Cell(text=shown, sort="" if found is None or math.isnan(found) else repr(float(found)))


def count(found: float) -> Cell:
    """Returns a cell of something that is counted."""
    return number(found, words.count(found))


def amount(name: str, found: float | None) -> Cell:
    """Returns a cell of an amount of a measure."""
    return number(found, words.number(name, found))


def measured(record: CandidateRecord, name: str) -> Cell:
    """Returns a cell of what a candidate reaches in a measure."""
    return amount(name, value(record, name))


def fixed(found: float) -> Cell:
    """Returns a number to two decimals, which makes a column of small numbers easy to compare."""
    return number(found, NONE if math.isnan(found) else f"{found:.2f}")


def time(seconds: float) -> Cell:
    """Returns a cell of a time."""
    return number(seconds, words.seconds(seconds))


def design(record: CandidateRecord) -> list[Cell]:
    """Returns the cells of a candidate's design, in the order of `DESIGN`."""
    return [
        text(words.whole(record.experts_per_layer)),
        text(words.numbers(words.mean_k(record))),
        text(words.router(record)),
        text(record.candidate.schedule.shape),
        count(record.candidate.model.d_model),
    ]
