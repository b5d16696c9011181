"""Logs of TensorBoard and MLflow: read back by their own libraries; they neither change nor end a search."""

import logging
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.entities import Run as StoredRun
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dynamoe_search.cli import logs
from dynamoe_search.cli.log_runs import Run, Sink, measures_of, settings_of
from dynamoe_search.cli.logs import Writer
from dynamoe_search.records import CandidateRecord, Progress
from dynamoe_search.search.events import EpochFinished, LegStarted
from dynamoe_search.store import Store
from tests.cli.conftest import Run as RunCli
from tests.cli.processes import ended, start, wait_for_line
from tests.store.builders import candidate, report

ROOT = Path(__file__).parents[2]
PRUNED = ("--set", "search.pruner.kind=pareto", "--set", "train.epochs=3")
MEASURES = ("accuracy", "validation_loss", "train_loss", "activated_params", "mean_k/layer_1")


def boards(folder: Path) -> dict[int, EventAccumulator]:
    """Returns the event files of every trial; each tag and step stands in them as often as it was written."""
    (study,) = folder.iterdir()
    assert re.fullmatch(r"tiny-\d{14}", study.name)
    found = {}
    for path in study.iterdir():
        # Orphaned data would be what a restart wrote again: TensorBoard may hide them, we may not write them.
        found[int(path.name)] = EventAccumulator(str(path), purge_orphaned_data=False).Reload()
    return found


def steps(board: EventAccumulator, tag: str) -> list[int]:
    return [one.step for one in board.Scalars(tag)]


def text(board: EventAccumulator, name: str) -> str:
    (one,) = board.Tensors(f"{name}/text_summary")
    return str(one.tensor_proto.string_val[0].decode())


def runs(uri: str) -> dict[int, StoredRun]:
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    by_trial = {int(one.data.tags["dynamoe_search.trial"]): one for one in found}
    assert len(by_trial) == len(found)  # no run stands there twice
    return by_trial


def check(storage: str, folder: Path, uri: str) -> None:
    """Both logs say of every candidate what the database says, once."""
    with Store.open(storage) as store:
        records = store.candidates("tiny")
        progress = {one.trial: store.progress("tiny", one.trial) for one in records}
        created_at = store.study("tiny").created_at
    client = MlflowClient(tracking_uri=uri)
    found, stored = boards(folder), runs(uri)
    assert found.keys() == stored.keys() == {one.trial for one in records}
    for one in records:
        board, run, reports = found[one.trial], stored[one.trial], progress[one.trial]
        epochs = [each.epoch for each in reports]
        for tag in MEASURES:
            assert sorted(steps(board, tag)) == epochs, (one.trial, tag)
            history = client.get_metric_history(run.info.run_id, tag)
            assert sorted(each.step for each in history) == epochs
        accuracies = {each.epoch: each.accuracy for each in reports}
        assert {each.step: each.value for each in board.Scalars("accuracy")} == pytest.approx(
            accuracies
        )
        history = client.get_metric_history(run.info.run_id, "accuracy")
        assert {each.step: each.value for each in history} == accuracies
        assert run.info.run_name == f"tiny/{one.trial}"
        assert run.data.tags["dynamoe_search.created_at"] == created_at
        check_end(one, board, run)


def check_end(record: CandidateRecord, board: EventAccumulator, run: StoredRun) -> None:
    assert record.outcome is not None
    status = {"complete": ("complete", "FINISHED"), "stopped": ("pruned", "KILLED")}[record.status]
    tags = run.data.tags
    assert (tags["dynamoe_search.status"], run.info.status) == status
    assert text(board, "status") == status[0]
    for name, value in record.outcome.metrics.items():
        assert run.data.metrics[f"final/{name}"] == value
        assert board.Scalars(f"final/{name}")[0].value == pytest.approx(value)
    assert run.data.params["router.kind"] == record.candidate.router.kind
    assert (
        b"router.kind" in board.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    )
    assert tags["dynamoe_search.study_file"].endswith("study.toml")
    assert "study.toml" in text(board, "study_file")
    if record.values:
        assert record.weights is not None  # kept as long as it is on the front
        kept_as = f"{record.trial}-{record.weights[:16]}.safetensors"
        assert tags["dynamoe_search.weights"].endswith(kept_as)
        assert tags["dynamoe_search.weights"] in text(board, "weights")


