"""Tables agree with the database and can be read back from every format."""

import csv
import io
import json
import math
import re
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest

from dynamoe_search.report import columns
from dynamoe_search.report.exports import FORMATS, MAX_PRINTED_ROWS
from dynamoe_search.report.reading import StudyData
from dynamoe_search.report.tables import Table, study_tables
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from tests.report.studies import HOSTILE, in_memory


def tables_of(data: StudyData) -> dict[str, Table]:
    return {table.kind.name: table for table in study_tables(data)}


def test_tables_agree_with_the_store(store: Store, data: StudyData) -> None:
    tables = tables_of(data)
    trials = {row["trial"]: row for row in tables["trials"].rows}
    for record in store.candidates("tiny"):
        row = trials[record.trial]
        assert row["status"] == record.status
        assert row["router"] == record.candidate.router.kind
        assert row["experts_per_layer"] == list(record.experts_per_layer)
        assert json.loads(row["params_json"]) == record.params
        if record.outcome is not None:
            assert row["epochs"] == record.outcome.epochs
            assert row["accuracy"] == record.outcome.metrics.get("accuracy")
    front = [member.trial for member in store.front("tiny")]
    assert [row["trial"] for row in tables["front"].rows] == front
    assert [trial for trial, row in trials.items() if row["is_on_front"]] == sorted(front)
    assert len(tables["progress"].rows) == len(store.progress("tiny"))
    assert [row["trial"] for row in tables["failures"].rows] == [6]
    assert len(tables["layers"].rows) == 2 * 5
    assert len(tables["hypervolume"].rows) == 7


@pytest.mark.parametrize("kind", columns.OF_A_STUDY, ids=lambda kind: kind.name)
class TestFormats:
    def test_csv(self, data: StudyData, kind: columns.TableKind) -> None:
        table = tables_of(data)[kind.name]
        lines = list(csv.DictReader(io.StringIO(FORMATS["csv"](table).decode(), newline="")))
        assert len(lines) == len(table.rows)
        for line, row in zip(lines, table.rows, strict=True):
            for column in kind.columns:
                assert line[column.name] == in_csv(row[column.name])

    def test_json(self, data: StudyData, kind: columns.TableKind) -> None:
        table = tables_of(data)[kind.name]
        assert json.loads(FORMATS["json"](table)) == [dict(row) for row in table.rows]

    def test_parquet(self, data: StudyData, kind: columns.TableKind) -> None:
        table = tables_of(data)[kind.name]
        read = pq.read_table(io.BytesIO(FORMATS["parquet"](table)))
        assert read.to_pylist() == [dict(row) for row in table.rows]
        assert read.schema.field(kind.columns[-1].name).metadata[b"about"]

    def test_markdown(self, data: StudyData, kind: columns.TableKind) -> None:
        table = tables_of(data)[kind.name]
        lines = FORMATS["md"](table).decode().splitlines()
        assert len(lines) == 2 + len(table.rows)
        shown = sum(column.is_printed for column in kind.columns)
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {shown + 1}

    def test_latex(self, data: StudyData, kind: columns.TableKind) -> None:
        text = FORMATS["tex"](tables_of(data)[kind.name]).decode()
        body = [line for line in text.splitlines() if line.endswith(r"\\")]
        shown = sum(column.is_printed for column in kind.columns)
        assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {shown - 1}
        assert text.count(r"\begin{") == text.count(r"\end{") == 1
        without_commands = re.sub(r"^%.*$", "", text, flags=re.M)
        assert not re.search(r"(?<!\\)[#_%$]", without_commands)

    def test_columns_are_documented(self, data: StudyData, kind: columns.TableKind) -> None:
        names = [column.name for column in kind.columns]
        assert len(set(names)) == len(names)
        assert all(column.about for column in kind.columns)
        assert any(column.is_printed for column in kind.columns)


def in_csv(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)


def test_messages_survive(data: StudyData) -> None:
    table = tables_of(data)["failures"]
    (line,) = csv.DictReader(io.StringIO(FORMATS["csv"](table).decode(), newline=""))
    assert line["message"] == f"loss is nan\n{HOSTILE}"


def test_long_tables_are_cut_for_reading_only(tiny_spec: Callable[..., StudySpec]) -> None:
    table = tables_of(in_memory(tiny_spec(), MAX_PRINTED_ROWS + 7))["trials"]
    assert "7 more rows are in trials.csv" in FORMATS["md"](table).decode()
    latex = FORMATS["tex"](table).decode()
    assert "longtable" in latex
    assert "7 more rows" in latex
    assert len(json.loads(FORMATS["json"](table))) == MAX_PRINTED_ROWS + 7


def test_what_is_no_number_is_unknown(data: StudyData) -> None:
    rows = tables_of(data)["progress"].rows
    assert all(row["train_loss"] is None for row in rows)  # reported as NaN
    for table in tables_of(data).values():
        for row in table.rows:
            numbers = [value for value in row.values() if isinstance(value, float)]
            assert all(map(math.isfinite, numbers))
