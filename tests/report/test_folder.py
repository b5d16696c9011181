"""A report touches only what a report wrote."""

import json
import os
from pathlib import Path

import pytest

from dynamoe_search.errors import UsageError
from dynamoe_search.report.folder import MANIFEST, ReportFolder
from dynamoe_search.report.writing import write_comparison, write_report
from dynamoe_search.store import Store


def files_in(path: Path) -> set[str]:
    return {str(one.relative_to(path)) for one in path.rglob("*") if one.is_file()}


def test_everything_is_written_and_listed(store: Store, study: str, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "report"
    files = write_report(store, study, out)
    names = files_in(out)
    assert {str(path.relative_to(out)) for path in files} | {MANIFEST} == names
    assert files[0] == out / "index.html"
    assert {"study.toml", "figures/front.svg", "tables/trials.parquet"} <= names
    assert set(json.loads((out / MANIFEST).read_text())["files"]) == names - {MANIFEST}


def test_a_second_report_replaces_the_first(store: Store, study: str, tmp_path: Path) -> None:
    out = tmp_path / "report"
    write_report(store, study, out)
    (out / "notes.txt").write_text("mine")
    (out / "figures" / "front.png").write_bytes(b"old")
    manifest = json.loads((out / MANIFEST).read_text())
    manifest["files"] += ["figures/gone.png", "../outside.csv", "notes.txt"]
    (out / MANIFEST).write_text(json.dumps(manifest))
    (out / "figures" / "gone.png").write_bytes(b"old")
    (tmp_path / "outside.csv").write_text("mine")
    write_report(store, study, out)
    assert (out / "figures" / "front.png").read_bytes() != b"old"
    assert not (out / "figures" / "gone.png").exists()
    assert (out / "notes.txt").read_text() == "mine"
    assert (tmp_path / "outside.csv").read_text() == "mine"


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="is not empty and holds no report; name a new folder"):
        ReportFolder(tmp_path)
    assert files_in(tmp_path) == {"thesis.tex"}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"made_by": "another program", "files": []}'])
def test_a_foreign_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(UsageError, match="holds no report"):
        ReportFolder(tmp_path)


def test_a_foreign_file_in_the_way_is_refused(tmp_path: Path) -> None:
    ReportFolder(tmp_path).write([("index.html", b"1")], ["a"])
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "front.csv").write_text("mine")
    with pytest.raises(UsageError, match="no report wrote it"):
        ReportFolder(tmp_path).write([("index.html", b"2"), ("tables/front.csv", b"2")], ["a"])
    assert (tmp_path / "index.html").read_bytes() == b"1"
    assert (tmp_path / "tables" / "front.csv").read_text() == "mine"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_text("mine")
    with pytest.raises(UsageError, match="cannot be a folder"):
        ReportFolder(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_locked_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(UsageError, match="cannot be written"):
        ReportFolder(tmp_path)


def test_a_missing_study_leaves_no_folder(store: Store, study: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no study 'nothing'"):
        write_report(store, "nothing", tmp_path / "report")
    with pytest.raises(UsageError, match="two or more different studies"):
        write_comparison(store, [study, study], tmp_path / "report")
    assert not (tmp_path / "report").exists()
