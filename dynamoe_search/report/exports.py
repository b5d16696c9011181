"""Tables as files: CSV, JSON, Parquet, Markdown and LaTeX.

CSV, JSON and Parquet hold everything; Markdown and LaTeX are for reading and hold the columns that fit on a page,
and at most `MAX_PRINTED_ROWS` rows. Lists are arrays in JSON and Parquet and stand with spaces between elsewhere.
"""

import csv
import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import to_json

from dynamoe_search.report.columns import Column, Kind
from dynamoe_search.report.tables import Table

MAX_PRINTED_ROWS = 1000
_LONG = 40  # rows that a LaTeX table may have on one page

_ARROW: dict[Kind, pa.DataType] = {
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "text": pa.string(),
    "ints": pa.list_(pa.int64()),
    "floats": pa.list_(pa.float64()),
}
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "%": r"\%",
        "_": r"\_",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "–": "--",
        "…": r"\ldots{}",
        "×": r"$\times$",
    }
)


def to_csv(table: Table) -> bytes:
    """Returns a table as CSV (RFC 4180, UTF-8) with a line of column names."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(column.name for column in table.columns)
    for row in table.rows:
        writer.writerow(_flat(row[column.name]) for column in table.columns)
    return text.getvalue().encode()


def to_json_rows(table: Table) -> bytes:
    """Returns a table as a JSON array of one object per row; what is unknown is null."""
    return to_json(list(table.rows), indent=1) + b"\n"


def to_parquet(table: Table) -> bytes:
    """Returns a table as Parquet, with the meaning of every column in the schema."""
    schema = pa.schema(
        [
            pa.field(column.name, _ARROW[column.kind], metadata={"about": column.about})
            for column in table.columns
        ]
    )
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(table.rows), schema=schema), sink)
    return sink.getvalue()


def to_markdown(table: Table) -> bytes:
    """Returns the printed columns of a table as a Markdown pipe table."""
    shown = _printed(table)
    lines = [
        "| " + " | ".join(column.name for column in shown) + " |",
        "|" + "|".join("---:" if _is_number(column) else "---" for column in shown) + "|",
    ]
    for row in table.rows[:MAX_PRINTED_ROWS]:
        cells = (_words(row[column.name]) for column in shown)
        lines.append("| " + " | ".join(_on_one_line(cell) for cell in cells) + " |")
    if more := _left_out(table):
        lines += ["", more]
    return ("\n".join(lines) + "\n").encode()


def to_latex(table: Table) -> bytes:
    """Returns the printed columns of a table as LaTeX for `booktabs`, and `longtable` if it is long."""
    shown = _printed(table)
    is_long = len(table.rows) > _LONG
    environment = "longtable" if is_long else "tabular"
    alignment = "".join("r" if _is_number(column) else "l" for column in shown)
    heading = " & ".join(_latex(column.name.replace("_", " ")) for column in shown) + r" \\"
    packages = r"\usepackage{booktabs,longtable}" if is_long else r"\usepackage{booktabs}"
    lines = [
        f"% {table.kind.about}",
        f"% Needs {packages} and \\usepackage[T1]{{fontenc}} in the preamble.",
        rf"\begin{{{environment}}}{{{alignment}}}",
        r"\toprule",
        heading,
        r"\midrule",
        *([r"\endhead"] if is_long else []),
    ]
    for row in table.rows[:MAX_PRINTED_ROWS]:
        cells = (_latex(_words(row[column.name])) for column in shown)
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", rf"\end{{{environment}}}"]
    if more := _left_out(table):
        lines.append(f"% {more}")
    return ("\n".join(lines) + "\n").encode()


FORMATS: dict[str, Callable[[Table], bytes]] = {
    "csv": to_csv,
    "json": to_json_rows,
    "parquet": to_parquet,
    "md": to_markdown,
    "tex": to_latex,
}
"""How a table becomes the bytes of a file, by the file's suffix."""


def _printed(table: Table) -> list[Column]:
    return [column for column in table.columns if column.is_printed]


def _is_number(column: Column) -> bool:
    return column.kind in ("int", "float")


def _flat(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _words(value: Any) -> str:
    """Returns a value for readers: four digits, `yes` or nothing, lists with spaces."""
    match value:
        case None | False:
            return ""
        case True:
            return "yes"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
        case list():
            return " ".join(_words(item) if item else "0" for item in value)
        case _:
            return str(value)


def _on_one_line(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())


def _latex(text: str) -> str:
    """Returns text for LaTeX; letters that its standard fonts lack become question marks."""
    known = "".join(
        letter if ord(letter) < 0x100 or ord(letter) in _LATEX else "?" for letter in text
    )
    return " ".join(known.translate(_LATEX).split())


def _left_out(table: Table) -> str:
    rest = len(table.rows) - MAX_PRINTED_ROWS
    return f"{rest:,} more rows are in {table.kind.name}.csv." if rest > 0 else ""
