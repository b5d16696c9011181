"""A study on a two-node Ray cluster, undisturbed, and with workers and a node killed at random every few seconds.

    python -m benchmarks.cluster.ray > benchmarks/cluster/results/ray_2-cores.md

Both nodes are on this machine, two CPUs each by Ray's count; four workers; PostgreSQL. Designs are drawn at random by
their ordinals, so that both runs must give the same candidates with the same numbers, bit for bit. Studies with other
seeds, by one process, say how much the hypervolume of such a front varies anyway.
"""

import argparse
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.faults.small_studies import by_ordinal, done_twice, facts
from dynamoe_search.records import Worker
from dynamoe_search.search import summarise
from dynamoe_search.store import Store
from tests.postgres import database, server
from tests.ray_cluster import ray_nodes

NUM_WORKERS = 4
NODE_CPUS = 2
EPOCHS = 6  # a leg must be shorter than the time from kill to kill, or nothing is ever finished
STUDY = (
    "study.references=['dense']",
    "data.max_train=512",
    "model.d_model=8",
    f"train.epochs={EPOCHS}",
    "search.sampler=random",
    "search.cohort_size=4",
    "search.pruner.kind=none",
)


@dataclass(kw_only=True, slots=True)
class Run:
    """How a study went.

    Attributes:
        title: What was done to it.
        seconds: From the command to its end.
        hypervolume: Of its front.
        found: See `facts`.
        num_leases: Worker processes that joined.
        workers_killed, nodes_killed: How many.
        problems: What is wrong with it.
    """

    title: str
    seconds: float
    hypervolume: float
    found: dict[str, Any]
    num_leases: int
    workers_killed: int = 0
    nodes_killed: int = 0
    problems: list[str] = field(default_factory=list)


