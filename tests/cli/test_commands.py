"""Every command on a real study in a real database: what it prints, what it leaves, what it returns."""

import csv
import io
import json
import os
import sqlite3
from pathlib import Path

import pytest

from dynamoe_search.specs.vocabulary import SHAPES
from tests.cli.conftest import Run
from tests.finished import copy_of

FRONT_KEYS = {
    "trial",
    "accuracy",
    "validation_loss",
    "perplexity",
    "bits_per_byte",
    "activated_params",
    "total_params",
    "experts_per_layer",
    "experts_per_layer_at_start",
    "router",
    "schedule",
    "mean_k_per_layer",
    "reference",
    "objectives",
    "metrics",
    "params",
}
"""Of `front --json`, for images and for text; what reads it counts on them."""


@pytest.fixture
def copied(searched: str, tmp_path: Path) -> str:
    """URL of a copy of the searched database, for tests that change it."""
    return copy_of(searched, tmp_path / "copy")


def test_run_prints_the_front_and_what_to_do_next(
    cli: Run, study_file: Path, storage_url: str
) -> None:
    result = cli("run", study_file, "--trials", 2, "--name", "mine", "--storage", storage_url)
    assert result.exit_code == 0, result.output
    assert "accuracy" in result.stdout
    assert "2 of 2 candidates complete" in result.stdout
    assert f"dynamoe-search front mine --knee --storage {storage_url}" in result.stdout
    assert "mine: 2 trials of 2 epochs on cpu" in result.stderr
    assert "on the front" in result.stderr
    assert "\x1b" not in result.output


def test_quiet_run_says_nothing_on_stderr(cli: Run, study_file: Path, storage_url: str) -> None:
    result = cli("run", study_file, "--trials", 1, "--quiet", "--storage", storage_url)
    assert result.exit_code == 0
    assert result.stderr == ""


def test_list_and_status_as_json(cli: Run, searched: str) -> None:
    (row,) = json.loads(cli("list", "--json", "--storage", searched).stdout)
    assert row["name"] == "tiny"
    assert (row["state"], row["trials"], row["complete"]) == ("finished", 6, 6)
    status = json.loads(cli("status", "tiny", "--json", "--storage", searched).stdout)
    assert row.items() <= status.items()
    assert status["spent"]["epochs"] == 12
    assert status["spec"]["study"]["name"] == "tiny"


def test_status_has_a_word_for_each_of_its_times(cli: Run, searched: str) -> None:
    shown = cli("status", "tiny", "--storage", searched).stdout
    assert shown.count("candidate time") == shown.count("worker time") == 1
    assert shown.count(" time ") == 2
    spent = json.loads(cli("status", "tiny", "--json", "--storage", searched).stdout)
    assert 0 < spent["spent"]["seconds"] < sum(spent["times"].values())


def test_front_in_all_formats_has_the_same_points_as_the_database(cli: Run, searched: str) -> None:
    rows = json.loads(cli("front", "tiny", "--json", "--storage", searched).stdout)
    assert rows
    assert all(row.keys() == FRONT_KEYS for row in rows)
    assert all(row["perplexity"] is None for row in rows)
    with sqlite3.connect(searched.removeprefix("sqlite:///")) as connection:
        stored = {
            number for (number,) in connection.execute("SELECT trial_number FROM dynamoe_front")
        }
    connection.close()
    assert {row["trial"] for row in rows} == stored
    text = cli("front", "tiny", "--csv", "--storage", searched).stdout
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [float(line["accuracy"]) for line in lines] == [row["accuracy"] for row in rows]
    table = cli("front", "tiny", "--storage", searched).stdout
    assert all(row["router"] in table for row in rows)


def test_front_answers_questions(cli: Run, searched: str) -> None:
    everyone = json.loads(cli("front", "tiny", "--json", "--storage", searched).stdout)
    limit = everyone[0]["activated_params"]
    below = cli(
        *("front", "tiny", "--at-most", f"activated_params={limit}"),
        *("--json", "--storage", searched),
    )
    assert json.loads(below.stdout) == everyone[:1]
    none = cli("front", "tiny", "--at-least", "accuracy=200%", "--json", "--storage", searched)
    assert json.loads(none.stdout) == []
    words = cli("front", "tiny", "--at-least", "accuracy=200%", "--storage", searched)
    assert "keeps these bounds" in words.stdout
    (knee,) = json.loads(cli("front", "tiny", "--knee", "--json", "--storage", searched).stdout)
    assert knee in everyone


