"""How many workers does one database carry? The real loop and a real database; only the training is a pause.

    python -m benchmarks.cluster.load --out benchmarks/cluster/results/load_2-cores.md

A worker is a process that was forked from one that had imported everything (torch too), so that they share that memory;
training a leg is sleeping for a stated time per epoch and reporting curves that were recorded from real training. So
hundreds of workers fit into one machine. What this distorts: in a cluster every worker has processors of its own, here
all share those of the machine with each other and with the database. Where the processors are the limit, only the
seconds of processor time per trial can be carried over; the planning lock is one for all workers here as there.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import torch

from benchmarks.cluster.observing import Observed, observe
from benchmarks.cluster.page import Case, Plan, report
from benchmarks.cluster.simulation import EVERY, Clock, Meter, work
from benchmarks.faults import victims
from benchmarks.pages import tell
from benchmarks.pruning.curves import Curves, load
from dynamoe_search.search import create_study
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from dynamoe_search.store.addresses import FILES_VARIABLE
from tests.postgres import database, server

CURVES = Path("benchmarks/pruning/curves/fashion-mnist_cosine.npz")
MORE_CONNECTIONS = {"max_connections": 600}
NAME = "load"


def spec_of(plan: Plan, curves: Curves) -> StudySpec:
    """Returns the study of the curves, on small data, with rungs at which candidates are stopped."""
    sections = curves.meta["spec"]
    search = {
        "cohort_size": plan.cohort,
        "sampler": plan.sampler,
        "startup_trials": 20,
        "pruner": {"kind": "pareto", "rungs": [1, 3], "pause": False},
    }
    return StudySpec.model_validate(
        sections
        | {
            "study": {"name": NAME, "trials": 100_000},
            "data": {"name": "digits", "max_train": 64},
            "model": sections["model"] | {"d_model": 16},
            "train": sections["train"] | {"epochs": curves.num_epochs // EVERY},
            "search": search,
        }
    )


def run_case(
    backend: str, workers: int, url: str, plan: Plan, curves: Curves, folder: Path
) -> Case:
    """Has so many workers share a new study for a while."""
    os.environ[FILES_VARIABLE] = str(folder / "files")
    victims.wait(victims.fork(partial(_create, url, plan, curves)))
    clock = Clock(workers)
    gc.collect()
    gc.freeze()  # the collector touches no page that is shared
    children = []
    for number in range(workers):
        meter = Meter(clock=clock, worker=number)
        act = partial(work, url, NAME, curves, plan.epoch, meter, folder / f"{number}.json")
        children.append(victims.fork(partial(_begin, act, folder)))
        time.sleep(plan.ramp / workers)
    late = time.monotonic() + plan.patience
    while clock.num_at_work < workers and time.monotonic() < late:
        time.sleep(0.1)
    begin = time.monotonic() + 2 * plan.epoch
    end = begin + plan.window
    clock.set(begin, end)
    is_server = backend == "PostgreSQL"
    postmaster = _postmaster(url) if is_server else None
    observed = observe(begin, end, children, postmaster, url if is_server else None)
    errors = []
    for child in children:
        if victims.wait(child):
            lines = (folder / f"{child}.err").read_text().strip().splitlines()
            errors.append(lines[-1] if lines else "no word")
    problems = folder / "problems.txt"
    victims.wait(victims.fork(partial(_write_problems, url, problems)))
    errors += problems.read_text().splitlines()
    return _gathered(backend, workers, plan, observed, errors, folder)


def _write_problems(url: str, path: Path) -> None:
    path.write_text("\n".join(_problems(url)))


def _problems(url: str) -> list[str]:
    """Returns what the workers did twice."""
    with Store.open(url, create=False) as store:
        records, known = store.candidates(NAME), store.legs(NAME)
    found = []
    for what, values in (
        ("a design", [one.candidate.design_hash for one in records]),
        ("an ordinal", [one.ordinal for one in records]),
        ("a start of a trial", [(trial, leg.start) for leg in known for trial in leg.trials]),
    ):
        if len(set(values)) < len(values):
            found.append(f"{what} is there twice")
    return found


def _create(url: str, plan: Plan, curves: Curves) -> None:
    with Store.open(url) as store:
        create_study(store, spec_of(plan, curves), source="benchmark", device="cpu", num_threads=1)


def _begin(act: Any, folder: Path) -> None:
    with (folder / f"{os.getpid()}.err").open("w") as file:
        os.dup2(file.fileno(), 2)
    act()


def _postmaster(url: str) -> int:
    folder = str(sa.make_url(url).query["host"])
    return int((Path(folder) / "postmaster.pid").read_text().split()[0])


def _gathered(
    backend: str, workers: int, plan: Plan, observed: Observed, errors: list[str], folder: Path
) -> Case:
    times: dict[str, list[float]] = defaultdict(list)
    locked: dict[str, list[float]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text())
        counts.update(found["counts"])
        for into, name in ((times, "times"), (locked, "locked")):
            for key, values in found[name].items():
                into[key] += values
    return Case(
        backend=backend,
        workers=workers,
        window=plan.window,
        times=times,
        locked=locked,
        counts=counts,
        observed=observed,
        errors=errors,
    )


@contextmanager
def databases(folder: Path) -> Iterator[Any]:
    """Gives a function that makes a new database of a kind and returns its URL."""
    with ExitStack() as stack:
        sockets: list[str] = []

        def make(backend: str, number: int) -> str:
            if backend == "SQLite":
                return f"sqlite:///{folder / f'{number}.db'}"
            if not sockets:
                data = folder / "server"
                sockets.append(stack.enter_context(server(data, MORE_CONNECTIONS)))
            return database(sockets[0], f"load{number}")

        yield make


def main() -> None:
    """Runs all cases and writes a page; exit code 1 if a worker failed or anything was done twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgresql", type=int, nargs="*", default=[1, 8, 64, 256])
    parser.add_argument("--sqlite", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--cohort", type=int, default=8)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--epoch-seconds", type=float, default=4.0)
    parser.add_argument("--ramp", type=float, default=10.0)
    parser.add_argument("--patience", type=float, default=60.0)
    parser.add_argument("--window", type=float, default=30.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    plan = Plan(
        cohort=options.cohort,
        sampler=options.sampler,
        epoch=options.epoch_seconds,
        ramp=options.ramp,
        patience=options.patience,
        window=options.window,
    )
    torch.set_num_threads(1)
    curves = load(CURVES)
    wanted = [("PostgreSQL", number) for number in options.postgresql]
    wanted += [("SQLite", number) for number in options.sqlite]
    cases = []
    with tempfile.TemporaryDirectory(prefix="load-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        quick = replace(plan, epoch=0.1, ramp=0.0, window=1.0)
        first = partial(_warm, quick, curves, folder)
        victims.import_what_is_needed(first)
        with databases(folder) as make:
            for number, (backend, workers) in enumerate(wanted):
                own = folder / f"case-{number}"
                own.mkdir()
                url = make(backend, number)
                cases.append(run_case(backend, workers, url, plan, curves, own))
                print(report(cases[-1:], plan), file=sys.stderr, flush=True)
    tell(report(cases, plan), options.out)
    sys.exit(1 if any(one.errors for one in cases) else 0)


def _warm(plan: Plan, curves: Curves, folder: Path) -> None:
    """Does all that a worker does, so that everything is imported."""
    own = folder / "warm"
    own.mkdir()
    os.environ[FILES_VARIABLE] = str(own / "files")
    url = f"sqlite:///{own / 'warm.db'}"
    _create(url, plan, curves)
    clock = Clock(1)
    clock.set(time.monotonic(), time.monotonic() + 3)
    work(url, NAME, curves, plan.epoch, Meter(clock=clock, worker=0), own / "warm.json")


if __name__ == "__main__":
    main()
