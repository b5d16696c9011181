"""Where workers are placed as a Ray cluster grows and shrinks, and when a place is given up.

A small program stands in for the worker, so that nothing is trained; GPUs are numbers to Ray.
"""

import json
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from dynamoe_search.clusters.orders import Order
from dynamoe_search.search import CrewEnd, ray_cluster
from dynamoe_search.store.runs import started
from tests.ray_cluster import ray_nodes

pytestmark = pytest.mark.slow
SECRET = "wJalrXUtnFEMI"
URL = "postgresql+psycopg://me:n0%20w%2Fay@db.example/x?sslpassword=in%20h3re"
WORKER = """
import json, os, signal, sys, time
if os.environ["ROLE"] == "dies":
    print("cannot reach s3://me:hunter2@bucket", file=sys.stderr)
    print("with " + os.environ["AWS_SECRET_ACCESS_KEY"] + " as the key", file=sys.stderr, flush=True)
    print("nor", os.environ["DYNAMOE_SEARCH_STORAGE"], file=sys.stderr)
    print({"password": "n0 w/ay", "sslpassword": "in h3re"}, file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
if os.environ["ROLE"] == "ends":
    print(json.dumps({"reason": "trials"}))
    sys.exit()
if os.environ["ROLE"] == "alone":
    try:
        open("first", "x").close()
    except FileExistsError:
        sys.exit("error: no data here")
def leave(*_):
    open(f"{os.getpid()}.told", "w").close()
    print(json.dumps({"reason": "interrupt"}))
    sys.exit(1)
signal.signal(signal.SIGTERM, leave)
open(f"{os.getpid()}.began", "w").close()
while os.getppid() == int(sys.argv[sys.argv.index("--parent") + 1]):
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_nodes(1) as nodes:
        yield nodes


class Run:
    """An order that is carried out in a thread, and what is told of it."""

    def __init__(self, address: str, order: Order) -> None:
        self.alive = self.waiting = -1
        self.news: list[str] = []
        self.dead: list[tuple[str, int]] = []
        self.end: CrewEnd | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(address, order))
        self._thread.start()

    def _run(self, address: str, order: Order) -> None:
        with ray_cluster(address) as connection:
            self.end = connection.run(
                order, self._is_over.is_set, self._poll, self.news.append, self._bury
            )

    def _bury(self, host: str, pid: int) -> None:
        self.dead.append((host, pid))

    def _poll(self, alive: int, waiting: int) -> None:
        self.alive, self.waiting = alive, waiting

    def wait(self, alive: int, waiting: int = 0) -> None:
        until(lambda: (self.alive, self.waiting) == (alive, waiting))

    def stop(self) -> None:
        self._is_over.set()

    def join(self) -> CrewEnd:
        self._thread.join(90)
        assert self.end is not None
        return self.end


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def living(folder: Path) -> list[int]:
    """Processes of the workers that began and are not gone."""
    pids = [int(path.stem) for path in folder.glob("*.began")]
    return [pid for pid in pids if started(pid) is not None]


@pytest.fixture
def order(tmp_path: Path) -> Callable[..., Order]:
    """Makes an order whose workers are the stand-in in a role."""
    package = tmp_path / "dynamoe_search"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(WORKER)

    def make(role: str, **options: Any) -> Order:
        defaults = {"workers": 1, "cpus": 0.5, "gpus": 0.0, "timeout_seconds": None}
        return Order(
            study="tiny",
            arguments=[],
            environment={
                "ROLE": role,
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "DYNAMOE_SEARCH_STORAGE": URL,
            },
            folder=str(tmp_path),
            stays_here=False,
            **defaults | options,
        )

    return make


@pytest.fixture
def start(cluster: Any, order: Callable[..., Order]) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def begin(role: str, **options: Any) -> Run:
        runs.append(Run(cluster.address, order(role, **options)))
        return runs[-1]

    yield begin
    for run in runs:
        run.stop()
        run.join()


def test_workers_follow_the_gpus_of_the_cluster(
    cluster: Any, start: Callable[..., Run], tmp_path: Path
) -> None:
    first = cluster.add_node(num_cpus=2, num_gpus=1, include_dashboard=False)
    run = start("works", workers=None, gpus=0.5)
    run.wait(2)
    second = cluster.add_node(num_cpus=2, num_gpus=1, include_dashboard=False)
    run.wait(4)
    until(lambda: len(living(tmp_path)) == 4)
    before = set(living(tmp_path))
    cluster.remove_node(second, allow_graceful=False)
    run.wait(2)
    assert sum("was lost with its node" in one for one in run.news) == 2
    until(lambda: len(run.dead) == 2)
    assert {host for host, _ in run.dead} == {platform.node()}
    assert {pid for _, pid in run.dead} == before - set(living(tmp_path))
    until(lambda: len(living(tmp_path)) == 2)  # no process of the lost node is left
    run.stop()
    assert run.join() == CrewEnd(reason="interrupt", failures=())
    assert living(tmp_path) == []
    cluster.remove_node(first)


def test_workers_for_which_there_is_no_room_wait_for_a_node(
    cluster: Any, start: Callable[..., Run]
) -> None:
    run = start("works", workers=4)
    run.wait(2, waiting=2)
    node = cluster.add_node(num_cpus=1, include_dashboard=False)
    run.wait(4)
    run.stop()
    assert run.join().reason == "interrupt"
    cluster.remove_node(node)


def test_nobody_begins_once_nothing_is_left_to_do(start: Callable[..., Run]) -> None:
    assert start("ends", workers=9).join() == CrewEnd(reason="trials", failures=())


PROGRAM = """
import json, sys
from dynamoe_search.clusters.orders import Order
from dynamoe_search.search import ray_cluster
with ray_cluster(sys.argv[1]) as connection:
    order = Order(**json.loads(sys.argv[2]))
    connection.run(order, lambda: False, lambda alive, _: print(alive, flush=True), print)
