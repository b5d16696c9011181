"""What checkpoints and leases cost: a shortened fashion-mnist study with both, and with both switched off, in turn.

    python -m benchmarks.faults.cost > benchmarks/faults/results/cost_2-cores.md

The same designs are trained for the same epochs. Switched off means: states of candidates stay in memory instead of
going to the disk, legs have no checkpoints, nobody gives signs of life, and nobody waits for the lock of the planner;
the harness replaces these functions in the process that it measures. Beside that, the time within these functions is
taken directly, since a difference of two noisy times says little of something small. A second, smaller study has
checkpoints of legs far too often, since in the first hardly one is due.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.faults import victims
from dynamoe_search.presets import read_study
from dynamoe_search.search import create_study, run_study
from dynamoe_search.search.study_files import StudyFiles
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from dynamoe_search.training import CandidateState, CheckpointFolder, StateFolder

PARTS: dict[str, tuple[tuple[Any, str], ...]] = {
    "checkpoints of legs": ((CheckpointFolder, "write"), (StudyFiles, "keep_legs")),
    "checkpoints of candidates": (
        (StateFolder, "save"),
        (StateFolder, "load"),
        (StudyFiles, "keep_states"),
    ),
    "leases": tuple(
        (Store, name) for name in ("join", "leave", "require_leg", "_beat_if_due", "_beat")
    ),
}
Measured = dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A study whose cost is measured.

    Attributes:
        heading: Of its part of the result file; empty for the first.
        about: What it is there for.
        trials: Candidates, in one cohort.
        epochs: Of each.
        pictures: To train on.
        every_seconds: How old the last checkpoint of a leg must be for the next.
        rounds: How often it is measured, with both and without in turn.
    """

    heading: str = ""
    about: str = ""
    trials: int
    epochs: int
    pictures: int
    every_seconds: float
    rounds: int

    def spec(self) -> StudySpec:
        """Returns the preset fashion-mnist, shortened, with a pruner, so that there are rungs."""
        changes = [
            f"study.trials={self.trials}",
            f"search.cohort_size={self.trials}",
            f"data.max_train={self.pictures}",
            f"train.epochs={self.epochs}",
            "search.pruner.kind=pareto",
        ]
        return read_study("fashion-mnist", changes).spec


SETTINGS = (
    Setting(trials=16, epochs=2, pictures=60_000, every_seconds=30.0, rounds=2),
    Setting(
        heading="With checkpoints of legs, on purpose too often",
        about="Fifteen times as often as by default, in epochs of a fifth of the length.",
        trials=8,
        epochs=3,
        pictures=12_000,
        every_seconds=2.0,
        rounds=3,
    ),
)


def switch_off() -> None:
    """Takes checkpoints and leases out of this process."""
    states: dict[tuple[int, int], CandidateState] = {}

    def save(_: StateFolder, state: CandidateState) -> str:
        states[state.ordinal, state.epoch] = state
        return "0" * 64

    def load(_: StateFolder, candidate: Any, epoch: int, *__: Any) -> CandidateState:
        return states[candidate.ordinal, epoch]

    def epochs(_: StateFolder, ordinal: int) -> list[int]:
        return sorted(epoch for known, epoch in states if known == ordinal)

    @contextmanager
    def planning(*_: Any) -> Iterator[None]:
        yield

    def nothing(*_: Any, **__: Any) -> None:
        return

    replacements: dict[tuple[Any, str], Callable[..., Any]] = {
        (StateFolder, "save"): save,
        (StateFolder, "load"): load,
        (StateFolder, "epochs"): epochs,
        (CheckpointFolder, "write"): nothing,
        (StudyFiles, "keep_legs"): nothing,
        (StudyFiles, "keep_states"): nothing,
        (Store, "_beat_if_due"): nothing,
        (Store, "_beat"): nothing,
        (Store, "require_leg"): nothing,
        (Store, "planning"): planning,
    }
    for (owner, name), function in replacements.items():
        setattr(owner, name, function)


