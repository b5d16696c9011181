"""Whole searches at an equal budget of epochs: without pruning, with it, and with a sampler that ignores the paused.

    python -m benchmarks.pruning.live [--seeds 10] [--epochs 480] [--data digits] [--most N] > live_digits.md

Each search is a row of `ROWS`, written when it is over: what is there is not run again, and `--most` runs so many of
the missing ones, so the whole can be made in pieces. The table is of the seeds that have a row in every arm.

Every search has its own seed for designs, initial weights and batch order; the same seed in all arms. The hypervolume
is that of validation accuracy against activated parameters, on a linear axis as the program reports it and on a
logarithmic one, where the box goes from the smallest model of all searches to the study's frozen reference point.
"""

import argparse
import json
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from scipy import stats

from dynamoe_search.pareto import hypervolume
from dynamoe_search.presets import read_study
from dynamoe_search.search import Limits, create_study, run_study
from dynamoe_search.search.proposals import Proposals
from dynamoe_search.store import Store
from dynamoe_search.wording import counted

ROWS = Path(__file__).parent / "results" / "live_{data}_{epochs}.jsonl"
"""One line per search."""

ARMS: Mapping[str, str] = {
    "no pruning": "none",
    "pareto": "pareto",
    "pareto, the sampler is told nothing of the paused": "pareto",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """What one search came to."""

    points: tuple[tuple[float, float], ...]  # accuracy and activated parameters of its front
    reference: tuple[float, float]
    linear: float  # hypervolume
    epochs: int  # spent, all candidates together
    candidates: int
    complete: int
    seconds: float

    def logarithmic(self, smallest: float) -> float:
        """Returns the hypervolume with the logarithm of the parameters, as a share of its box."""
        worst, largest = self.reference
        span = math.log(largest / smallest)
        points = [[accuracy, math.log(size / smallest) / span] for accuracy, size in self.points]
        return hypervolume(points, (True, False), [worst, 1.0]) / (1.0 - worst)


@contextmanager
def arm(name: str) -> Iterator[None]:
    """Takes the estimates of paused candidates from the sampler in the last arm."""
    if "nothing" not in name:
        yield
        return
    with patch.object(Proposals, "_estimates", lambda *_: {}):
        yield


def search(preset: str, name: str, seed: int, epochs: int) -> Search:
    """Runs one search to its budget."""
    changes = [
        f"study.seed={seed}",
        "study.trials=10000",
        f"search.pruner.kind={ARMS[name]}",
    ]
    spec = read_study(preset, changes, "live").spec
    with (
        tempfile.TemporaryDirectory() as folder,
        arm(name),
        Store.open(f"sqlite:///{Path(folder) / 'live.db'}") as store,
    ):
        start = time.perf_counter()
        create_study(store, spec, source=preset, device="cpu", num_threads=1)
        summary = run_study(store, "live", limits=Limits(epochs=epochs))
        seconds = time.perf_counter() - start
        reference = store.study("live").settings.reference_point
        standings = store.standings("live")
    return Search(
        points=tuple(
            (one.values["accuracy"], one.values["activated_params"]) for one in summary.front
        ),
        reference=(reference[0], reference[1]),
        linear=summary.hypervolume,
        epochs=sum(one.epochs for one in standings),
        candidates=len(standings),
        complete=summary.complete,
        seconds=seconds,
    )


def interval(values: Sequence[float]) -> str:
    """Returns mean and half width of the 95 % interval of a mean, by Student's t."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:+.4f}"
    half = (
        float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    )
    return f"{mean:+.4f} ± {half:.4f}"


def table(found: Mapping[str, Sequence[Search]]) -> Iterator[str]:
    """Yields the lines of the result."""
    smallest = min(size for some in found.values() for one in some for _, size in one.points)
    base = found["no pruning"]
    yield (
        "| search | epochs | candidates | complete | hypervolume, linear | against no pruning | "
        "hypervolume, log | against no pruning | best accuracy | seconds |"
    )
    yield "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |"
    for name, some in found.items():
        logs = [one.logarithmic(smallest) for one in some]
        others = [one.logarithmic(smallest) for one in base]
        linear = [one.linear - other.linear for one, other in zip(some, base, strict=True)]
        log = [one - other for one, other in zip(logs, others, strict=True)]
        best = statistics.fmean(max(accuracy for accuracy, _ in one.points) for one in some)
        yield (
            f"| {name} | {statistics.fmean(one.epochs for one in some):.0f} "
            f"| {statistics.fmean(one.candidates for one in some):.1f} "
            f"| {statistics.fmean(one.complete for one in some):.1f} "
            f"| {statistics.fmean(one.linear for one in some):.4f} | {interval(linear)} "
            f"| {statistics.fmean(logs):.4f} | {interval(log)} "
            f"| {best:.4f} | {statistics.fmean(one.seconds for one in some):.0f} |"
        )
    names = list(found)
    taught, untaught = found[names[1]], found[names[2]]
    gain = [
        one.logarithmic(smallest) - other.logarithmic(smallest)
        for one, other in zip(taught, untaught, strict=True)
    ]
    yield ""
    yield f"What the sampler gains from the paused (hypervolume, log, paired): {interval(gain)}."


def read(path: Path) -> dict[tuple[int, str], Search]:
    """Returns the searches of a file of rows, by seed and arm."""
    found = {}
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        row = json.loads(line)
        key = row.pop("seed"), row.pop("arm")
        row["points"] = tuple((accuracy, size) for accuracy, size in row["points"])
        found[key] = Search(**row | {"reference": tuple(row["reference"])})
    return found


def add(path: Path, seed: int, name: str, one: Search) -> None:
    """Adds a row to a file of rows."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"seed": seed, "arm": name} | asdict(one)) + "\n")


def main() -> None:
    """Runs the searches that are missing and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=480)
    parser.add_argument("--data", default="digits", help="a preset")
    parser.add_argument("--most", type=int, help="searches in this call; default: all missing")
    given = parser.parse_args()
    path = Path(str(ROWS).format(data=given.data, epochs=given.epochs))
    wanted = [(seed, name) for seed in range(given.seeds) for name in ARMS]
    missing = [key for key in wanted if key not in read(path)]
    for seed, name in missing[: given.most]:
        add(path, seed, name, search(given.data, name, seed, given.epochs))
    rows = read(path)
    seeds = [seed for seed in range(given.seeds) if all((seed, name) in rows for name in ARMS)]
    print("# Searches at an equal budget of epochs\n")
    print(
        f"Command: `python -m benchmarks.pruning.live --seeds {given.seeds} "
        f"--epochs {given.epochs} --data {given.data}`. Means over {counted(len(seeds), 'seed')}, "
        f"paired differences with 95 % intervals; torch {torch.__version__}, "
        f"Python {platform.python_version()}, 2 CPU cores, one thread. Rows: `{path.name}`.\n"
    )
    if seeds:
        print("\n".join(table({name: [rows[seed, name] for seed in seeds] for name in ARMS})))


if __name__ == "__main__":
    main()