class Killer:
    """Kills a worker process, or every fourth time the second node, at random moments, one per call at most.

    Args:
        cluster: Of Ray.
        store: The database, open.
        seconds: Shortest and longest pause.
    """

    def __init__(self, cluster: Any, store: Store, seconds: tuple[float, float]) -> None:
        self.workers_killed = self.nodes_killed = 0
        self._cluster, self._store, self._seconds = cluster, store, seconds
        self._dice = random.Random(0)  # noqa: S311
        self._next = self._later()

    def __call__(self) -> None:
        """Kills somebody if it is time for it and anybody is at work."""
        if time.monotonic() < self._next or not (alive := self._alive(self._store)):
            return
        if (self.workers_killed + self.nodes_killed) % 4 == 2:
            self._kill_node()
        else:
            self._kill_worker(self._dice.choice(alive).pid)
        self._next = self._later()

    def _later(self) -> float:
        return time.monotonic() + self._dice.uniform(*self._seconds)

    def _alive(self, store: Store) -> list[Worker]:
        names = [record.name for record in store.studies()]
        return [one for name in names for one in store.workers(name) if one.is_alive]

    def _kill_worker(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self.workers_killed += 1

    def _kill_node(self) -> None:
        self._cluster.remove_node(next(iter(self._cluster.worker_nodes)), allow_graceful=False)
        self.nodes_killed += 1
        time.sleep(2.0)
        self._cluster.add_node(num_cpus=NODE_CPUS, include_dashboard=False)


def nothing() -> None:
    """Leaves everybody in peace."""


def run(
    title: str,
    url: str,
    seed: int,
    trials: int,
    options: Sequence[str],
    meanwhile: Callable[[], None] = nothing,
) -> Run:
    """Runs a study to its end with the command line.

    Args:
        title: Of the row.
        url: Of an empty database.
        seed: Of the study.
        trials: How many.
        options: Of the command.
        meanwhile: Called several times a second.

    Raises:
        RuntimeError: The command failed.
    """
    settings = [*STUDY, f"study.seed={seed}", f"study.trials={trials}"]
    command = [sys.executable, "-m", "dynamoe_search", "run", "digits", "--device", "cpu"]
    command += ["--threads", "1", *(word for one in settings for word in ("--set", one)), *options]
    start = time.monotonic()
    process = subprocess.Popen(  # noqa: S603
        command, env={**os.environ, "DYNAMOE_SEARCH_STORAGE": url}, stdout=subprocess.DEVNULL
    )
    while (code := process.poll()) is None:
        meanwhile()
        time.sleep(0.2)
    seconds = time.monotonic() - start
    if code != 0:
        raise RuntimeError(f"{title}: exit code {code}")
    with Store.open(url) as store:
        hypervolume = summarise(store, "digits", "trials", seconds).hypervolume
        leases = len(store.workers("digits"))
    found = facts(url, "digits")
    return Run(
        title=title,
        seconds=seconds,
        hypervolume=hypervolume,
        found=found,
        num_leases=leases,
        problems=_problems(found, trials),
    )


def _problems(found: dict[str, Any], trials: int) -> list[str]:
    """Returns what is lost or was done twice."""
    problems = done_twice(found)
    states = Counter(one["status"] for one in found["candidates"])
    if states != {"complete": trials}:
        problems.append(f"candidates: {dict(states)}")
    if Counter(one["state"] for one in found["optuna"]) != {"COMPLETE": trials}:
        problems.append("Optuna has trials that are not complete")
    if len(found["progress"]) != EPOCHS * trials:
        problems.append(f"{len(found['progress'])} reports of epochs instead of {EPOCHS * trials}")
    if found["zombies"]:
        problems.append(f"zombies: {found['zombies']}")
    return problems


def main() -> None:
    """Runs everything and prints a page; exit code 1 if a trial is lost, there twice, or has other numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--pause", type=float, nargs=2, default=(6.0, 12.0), metavar="SECONDS")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        Path(name).chmod(0o755)
        os.environ["DYNAMOE_SEARCH_FILES"] = str(Path(name) / "files")
        with server(Path(name) / "data") as socket:
            runs = _on_ray(socket, options.trials, tuple(options.pause))
            others = []
            for seed in range(1, options.seeds + 1):
                url = database(socket, f"seed{seed}")
                others.append(run(f"seed {seed}", url, seed, options.trials, ["--quiet"]))
    calm, disturbed = runs
    numbers, same = by_ordinal(calm.found), by_ordinal(disturbed.found)
    ordinals = numbers.keys() | same.keys()
    differing = [one for one in sorted(ordinals) if numbers.get(one) != same.get(one)]
    print(page(runs, others, differing, tuple(options.pause)), end="")
    sys.exit(1 if differing or any(one.problems for one in runs) else 0)


def _on_ray(socket: str, trials: int, pause: tuple[float, float]) -> list[Run]:
    """Runs the study on Ray, undisturbed and disturbed."""
    with ray_nodes(NODE_CPUS, NODE_CPUS) as cluster:
        ray = ("--engine", "ray", "--ray-address", cluster.address, "--workers", str(NUM_WORKERS))
        calm = run("undisturbed", database(socket, "calm"), 0, trials, ray)
        url = database(socket, "disturbed")
        with Store.open(url) as store:
            killer = Killer(cluster, store, pause)
            disturbed = run("workers and nodes killed", url, 0, trials, ray, killer)
        disturbed.workers_killed = killer.workers_killed
        disturbed.nodes_killed = killer.nodes_killed
    return [calm, disturbed]


def page(
    runs: Sequence[Run],
    others: Sequence[Run],
    differing: Sequence[int],
    pause: tuple[float, float],
) -> str:
    """Returns the result file."""
    command = " ".join(["python -m benchmarks.cluster.ray", *sys.argv[1:]])
    conditions = (
        f"Command: `{command}`. {platform.machine()}, {os.cpu_count()} CPU cores, Python "
        f"{platform.python_version()}, torch {torch.__version__}, Ray {version('ray')}, PostgreSQL."
    )
    settings = ", ".join(f"`{one}`" for one in STUDY)
    what = (
        f"Preset `digits` with {settings}; two Ray nodes on one machine with {NODE_CPUS} CPUs each by Ray's count, "
        f"{NUM_WORKERS} workers. Disturbed: every {pause[0]:g} to {pause[1]:g} seconds a worker process is killed "
        "with SIGKILL, or, every fourth time, the second node with all that is on it; another node comes two seconds "
        "later. The studies with other seeds are of one process."
    )
    titles = "run, trials complete, reports, worker processes, workers killed, nodes killed, hypervolume, seconds"
    lines = [
        "# A study on a Ray cluster whose workers and nodes are killed",
        "",
        conditions,
        "",
        what,
    ]
    lines += ["", f"| {titles.replace(', ', ' | ')} |", "|---" + 7 * "|--:" + "|"]
    for one in (*runs, *others):
        complete = sum(each["status"] == "complete" for each in one.found["candidates"])
        lines.append(
            f"| {one.title} | {complete} | {len(one.found['progress'])} | {one.num_leases} | {one.workers_killed} "
            f"| {one.nodes_killed} | {one.hypervolume:.4f} | {one.seconds:.0f} |"
        )
    problems = [f"{one.title}: {problem}" for one in runs for problem in one.problems]
    whole = "No trial is lost, none was trained twice, and Optuna has each as complete."
    equal = (
        "Every candidate of the disturbed run has the numbers of the undisturbed one, bit for bit, "
        "so the front is the same."
    )
    lines += ["", f"Problems: {problems}" if problems else whole]
    lines += ["", f"Candidates that differ: {list(differing)}" if differing else equal]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