def test_show_tells_all_of_a_candidate(cli: Run, searched: str) -> None:
    record = json.loads(cli("show", "tiny", 0, "--json", "--storage", searched).stdout)
    assert record["candidate"]["reference"] == "dense"
    assert record["status"] == "complete"
    assert [report["epoch"] for report in record["progress"]] == [1, 2]
    text = cli("show", "tiny", 0, "--storage", searched).stdout
    assert all(word in text for word in ("dense", "activated_params", "mean K", "cohort 0"))


def test_export_gives_the_stored_accuracy_again(cli: Run, searched: str, tmp_path: Path) -> None:
    from dynamoe_search import load_model
    from dynamoe_search.training.export import load_validation

    (first, *_) = json.loads(cli("front", "tiny", "--json", "--storage", searched).stdout)
    out = tmp_path / "model"
    result = cli("export", "tiny", first["trial"], "--out", out, "--storage", searched)
    assert result.exit_code == 0, result.output
    assert "load_model" in result.stdout
    validation = load_validation(out)
    logits, _ = load_model(out)(validation.x)
    accuracy = (logits.argmax(-1) == validation.y).float().mean().item()
    assert accuracy == pytest.approx(first["accuracy"], abs=1e-6)


def test_export_does_not_write_into_a_folder_of_something_else(
    cli: Run, searched: str, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").touch()
    result = cli("export", "tiny", 0, "--out", tmp_path, "--storage", searched)
    assert result.exit_code == 2
    assert "is not empty" in result.stderr
    result = cli("export", "tiny", 0, "--out", tmp_path / "thesis.tex", "--storage", searched)
    assert result.exit_code == 2
    assert "cannot be a folder" in result.stderr


def test_a_training_that_does_not_begin_leaves_no_folder(
    cli: Run, study_file: Path, tmp_path: Path
) -> None:
    result = cli("train", study_file, "--out", tmp_path / "new" / "model")
    assert result.exit_code == 2  # values in the file are not fixed
    assert not (tmp_path / "new").exists()


def test_resume_goes_further_and_a_finished_study_stays(cli: Run, copied: str) -> None:
    again = cli("resume", "tiny", "--storage", copied)
    assert again.exit_code == 0, again.output
    result = cli("resume", "tiny", "--trials", 8, "--storage", copied)
    assert result.exit_code == 0, result.output
    assert "8 of 8 candidates complete" in result.stdout
    (row,) = json.loads(cli("list", "--json", "--storage", copied).stdout)
    assert (row["trials"], row["complete"]) == (8, 8)


def test_budget_ends_a_run_and_resume_is_offered(
    cli: Run, study_file: Path, storage_url: str
) -> None:
    result = cli("run", study_file, "--epochs", 4, "--threads", 1, "--storage", storage_url)
    assert result.exit_code == 0, result.output
    assert "the budget of epochs is used up" in result.stdout
    assert "dynamoe-search resume tiny --epochs 8 " in result.stdout
    status = json.loads(cli("status", "tiny", "--json", "--storage", storage_url).stdout)
    assert status["settings"]["num_threads"] == 1
    again = cli("resume", "tiny", "--storage", storage_url)
    assert "the budget of epochs is used up" in again.stdout
    assert "dynamoe-search resume tiny --epochs 8 " in again.stdout
    (row,) = json.loads(cli("list", "--json", "--storage", storage_url).stdout)
    assert row["complete"] == 2


def test_delete_asks_and_deletes_everything(cli: Run, copied: str) -> None:
    refused = cli("delete", "tiny", "--storage", copied, input="n\n")
    assert refused.exit_code == 1
    nobody = cli("delete", "tiny", "--storage", copied, input="")
    assert nobody.exit_code == 1
    assert len(json.loads(cli("list", "--json", "--storage", copied).stdout)) == 1
    assert cli("delete", "tiny", "--storage", copied, input="y\n").exit_code == 0
    assert json.loads(cli("list", "--json", "--storage", copied).stdout) == []
    with sqlite3.connect(copied.removeprefix("sqlite:///")) as connection:
        assert connection.execute("SELECT count(*) FROM trials").fetchone() == (0,)
    connection.close()


def test_gc_removes_what_belongs_to_no_study(cli: Run, copied: str) -> None:
    files = Path(copied.removeprefix("sqlite:///") + ".files")
    (models,) = files.glob("*/models")
    (models / "0.partial").write_bytes(b"half")
    orphan = files / "forgotten"
    orphan.mkdir()
    (orphan / "weights").write_bytes(b"x" * 100)
    before = {path for path in models.iterdir() if path.suffix != ".partial"}
    planned = json.loads(cli("gc", "--dry-run", "--json", "--storage", copied).stdout)
    assert {Path(item["name"]) for item in planned} == {orphan, models / "0.partial"}
    assert orphan.exists()
    assert cli("gc", "--storage", copied).exit_code == 0
    assert not orphan.exists()
    assert set(models.iterdir()) == before
    assert "nothing to remove" in cli("gc", "--storage", copied).stdout


def test_gc_frees_cached_texts(
    cli: Run, copied: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    old, new = (tmp_path / "cache/dynamoe-search/tokens" / (name * 32) for name in "ab")
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "train.npy").write_bytes(b"x" * 2**20)
        (folder / "manifest.json").write_text(json.dumps({"source": "letters\x1b"}))
    for path in old.iterdir():
        os.utime(path, (1, 1))
    planned = json.loads(cli("gc", "--dry-run", "--json", "--storage", copied).stdout)
    assert [(one["kind"], one["name"], one["removed"]) for one in planned] == [
        ("cache", str(old), False)
    ]
    shown = cli("gc", "--dry-run", "--cache-size", "0", "--storage", copied).stdout
    assert f"cache {new} (tokens, letters\\x1b, unread for " in shown
    assert "2 things would be removed, 2 MiB" in shown
    assert "cached texts that stay: 1, 1 MiB" in cli("gc", "--storage", copied).stdout
    assert (old.exists(), new.exists()) == (False, True)
    assert "1 thing removed" in cli("gc", "--cache-days", "0", "--storage", copied).stdout
    assert not new.exists()
    wrong = cli("gc", "--cache-days", "-1", "--storage", copied)
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)