@pytest.mark.slow
def test_interrupted_and_resumed(
    cli: RunCli, study_file: Path, storage_url: str, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    board = tmp_path / "board"
    both = ("--log", f"tensorboard={board}", "--log", f"mlflow={uri}", "--storage", storage_url)
    first = cli("run", study_file, *PRUNED, "--epochs", 7, "--device", "cpu", *both)
    assert first.exit_code == 0, first.output
    assert any(one.info.status == "RUNNING" for one in runs(uri).values())
    last = cli("resume", "tiny", "--epochs", 60, *both)
    assert last.exit_code == 0, last.output
    check(storage_url, board, uri)
    again = cli("resume", "tiny", *both)  # nothing is left to do, and nothing is written again
    assert again.exit_code == 0, again.output
    check(storage_url, board, uri)


@pytest.mark.slow
def test_killed_and_resumed_with_a_log_that_saw_half_of_it(
    cli: RunCli, study_file: Path, storage_url: str, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    board = tmp_path / "board"
    one = ("--log", f"tensorboard={board}", "--storage", storage_url)
    with ended(start("run", study_file, *PRUNED, "--device", "cpu", *one)) as process:
        wait_for_line(process, "leg 2")
        process.send_signal(signal.SIGKILL)
    result = cli("resume", "tiny", *one, "--log", f"mlflow={uri}")
    assert result.exit_code == 0, result.output
    check(storage_url, board, uri)


@pytest.mark.slow
def test_several_workers_under_one_command(
    study_file: Path, storage_url: str, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    board = tmp_path / "board"
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "cli.py", "run", study_file, *PRUNED, "--device", "cpu"),
            *("--workers", "2", "--log", f"tensorboard={board}", "--log", f"mlflow={uri}"),
            *("--storage", storage_url),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check(storage_url, board, uri)


def test_a_search_is_the_same_with_a_log(
    cli: RunCli, searched: str, study_file: Path, storage_url: str, tmp_path: Path
) -> None:
    result = cli(
        *("run", study_file, "--storage", storage_url, "--device", "cpu", "--quiet"),
        *("--log", f"tensorboard={tmp_path / 'board'}"),
    )
    assert result.exit_code == 0, result.output
    with Store.open(searched) as plain, Store.open(storage_url) as logged:
        without, with_log = plain.candidates("tiny"), logged.candidates("tiny")
    assert [one.values for one in without] == [one.values for one in with_log]
    assert [one.params for one in without] == [one.params for one in with_log]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_logs_that_cannot_be_written_are_told_once_and_the_search_goes_on(
    cli: RunCli, study_file: Path, storage_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = f"mlflow=http://user:secret@127.0.0.1:{free_port()}"
    result = cli(
        *("run", study_file, "--storage", storage_url, "--trials", 2, "--device", "cpu"),
        *("--log", f"tensorboard={study_file}", "--log", nobody),
    )
    assert result.exit_code == 0, result.output
    told = [one.getMessage() for one in caplog.records if one.name == logs.__name__]
    assert len(told) == 2
    assert all("is off from now on, the search goes on" in one for one in told)
    assert "secret" not in "".join(told)
    with Store.open(storage_url) as store:
        assert store.study("tiny").num_complete == 2


class FullDisk:
    """A log whose disk is full after some reports."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.written: list[int] = []

    def is_finished(self, run: Run) -> bool:
        return False

    def write_epochs(self, run: Run, reports: Sequence[Progress]) -> None:
        for one in reports:
            if len(self.written) == self.room:
                raise OSError(28, "No space left on device")
            self.written.append(one.epoch)

    def finish(self, run: Run, record: CandidateRecord, links: Mapping[str, str]) -> None: ...

    def rest(self, run: Run) -> None: ...


@pytest.fixture
def store(searched: str) -> Iterator[Store]:
    with Store.open(searched) as opened:
        yield opened


def feed(writer: Writer, epochs: int) -> None:
    from tests.cli.test_parts import leg_of

    writer(LegStarted(leg=leg_of(3), candidates=(candidate(3),)))
    for epoch in range(epochs):
        writer(EpochFinished(reports=(report(3, epoch + 1),)))


def test_a_disk_that_fills_up_is_told_once(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    sink = FullDisk(room=2)
    writer = Writer(store, "tiny", "tensorboard", "runs", lambda *_: sink)
    feed(writer, 5)
    writer.close()
    assert sink.written == [1, 2]
    (told,) = [one.getMessage() for one in caplog.records if one.name == logs.__name__]
    assert "tensorboard=runs is off" in told
    assert "No space left" in told


def test_a_log_that_hangs_does_not_hold_the_search(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging(FullDisk):
        def write_epochs(self, run: Run, reports: Sequence[Progress]) -> None:
            time.sleep(5)

    monkeypatch.setattr(logs, "CLOSE_SECONDS", 0.2)
    sink: Sink = Hanging(room=0)
    writer = Writer(store, "tiny", "mlflow", "x", lambda *_: sink)
    start = time.monotonic()
    feed(writer, 5)
    writer.close()
    assert time.monotonic() - start < 3
    assert caplog.records[-1].levelno == logging.WARNING
    assert "did not answer in time" in caplog.text


def test_a_slow_log_is_waited_for_as_long_as_it_gets_on(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(FullDisk):
        def write_epochs(self, run: Run, reports: Sequence[Progress]) -> None:
            time.sleep(0.2)
            super().write_epochs(run, reports)

    monkeypatch.setattr(logs, "CLOSE_SECONDS", 1.0)
    sink = Slow(room=10**6)
    writer = Writer(store, "tiny", "mlflow", "x", lambda *_: sink)
    writer.catch_up()
    writer.close()
    assert len(sink.written) == store.spent("tiny").epochs > 5
    assert "did not answer" not in caplog.text


def test_a_log_that_is_given_up_is_written_no_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Waiting(FullDisk):
        def write_epochs(self, run: Run, reports: Sequence[Progress]) -> None:
            super().write_epochs(run, reports)
            go_on.wait(30)

    go_on = threading.Event()
    monkeypatch.setattr(logs, "CLOSE_SECONDS", 0.2)
    sink = Waiting(room=10**6)
    writer = Writer(store, "tiny", "mlflow", "x", lambda *_: sink)
    writer.catch_up()
    writer.close()
    go_on.set()
    writer._thread.join(10)
    assert not writer._thread.is_alive()
    assert len(sink.written) == 1


def test_catching_up_writes_what_the_database_has(store: Store) -> None:
    sink = FullDisk(room=10**6)
    writer = Writer(store, "tiny", "tensorboard", "x", lambda *_: sink)
    writer.catch_up()
    writer.close()
    assert len(sink.written) == store.spent("tiny").epochs


def test_settings_have_dotted_names_and_plain_values() -> None:
    one = replace(candidate(3), reference="dense")
    found = settings_of(one)
    assert (found["router.k"], found["schedule.shape"], found["reference"]) == (
        2,
        "descending",
        "dense",
    )
    assert found["experts_per_layer"] == "8 4"
    assert all(isinstance(value, str | int | float | bool) for value in found.values())


@pytest.mark.parametrize("wrong", ["tensorboard", "wandb=x", "mlflow=", "=x"])
def test_wrong_logs_are_told_before_anything_runs(
    wrong: str, cli: RunCli, study_file: Path, storage_url: str
) -> None:
    result = cli("run", study_file, "--storage", storage_url, "--log", wrong)
    assert result.exit_code == 2
    assert "must be tensorboard=DIR or mlflow=URI" in result.stderr
    assert not Path(storage_url.removeprefix("sqlite:///")).exists()


def test_password_of_a_wrong_log_is_not_told(cli: RunCli, study_file: Path) -> None:
    result = cli("run", study_file, "--log", "http://user:secret@host:5000")
    assert result.exit_code == 2
    assert "http://user:***@host" in result.stderr
    assert "secret" not in result.output


def test_without_the_extra_one_sentence_says_how_to_get_it(
    cli: RunCli, study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    result = cli("run", study_file, "--log", "mlflow=sqlite:///x.db")
    assert result.exit_code == 2
    assert "pip install 'dynamoe-search[loggers]'" in result.stderr


def test_epochs_of_a_text_have_its_perplexity() -> None:
    one = replace(report(0, 1, 0.25), validation_loss=2.0)
    told = measures_of(one, is_text=True)
    assert told.pop("perplexity") == pytest.approx(math.exp(2.0))
    assert told == measures_of(one)
