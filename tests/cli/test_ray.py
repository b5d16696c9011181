"""Workers on a Ray cluster of two nodes: placed, replaced, ended, and no password where Ray keeps things."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynamoe_search.store import Store
from tests.cli.conftest import Run
from tests.ray_cluster import ray_nodes

ROOT = Path(__file__).parents[2]
PASSWORD = "s3cretive"
VALIDATE = """
import json, sys
from ray.autoscaler._private.util import prepare_config, validate_config
validate_config(prepare_config(json.loads(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_nodes(1, 1) as nodes:
        yield nodes


def wait(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def at_work(url: str, number: int) -> set[int]:
    """Waits until so many workers are alive and something is in training; returns their processes."""
    found: set[int] = set()

    def are_there() -> bool:
        found.clear()
        with Store.open(url) as store:
            if store.studies():
                found.update(one.pid for one in store.workers("tiny") if one.is_alive)
                return len(found) == number and bool(store.legs("tiny"))
        return False

    wait(are_there)
    return found


def living_actors(cluster: Any) -> list[str]:
    table = cluster.global_state.actor_table(None, None, None)
    return [one["State"] for one in table.values() if one["State"] != "DEAD"]


@pytest.mark.slow
def test_workers_and_nodes_are_replaced_and_ctrl_c_leaves_nothing(
    study_file: Path,
    postgres_store_url: str,
    cluster: Any,
    command: Callable[..., "subprocess.Popen[str]"],
) -> None:
    url = postgres_store_url.replace("postgres:@", f"postgres:{PASSWORD}@")
    ray = ("--storage", url, "--engine", "ray", "--ray-address", cluster.address, "--workers", "2")
    process = command("run", study_file, *ray, "--trials", "500")
    first = at_work(url, 2)
    os.kill(min(first), signal.SIGKILL)
    time.sleep(1)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    cluster.add_node(num_cpus=1, include_dashboard=False)
    wait(lambda: not first & at_work(url, 2))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    news = [line for line in said.splitlines() if re.match(r"worker \d on node", line)]
    assert any(line.endswith("was killed (signal 9); another takes its place") for line in news)
    assert any("was lost with its node or its Ray process; another" in line for line in news)
    ours = re.compile(
        r"tiny: 500 trials of 2 epochs on cpu$|waiting for the Ray cluster at |waiting for the database |"
        r"\d+/500 trials|stopping after|stopped; go on with: dynamoe-search resume|"
        r"\d workers? waits? for room: each takes 1 CPU|$"  # on a machine that has much to do
    )
    assert not [line for line in said.splitlines() if line not in news and not ours.match(line)]
    wait(lambda: not living_actors(cluster), 10)
    with Store.open(url) as store:
        assert not any(one.is_alive for one in store.workers("tiny"))
        assert store.study("tiny").state == "interrupted"
        trials = len(store.standings("tiny")) + 2
    check_no_password(cluster)
    process = command("resume", "tiny", *ray, "--trials", trials)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    check_all_done(url, trials)


def check_all_done(url: str, trials: int) -> None:
    """No trial is lost, none is trained twice, and Optuna knows them all."""
    with Store.open(url) as store:
        assert {one.status for one in store.standings("tiny")} == {"complete"}
        members = Counter(trial for leg in store.legs("tiny") for trial in leg.trials)
        assert members == dict.fromkeys(range(trials), 1)
        assert {leg.state for leg in store.legs("tiny")} == {"done"}
        assert store.zombies("tiny") == []
        reports = Counter((one.ordinal, one.epoch) for one in store.progress("tiny"))
        assert set(reports.values()) == {1}
        assert len(reports) == 2 * trials


def check_no_password(cluster: Any) -> None:
    """Ray's files, its table of jobs and the command lines of its processes do not hold the password."""
    assert PASSWORD not in str(cluster.global_state.job_table())
    folder = Path(cluster.head_node.get_session_dir_path())
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]


@pytest.mark.slow
def test_sentence_of_a_worker_names_its_node(
    study_file: Path, postgres_store_url: str, cluster: Any, cli: Run
) -> None:
    node = cluster.add_node(num_cpus=1, num_gpus=1, include_dashboard=False)
    try:
        options = ("--storage", postgres_store_url, "--engine", "ray", "--device", "cuda")
        address = ("--ray-address", cluster.address, "--gpus-per-worker", "1", "--quiet")
        result = cli("run", study_file, *options, *address)
    finally:
        cluster.remove_node(node)
    assert result.exit_code == 2
    assert (
        f"worker 1 on node {platform.node()} ended with status 2: device 'cuda:0'" in result.stderr
    )


@pytest.mark.slow
def test_sqlite_is_refused_on_two_nodes(
    study_file: Path, storage_url: str, cluster: Any, cli: Run
) -> None:
    options = ("--storage", storage_url, "--engine", "ray", "--ray-address", cluster.address)
    result = cli("run", study_file, *options, "--workers", "2")
    assert result.exit_code == 2
    assert "2 nodes, which cannot share a SQLite file" in result.stderr
    with Store.open(storage_url) as store:
        assert store.studies() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--engine", "ray", "--ray-address", "127.0.0.1:1"), "nobody answers at the Ray address"),
        (("--engine", "ray", "--ray-address", "here"), "write HOST:PORT"),
        (("--engine", "ray", "--devices", "cpu"), "--devices is for this machine"),
        (("--ray-address", "auto"), "need --engine ray"),
        (("--engine", "ray", "--gpus-per-worker", "2"), "--gpus-per-worker"),
    ],
)
def test_wrong_options(
    options: tuple[str, ...], words: str, study_file: Path, storage_url: str, cli: Run
) -> None:
    result = cli("run", study_file, "--storage", storage_url, *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_cluster_file_of_the_docs_is_valid() -> None:
    page = (ROOT / "docs" / "how-to" / "share-a-study.md").read_text("utf-8")
    (text,) = re.findall(r"^```yaml\n(.*?)^```", page, re.S | re.M)
    done = subprocess.run(
        [sys.executable, "-c", VALIDATE, json.dumps(yaml.safe_load(text))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_ray_that_is_not_installed(
    study_file: Path, storage_url: str, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = cli("run", study_file, "--storage", storage_url, "--engine", "ray")
    assert result.exit_code == 2
    assert "pip install 'dynamoe-search[cluster]'" in result.stderr
