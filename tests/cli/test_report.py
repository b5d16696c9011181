"""The command report."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run


def test_report_of_a_searched_study(cli: Run, searched: str, tmp_path: Path) -> None:
    out = tmp_path / "report"
    result = cli("report", "tiny", "--storage", searched, "--out", out)
    assert result.exit_code == 0, result.output
    assert str(out / "index.html") in result.stdout.replace("\n", "")
    front = json.loads(cli("front", "tiny", "--storage", searched, "--json").stdout)
    rows = json.loads((out / "tables" / "front.json").read_text())
    for key in ("trial", "accuracy", "activated_params", "experts_per_layer", "mean_k_per_layer"):
        assert [row[key] for row in rows] == [member[key] for member in front]


def test_json_and_the_usual_folder(
    cli: Run, searched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("report", "tiny", "--storage", searched, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["page"] == "tiny-report/index.html"
    assert all((tmp_path / "tiny-report" / name).is_file() for name in said["files"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tiny", "other"], "add --compare"),
        (["--compare", "tiny"], "two or more different studies"),
        (["--compare", "tiny", "tiny"], "two or more different studies"),
        (["tinny"], "did you mean 'tiny'?"),
        (["tiny", "--out", "{file}"], "cannot be a folder"),
        (["tiny", "--out", "{full}"], "is not empty and holds no report"),
    ],
    ids=" ".join,
)
def test_wrong_usage(
    cli: Run, searched: str, tmp_path: Path, arguments: list[str], said: str
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    filled = [one.format(file=full / "mine.txt", full=full) for one in arguments]
    result = cli("report", "--storage", searched, "--out", tmp_path / "new", *filled)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_without_the_extra_one_sentence_says_how_to_get_it(searched: str, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['plotly'] = sys.modules['matplotlib'] = None  # as if they were not installed\n"
        "from dynamoe_search.cli.app import main\n"
        f"sys.argv = ['dynamoe-search', 'report', 'tiny', '--storage', {searched!r}]\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        "error: a report needs plotly, matplotlib, which this environment lacks; "
        "install them with: pip install 'dynamoe-search[report]'\n"
    )
    assert list(tmp_path.iterdir()) == []
