"""`dashboard` as a real process: what it shows over HTTP, what it refuses, how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dynamoe_search.cli.app import app
from dynamoe_search.cli.dashboard_notes import trial_note
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from tests.cli.conftest import Run
from tests.report.studies import failed, finished, pruned
from tests.store.builders import SETTINGS

ROOT = Path(__file__).parents[2]
NOTE = "every value is fixed, so `there` is <b>one</b> design"
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture
def storage(storage_url: str, tiny_spec: Callable[..., StudySpec]) -> str:
    """A database with a study of a front, a failure and a pruned candidate."""
    with Store.open(storage_url) as store:
        store.create_study(tiny_spec(), source="tiny.toml", settings=SETTINGS, notes=[NOTE])
        finished(store, "tiny", 0, 0.5, 10.0)
        failed(store, "tiny", 1, "loss is nan\n**<img src=x>**")
        pruned(store, "tiny", 2)
        finished(store, "tiny", 3, 0.4, 20.0)
        store.refresh_front("tiny")
    return storage_url


class Dashboard:
    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), "dashboard", "tiny", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split(" ")[0]
        assert self.url.startswith("http://"), self.process.communicate()

    def ask(self, path: str, method: str = "GET", body: object = None, **headers: str) -> Any:
        address = self.url.partition("/dashboard/")[0] + path
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, data, headers, method=method)
        if data is not None:
            request.add_header("Content-Type", "application/json")
        with OPENER.open(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def study(self) -> Any:
        return self.ask(f"/api/studies/{self.url.rpartition('/')[2]}")

    def end(self, number: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(number)
        _, stderr = self.process.communicate(timeout=60)
        return self.process.returncode, stderr


@pytest.fixture
def dashboard(storage: str) -> Iterator[Dashboard]:
    opened = Dashboard("--port", "0", "--no-browser", "--storage", storage)
    yield opened
    if opened.process.poll() is None:
        opened.process.kill()
    opened.process.communicate()


def wait_for_notes(dashboard: Dashboard, number: int) -> dict[int, str]:
    """Returns the notes on trials as soon as there are so many."""
    for _ in range(100):
        notes = {one["number"]: one["note"]["body"] for one in dashboard.study()["trials"]}
        notes = {trial: body for trial, body in notes.items() if body}
        if len(notes) >= number:
            return notes
    raise AssertionError(notes)


def test_shows_our_names_and_notes(dashboard: Dashboard, storage: str) -> None:
    notes = wait_for_notes(dashboard, 3)
    study = dashboard.study()
    assert study["objective_names"] == ["accuracy", "activated_params"]
    assert [one["values"] for one in study["best_trials"]] == [[0.5, 10.0]]
    assert "- `every value is fixed, so 'there' is <b>one</b> design`" in study["note"]["body"]
    assert "dynamoe-search front tiny" in study["note"]["body"]
    assert sorted(notes) == [0, 1, 2]  # the front, the failure and the pruned
    assert "    **<img src=x>**" in notes[1]  # code, in which Markdown means nothing
    assert "pruned after epoch 2: beaten by 5 of 11 rivals" in notes[2]
    with Store.open(storage) as store:
        assert notes[0] == trial_note("tiny", store.candidate("tiny", 0))


def test_a_note_of_a_person_stays(dashboard: Dashboard, storage: str) -> None:
    wait_for_notes(dashboard, 3)
    path = f"/api/studies/{dashboard.url.rpartition('/')[2]}/note"
    dashboard.ask(path, "PUT", {"body": "mine", "version": 2})
    assert dashboard.end(signal.SIGTERM)[0] == 0
    again = Dashboard("--port", "0", "--no-browser", "--storage", storage)
    assert again.study()["note"]["body"] == "mine"
    assert again.end(signal.SIGINT) == (0, "")


def test_refuses_what_would_change_a_study_or_comes_from_elsewhere(dashboard: Dashboard) -> None:
    number = dashboard.url.rpartition("/")[2]
    trial = dashboard.study()["trials"][0]["trial_id"]
    for path, method, headers in (
        (f"/api/studies/{number}", "DELETE", {}),
        (f"/api/studies/{number}/", "DELETE", {}),
        ("/api/studies", "POST", {}),
        (f"/api/studies/{number}/rename", "POST", {}),
        (f"/api/trials/{trial}/tell", "POST", {}),
        ("/api/studies", "GET", {"Host": "example.org"}),
    ):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            dashboard.ask(path, method, {} if method == "POST" else None, **headers)
    assert dashboard.study()["name"] == "tiny"


def test_listens_to_this_machine_only_and_ends_on_ctrl_c(dashboard: Dashboard) -> None:
    assert dashboard.url.startswith("http://127.0.0.1:")
    port = int(dashboard.url.split(":")[2].partition("/")[0])
    other = socket.socket()
    with other, pytest.raises(OSError, match="refused"):
        other.connect(("127.0.0.2", port))  # it is not bound to all addresses
    assert dashboard.end(signal.SIGINT) == (0, "")


def test_a_taken_port(storage: str, cli: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = cli("dashboard", "tiny", "--port", port, "--no-browser", "--storage", storage)
    assert result.exit_code == 2
    assert f"the dashboard cannot listen on 127.0.0.1:{port}" in result.stderr


def test_the_next_port_if_the_usual_one_is_taken(storage: str) -> None:
    try:
        taken = socket.create_server(("127.0.0.1", 8080))
    except OSError:  # by somebody else, which is as good
        taken = socket.socket()
    with taken:
        opened = Dashboard("--no-browser", "--storage", storage)
        assert ":8080/" not in opened.url
        assert opened.study()["name"] == "tiny"
        assert opened.end(signal.SIGINT) == (0, "")


def test_a_missing_study(storage: str, cli: Run) -> None:
    result = cli("dashboard", "tinny", "--no-browser", "--storage", storage)
    assert result.exit_code == 2
    assert "did you mean 'tiny'" in result.stderr


def test_without_the_extra_one_sentence_says_how_to_get_it(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    result = CliRunner().invoke(app, ["dashboard", "tiny", "--storage", storage])
    assert result.exit_code == 2
    assert "pip install 'dynamoe-search[dashboard]'" in result.stderr


def test_who_lets_others_in_is_told_what_they_can_do(storage: str) -> None:
    opened = Dashboard("--host", "0.0.0.0", "--port", "0", "--no-browser", "--storage", storage)
    code, stderr = opened.end(signal.SIGTERM)
    assert code == 0
    assert "can read all studies of this database and write notes into them" in stderr