"""


def test_workers_of_a_program_that_is_killed_are_told_to_leave(
    cluster: Any, order: Callable[..., Order], tmp_path: Path
) -> None:
    words = [sys.executable, "-c", PROGRAM, cluster.address, json.dumps(asdict(order("works")))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        for line in program.stdout:
            if line == "1\n" and living(tmp_path):
                program.kill()
    until(lambda: len(list(tmp_path.glob("*.told"))) == 1)
    until(lambda: not living(tmp_path))


def test_place_whose_workers_die_at_once_is_given_up_with_their_last_words(
    cluster: Any, start: Callable[..., Run]
) -> None:
    run = start("dies")
    end = run.join()
    assert end.reason is None
    (failure,) = end.failures
    assert (
        "was killed (signal 9), as were 4 before it; given up; the last words of one: " in failure
    )
    assert failure.endswith(
        ": cannot reach s3://me:***@bucket | with *** as the key"
        " | nor postgresql+psycopg://me:***@db.example/x?sslpassword=***"
        " | {'password': '***', 'sslpassword': '***'}"
    )
    assert len(run.news) == 5
    folder = Path(cluster.head_node.get_session_dir_path())
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert any(b"with *** as the key" in content for content in files.values())
    for secret in (SECRET, "hunter2", "n0 w/ay", "n0%20w", "in h3re", "in%20h3re"):
        assert not [path for path, content in files.items() if secret.encode() in content]


def test_place_that_was_given_up_is_not_asked_for_again(
    cluster: Any, start: Callable[..., Run]
) -> None:
    node = cluster.add_node(num_cpus=2, num_gpus=1, include_dashboard=False)
    run = start("alone", workers=None, gpus=0.5)
    until(lambda: run.news != [])
    time.sleep(12.0)  # it looks every five seconds whether workers are missing
    assert (run.alive, run.waiting) == (1, 0)
    run.stop()
    (failure,) = run.join().failures
    assert failure.endswith("ended with status 1: no data here")
    cluster.remove_node(node)


def test_place_that_is_taken_away_is_not_heard_again(cluster: Any, tmp_path: Path) -> None:
    import ray  # takes a while

    from dynamoe_search.clusters.hosts import Ended
    from dynamoe_search.clusters.places import Places

    told: list[tuple[str, dict[str, Any]]] = []

    def say(kind: str, **values: Any) -> None:
        told.append((kind, values))

    order = Order(
        study="tiny",
        arguments=[],
        environment={},
        folder=str(tmp_path),
        workers=2,
        cpus=0.5,
        gpus=0.0,
        stays_here=False,
        timeout_seconds=None,
    )
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        places = Places(order, say, threading.Event())
        for _ in range(2):
            places._add()
        first, second = places._places
        first.node, first.node_id = ray.get(first.ref)
        first.pid = 1
        first.ref = ray.put(Ended(code=0, said='{"reason": "trials"}', last_lines=[]))
        ray.kill(second.actor)
        ray.wait([second.ref])
        second.ref = second.actor.node.remote()  # is lost in the same moment
        ray.wait([second.ref])
        places._listen()
        assert told == [("reason", {"reason": "trials"})]
        assert places._places == []
    finally:
        ray.shutdown()