def take_times(times: dict[str, float]) -> None:
    """Has the wall time within the parts added up, the outermost call of each thread only."""
    inside = threading.local()

    def around(part: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            inside.depth = getattr(inside, "depth", 0) + 1
            began = time.perf_counter()
            try:
                return original(*arguments, **options)
            finally:
                inside.depth -= 1
                if not inside.depth:
                    times[part] += time.perf_counter() - began

        return timed

    for part, functions in PARTS.items():
        for owner, name in functions:
            setattr(owner, name, around(part, getattr(owner, name)))
    times["lock of the planner"] = 0.0
    planning = Store.planning

    @contextmanager
    def timed_planning(*arguments: Any) -> Iterator[None]:
        began = time.perf_counter()
        with planning(*arguments):
            times["lock of the planner"] += time.perf_counter() - began
            yield
            began = time.perf_counter()
        times["lock of the planner"] += time.perf_counter() - began

    Store.planning = timed_planning  # type: ignore[method-assign]


def measure(setting: Setting, folder: Path, *, has_both: bool) -> Measured:
    """Returns seconds of a study in a process of its own: wall, CPU, and of each part.

    Args:
        setting: The study.
        folder: For its database.
        has_both: Whether it has checkpoints and leases.
    """
    place, spec = Path(tempfile.mkdtemp(dir=folder)), setting.spec()

    def act() -> None:
        times: dict[str, float] = defaultdict(float)
        with Store.open(f"sqlite:///{place / 'studies.db'}") as store:
            name = create_study(store, spec, source="cost", device="cpu", num_threads=1)
            if has_both:
                take_times(times)
            else:
                switch_off()
            wall, cpu = time.perf_counter(), time.process_time()
            run_study(store, name, checkpoint_seconds=setting.every_seconds)
            times["wall"] = time.perf_counter() - wall
            times["CPU"] = time.process_time() - cpu
            times["accuracy"] = sum(
                one.outcome.metrics.get("accuracy", 0.0)
                for one in store.candidates(name)
                if one.outcome is not None
            )
        (place / "times.json").write_text(json.dumps(times))

    assert victims.wait(victims.fork(act)) == 0
    found: Measured = json.loads((place / "times.json").read_text())
    return found


def report(setting: Setting, on: Sequence[Measured], off: Sequence[Measured]) -> str:
    """Returns the part of the result file about a setting."""

    def middle(some: Sequence[Measured], key: str) -> float:
        return statistics.median(one.get(key, 0.0) for one in some)

    parts = [*PARTS, "lock of the planner"]
    whole = statistics.median(sum(one.get(p, 0.0) for p in parts) / one["wall"] for one in on)
    conditions = (
        f"{setting.about} Preset fashion-mnist with {setting.trials} candidates in one cohort, "
        f"{setting.epochs} epochs of {setting.pictures:,} pictures (the preset has 60,000), a "
        f"checkpoint every {setting.every_seconds:.0f} s and at every rung; {len(on)} rounds in turn, medians."
    )
    lines = [
        *((f"## {setting.heading}", "") if setting.heading else ()),
        conditions.strip(),
        "",
        f"**Within the functions themselves: {whole:.2%} of the study's time.**",
        "",
        "| | with both | without | difference |",
        "|---|--:|--:|--:|",
    ]
    for key in ("CPU", "wall"):
        one, two = middle(on, key), middle(off, key)
        lines.append(f"| {key} seconds | {one:.1f} | {two:.1f} | {one / two - 1:+.1%} |")
    lines += ["", "| part | seconds | share of the wall time |", "|---|--:|--:|"]
    for part in parts:
        share = statistics.median(one.get(part, 0.0) / one["wall"] for one in on)
        lines.append(f"| {part} | {middle(on, part):.3f} | {share:.2%} |")
    is_same = len({one["accuracy"] for one in (*on, *off)}) == 1
    lines += ["", f"Same accuracies with and without: {'yes' if is_same else 'NO'}."]
    return "\n".join(lines) + "\n"


def heading() -> str:
    """Returns the beginning of the result file."""
    command = " ".join(["python -m benchmarks.faults.cost", *sys.argv[1:]])
    return (
        "# What checkpoints and leases cost\n\n"
        f"Command: `{command}`. {platform.machine()}, {os.cpu_count()} cores, one thread, Python "
        f"{platform.python_version()}, torch {torch.__version__}; beside other work.\n"
    )


def main() -> None:
    """Measures and prints a table for each setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="one round on a tenth of the pictures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = [heading()]
    settings = SETTINGS
    if options.short:
        settings = tuple(replace(one, pictures=one.pictures // 10, rounds=1) for one in SETTINGS)
    for setting in settings:
        on, off = [], []
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(setting.rounds):
                for found, has_both in ((on, True), (off, False)):
                    found.append(measure(setting, Path(folder), has_both=has_both))
                    print(has_both, found[-1], file=sys.stderr, flush=True)
        parts.append(report(setting, on, off))
    print("\n".join(parts), end="")


if __name__ == "__main__":
    main()
