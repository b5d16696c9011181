"""The command audit: what it prints, what it refuses, and that calling it again only prints."""

import json

import pytest

from dynamoe_search.auditing import CLAIMS
from dynamoe_search.search.audits import AuditRequest, prepare_audit
from dynamoe_search.store import Store
from tests.cli.conftest import Run
from tests.finished import copy_of

SMALL = ("--seeds", 2, "--epochs", 4, "--claims", "settling,schedule")


@pytest.fixture(scope="module")
def audited(searched: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a copy of the searched database, for audits."""
    return copy_of(searched, tmp_path_factory.mktemp("audited") / "copy")


def test_an_audit_prints_a_line_per_question_and_says_how_it_was_judged(
    cli: Run, audited: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = cli("audit", "tiny", *SMALL, "--storage", audited)
    assert result.exit_code == 0, result.output
    assert "candidate-epochs at most" in result.stderr
    for words in (
        "equal total",
        "top-any, adaptive",
        "arXiv:2603.01697",
        "Rule: holds:",
        "2 seeds",
    ):
        assert words in result.stdout, words
    assert "\x1b" not in result.output

    with Store.open(audited) as store:
        legs = len(store.legs("tiny.audit"))
    again = cli("audit", "tiny", *SMALL, "--storage", audited, "--json", "--quiet")
    assert again.exit_code == 0
    assert again.stderr == ""
    content = json.loads(again.stdout)
    assert content.keys() == {
        "study", "studies", "seeds", "epochs", "margin", "failed", "rule", "claims", "findings",
    }  # fmt: skip
    assert [one["key"] for one in content["claims"]] == ["schedule", "settling"]
    assert content["studies"] == ["tiny.audit"]
    lines = {(one["claim"], one["subject"]): one for one in content["findings"]}
    assert lines["settling", "top-any, adaptive"]["n"] == 2
    with Store.open(audited) as store:
        assert len(store.legs("tiny.audit")) == legs

    monkeypatch.setenv("COLUMNS", "80")
    narrow = cli("audit", "tiny", *SMALL, "--storage", audited, "--quiet")
    assert "schedule, equal total:" in narrow.stdout
    assert max(len(line) for line in narrow.stdout.splitlines()) <= 80


def test_what_cannot_be_judged_is_told_before_anything_is_trained(cli: Run, searched: str) -> None:
    for claims in ("settling", "schedule,settling"):
        done = cli("audit", "tiny", "--claims", claims, "--epochs", 1, "--storage", searched)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "settling cannot be judged after 1 epoch:" in done.stderr
        assert "--epochs 4 is enough" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    with Store.open(searched) as store:
        assert [one.name for one in store.studies()] == ["tiny"]
        planned = prepare_audit(store, "tiny", AuditRequest(epochs=1))
    assert planned.plan.adaptive is None  # nobody insisted on it, so the others are asked
    assert "top-any, adaptive" not in {one.name for one in planned.plan.designs}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tiny", "--claims", "speed"), f"unknown claim 'speed'; use {', '.join(CLAIMS)}"),
        (("tiny", "--seeds", 1), "--seeds must be a whole number from 2 to 1,000, got '1'"),
        (("tiny", "--epochs", 0), "--epochs must be a whole number of at least 1"),
        (("tiny", "--epochs", 10**20), "--epochs must be at most 1,000,000,000"),
        (("tiny", "--seeds", 10**6), "--seeds must be a whole number from 2 to 1,000"),
        (("tiny", "--claims", ","), "--claims must name claims such as schedule,variation"),
        (("tiny", "--margin", "-1"), "--margin must be a number from 0.001 to 100"),
        (("tiny", "--margin", "nan"), "--margin must be"),
        (("nobody",), "nobody"),
    ],
)
def test_what_cannot_be_audited_is_told_in_a_sentence(
    cli: Run, searched: str, arguments: tuple[object, ...], words: str
) -> None:
    result = cli("audit", *arguments, "--storage", searched)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