def test_stop_of_a_study_that_does_not_run(cli: Run, searched: str) -> None:
    result = cli("stop", "tiny", "--storage", searched)
    assert result.exit_code == 0
    assert "is not running" in result.stdout


def test_list_before_the_first_study(cli: Run) -> None:
    result = cli("list", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == []
    assert "start with: dynamoe-search run digits" in cli("list").stdout


def test_check_estimates(cli: Run, study_file: Path) -> None:
    found = json.loads(cli("check", study_file, "--no-measure", "--json").stdout)
    assert found["ok"]
    assert (found["trials"], found["cohorts"], found["epochs"]) == (6, 2, 12)
    assert found["memory_bytes"] > 0
    assert found["disk_bytes"] > 0
    result = cli("check", study_file)
    assert result.exit_code == 0, result.output
    assert "nothing wrong" in result.stdout
    assert "training steps" in result.stdout


def test_train_writes_one_model(cli: Run, study_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    result = cli(
        *("train", study_file, "--out", out, "--json", "--set", "schedule.shape=uniform"),
        *("--set", "schedule.max_experts=2", "--set", "router.kind=top-k", "--set", "router.k=1"),
        *("--set", "train.learning_rate=0.01", "--threads", 1),
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["outcome"]["metrics"]["accuracy"] > 0
    assert "epoch 2/2" in result.stderr
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors",
        "config.json",
        "README.md",
    }


def test_presets_are_listed_and_printed(cli: Run) -> None:
    names = {row["name"] for row in json.loads(cli("presets", "--json").stdout)}
    assert {"digits", "fashion-mnist", "routers"} <= names
    text = cli("presets", "digits").stdout
    assert text == (Path(__file__).parents[2] / "studies" / "digits.toml").read_text()
    assert "digits" in cli("presets").stdout


def test_schema_is_json(cli: Run) -> None:
    assert json.loads(cli("schema").stdout) == json.loads(cli("schema", "--json").stdout)


def test_schedules_draws_every_shape(cli: Run) -> None:
    result = cli("schedules", "--layers", 8)
    assert result.exit_code == 0
    assert all(shape in result.stdout for shape in SHAPES)
    rows = json.loads(
        cli("schedules", "--layers", 5, "--match", "total", "--total", 20, "--json").stdout
    )
    assert {row["shape"] for row in rows} == set(SHAPES)
    assert all(sum(row["experts_per_layer"]) == row["total_experts"] == 20 for row in rows)


def test_doctor_names_versions_devices_and_data(cli: Run, storage_url: str) -> None:
    result = cli("doctor", "--json", "--storage", storage_url)
    assert result.exit_code == 0, result.output
    found = {item["name"]: item for item in json.loads(result.stdout)}
    assert {"python", "torch", "optuna", "cpu", "data digits", "database"} <= found.keys()
    assert all(item["ok"] for item in found.values() if item["required"])
    broken = cli("doctor", "--storage", "nonsense")
    assert broken.exit_code == 1
    assert "not a database URL" in broken.stdout


def test_no_command_shows_help(cli: Run) -> None:
    result = cli()
    assert result.exit_code == 0
    assert "run" in result.stdout
