"""What a report shows of a confirmation and an audit: the same as the commands print."""

import json
import math
from typing import Any

import pytest
from typer.testing import CliRunner

from dynamoe_search.auditing import CLAIMS
from dynamoe_search.cli.app import app
from dynamoe_search.report.designed import Audited, finding_of
from dynamoe_search.report.designed_grids import audited
from dynamoe_search.report.designed_rows import audited_rows
from dynamoe_search.report.pages import study_page
from dynamoe_search.report.reading import StudyData, read
from dynamoe_search.report.tables import study_tables
from dynamoe_search.store import Store
from tests.cli.conftest import STUDY
from tests.report.studies import HOSTILE
from tests.report.test_pages import check


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyData, Any, Any]:
    """A study with a confirmation at two scales and an audit, as read for its report and as the commands say it."""
    folder = tmp_path_factory.mktemp("designed")
    file = folder / "study.toml"
    file.write_text(STUDY)
    where = ("--storage", f"sqlite:///{folder / 'studies.db'}")
    call("run", str(file), "--device", "cpu", "--quiet", *where)
    options = ("--seeds", "2", "--quiet", "--json", *where)
    confirmed = call("confirm", "tiny", "--limit", "2", "--scale", "2", *options)
    found = call("audit", "tiny", "--claims", "variation", "--epochs", "1", *options)
    with Store.open(where[1], create=False) as store:
        return read(store, "tiny"), json.loads(confirmed), json.loads(found)


@pytest.mark.slow
def test_confirmation_is_shown(told: tuple[StudyData, Any, Any]) -> None:
    data, said, _ = told
    small, large = data.confirmed
    assert (small.study, large.study) == tuple(said["studies"])
    assert (small.factor, large.factor, large.by) == (1, 2, "width")
    assert large.scaled is not None
    assert large.scaled.kept == said["carrying"]["kept"]
    words = " ".join(check(study_page(data)).words)
    for sentence in said["findings"]:
        assert " ".join(sentence.split()) in " ".join(words.split())
    rows = {table.kind.name: table.rows for table in study_tables(data)}["confirmation"]
    assert len(rows) == 2 * len(said["confirmation"]["designs"])
    for row, design in zip(rows, said["confirmation"]["designs"], strict=False):
        assert row["design"] == design["design"]
        assert row["test"] == pytest.approx(design["test"]["mean"])


@pytest.mark.slow
def test_audit_is_shown(told: tuple[StudyData, Any, Any]) -> None:
    data, _, said = told
    (one,) = data.audited
    assert [line.verdict for line in one.findings] == [line["verdict"] for line in said["findings"]]
    words = " ".join(check(study_page(data)).words)
    assert CLAIMS["variation"].words in words
    assert said["findings"][0]["sentence"] in words


def test_a_study_without_either_has_no_such_sections(data: StudyData) -> None:
    words = check(study_page(data)).words
    assert "Confirmed" not in words
    assert "Claims" not in words


def test_answers_without_numbers_and_with_hostile_words(data: StudyData) -> None:
    line = {
        "claim": "settling",
        "subject": HOSTILE,
        "verdict": "not decided",
        "effect": None,
        "low": None,
        "high": None,
        "n": 0,
        "margin": 0.1,
        "p": None,
        "sentence": HOSTILE,
        "details": {"changes_last": None},
    }
    one = Audited(study=HOSTILE, findings=(finding_of(line),))
    assert math.isnan(one.findings[0].effect)
    (row,) = audited_rows(one)
    assert row["runs"] == 0
    (cells,) = audited(one).rows
    assert "–" in {cell.text for cell in cells.cells}
    shown = StudyData(
        record=data.record, spec=data.spec, candidates=(), progress={}, audited=(one,)
    )
    assert HOSTILE in " ".join(check(study_page(shown)).words)
