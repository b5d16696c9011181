"""Kills studies with SIGKILL at chosen points and at random moments, and compares what `resume` makes of them.

    python -m benchmarks.faults.kills > benchmarks/faults/results/kills_2-cores.md

Each of several small studies is interrupted again and again; each victim is a process of its own, forked from one that
has only imported, with a trap at one point (see `victims.py`), or a real `resume` command that is killed by a timer.
After every kill the database is checked and every trial that was over must still be there, unchanged. When a study has
ended, everything but times must equal, bit for bit, the same study that nobody interrupted.
"""

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.faults import victims
from benchmarks.faults.small_studies import (
    NAME,
    SmallStudy,
    done_twice,
    facts,
    finished_trials,
    quick_study,
    small_studies,
)
from dynamoe_search.wording import counted

RANDOM = "at random moments, by a timer"
COMMAND = "the `resume` command, at random moments"
Place = tuple[str, str]
KILLED = -signal.SIGKILL


@dataclass(kw_only=True, slots=True)
class Reference:
    """A study that nobody interrupted.

    Attributes:
        found: Its facts.
        calls: How often a run comes by each place.
        seconds: How long a run takes.
    """

    found: dict[str, Any]
    calls: dict[str, int]
    seconds: float


@dataclass(kw_only=True, slots=True)
class Tally:
    """What was done, and what went wrong."""

    kills: Counter[Place] = field(default_factory=Counter)
    studies: Counter[str] = field(default_factory=Counter)
    num_commands: int = 0  # studies whose last run was the real command
    problems: list[str] = field(default_factory=list)


class Bench:
    """Interrupts small studies.

    Args:
        folder: For databases.
        seed: Of the moments.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.tally = Tally()
        self._folder, self._random = folder, random.Random(seed)  # noqa: S311 - not a secret
        self._references: dict[str, Reference] = {}

    def reference(self, study: SmallStudy) -> Reference:
        """Returns what an uninterrupted run of a study gives; each study is run once, and once to count."""
        if study.title not in self._references:
            url, counted, out = self._urls()
            began = time.monotonic()
            self._done(victims.fork(lambda: study.run(url)), "reference")
            seconds = time.monotonic() - began
            self._done(victims.fork(lambda: _count(study, counted, out)), "counting")
            calls = json.loads(out.read_text())
            found, again = self._facts(url), self._facts(counted)
            assert found == again, differences(found, again)
            self._references[study.title] = Reference(found=found, calls=calls, seconds=seconds)
        return self._references[study.title]

    def interrupt(self, study: SmallStudy, places: Sequence[Place], *, command: bool) -> int:
        """Kills a study once at each place that it comes by, lets it end, and compares.

        Args:
            study: Which.
            places: Where, in this order; group and name.
            command: Whether the last run is the real command.

        Returns:
            How often it was killed.
        """
        reference = self.reference(study)
        url, *_ = self._urls()
        file = Path(url.removeprefix("sqlite:///"))
        known: dict[str, list[Any]] = {}
        killed = 0
        for place in places:
            if self._victim(study, url, place, len(places), reference) != KILLED:
                break
            killed += 1
            self.tally.kills[place] += 1
            known = self._check(file, known, f"{study.title}, {place}")
        if killed:
            self.tally.studies[study.title] += 1
        self._end(study, url, command=command and killed > 0)
        found = self._facts(url)
        title = f"{study.title}, killed at {[' '.join(place) for place in places[:killed]]}"
        self.tally.problems += [f"{title}: {one}" for one in differences(reference.found, found)]
        self.tally.problems += [f"{title}: {one}" for one in done_twice(found)]
        for path in file.parent.glob(f"{file.name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return killed

    def _victim(
        self, study: SmallStudy, url: str, place: Place, num_kills: int, reference: Reference
    ) -> int:
        """Runs a study until it is killed, and returns how the process ended."""
        group, name = place
        if group == COMMAND:
            return self._command_victim(study, url)
        every = 0.0 if group == victims.LEG_RENAME else self._random.choice((0.0, 0.0, 0.2, 30.0))
        if group == RANDOM:
            child = victims.fork(lambda: study.run(url, every))
            return victims.kill_after(child, self._random.uniform(0.02, reference.seconds / 2))
        often = reference.calls.get(f"{group}: {name}", 0) // num_kills
        deadly = self._random.randint(1, max(1, often))

        def run() -> None:
            victims.POINTS[group][name](victims.Counter(deadly))
            study.run(url, every)

        return victims.wait(victims.fork(run))

    def _command_victim(self, study: SmallStudy, url: str) -> int:
        if not Path(url.removeprefix("sqlite:///")).exists():
            self._done(victims.fork(lambda: study.create(url)), "creation")
        before = _num_workers(url)
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(_resume(url), **quiet) as process:  # noqa: S603
            while process.poll() is None and _num_workers(url) == before:
                time.sleep(0.05)
            time.sleep(self._random.uniform(0, 3))
            process.kill()
        return process.returncode

    def _check(self, file: Path, known: dict[str, list[Any]], title: str) -> dict[str, list[Any]]:
        """Looks at a copy of what a killed process left; returns what is over."""
        with tempfile.TemporaryDirectory() as folder:
            for path in (file, Path(f"{file}-wal")):
                if path.exists():
                    shutil.copy(path, folder)
            try:
                found = finished_trials(Path(folder) / file.name)
            except (AssertionError, sqlite3.Error) as error:
                self.tally.problems.append(f"{title}: the database is damaged: {error}")
                return known
        lost = [name for name, row in known.items() if found.get(name) != row]
        self.tally.problems += [f"{title}: lost or changed: {name}" for name in lost]
        return found

    def _end(self, study: SmallStudy, url: str, *, command: bool) -> None:
        if not command:
            self._done(victims.fork(lambda: study.run(url)), "the last run")
            return
        done = subprocess.run(  # noqa: S603
            _resume(url), capture_output=True, check=False, text=True
        )
        assert done.returncode == 0, done.stderr
        self.tally.num_commands += 1

    def _facts(self, url: str) -> dict[str, Any]:
        """Returns the facts of a study, read by another process, since this one must stay without threads."""
        out = self._urls()[2]
        self._done(victims.fork(lambda: _write(out, facts(url))), "facts")
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    def _urls(self) -> tuple[str, str, Path]:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        return f"sqlite:///{folder}/one.db", f"sqlite:///{folder}/two.db", folder / "facts.json"

    def _done(self, child: int, what: str) -> None:
        code = victims.wait(child)
        if code != 0:
            raise RuntimeError(f"{what} ended with {code}")


def _count(study: SmallStudy, url: str, out: Path) -> None:
    counters = {}
    for group, places in victims.POINTS.items():
        for name, install in places.items():
            counter = counters[f"{group}: {name}"] = victims.Counter()
            install(counter)
    study.run(url, 0.0)
    _write(out, {name: counter.calls for name, counter in counters.items()})


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def _resume(url: str) -> list[str]:
    return [sys.executable, "-m", "dynamoe_search", "resume", NAME, "--storage", url, "--quiet"]


def _num_workers(url: str) -> int:
    path = url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM dynamoe_workers").fetchone()[0])


def differences(one: Any, two: Any, path: str = "") -> list[str]:
    """Returns where two pieces of JSON differ."""
    if isinstance(one, dict) and isinstance(two, dict):
        keys = sorted(one.keys() | two.keys())
        return [d for key in keys for d in differences(one.get(key), two.get(key), f"{path}.{key}")]
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        pairs = enumerate(zip(one, two, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{path}[{i}]")]
    return [] if one == two else [f"{path[1:]} is {two}, not {one}"]


def all_places() -> list[Place]:
    """Returns every place once, the groups in turn."""
    columns = [[(group, name) for name in places] for group, places in victims.POINTS.items()]
    columns += [[(RANDOM, "")], [(COMMAND, "")]]
    longest = max(map(len, columns))
    return [column[row] for row in range(longest) for column in columns if row < len(column)]


class Deck:
    """Deals places so that every group gets its share.

    Args:
        tally: Of the kills so far.
        seed: Of the order.
        commands: Whether the real command is among them.
    """

    def __init__(self, tally: Tally, seed: int, *, commands: bool = True) -> None:
        self._commands = commands
        self._tally, self._random = tally, random.Random(seed)  # noqa: S311 - not a secret

    def deal(self, number: int, calls: dict[str, int]) -> list[Place]:
        """Returns places that a study comes by, those that were least used, in any order."""
        fitting = [
            place
            for place in all_places()
            if place[0] == RANDOM
            or (place[0] == COMMAND and self._commands)
            or calls.get(": ".join(place), 0)
        ]
        self._random.shuffle(fitting)
        groups = Counter[str]()
        for (group, _), kills in self._tally.kills.items():
            groups[group] += kills * (4 if group == COMMAND else 1)  # slow, so more rarely
        chosen: list[Place] = []
        for _ in range(number):
            best = min(fitting, key=lambda place: (groups[place[0]], self._tally.kills[place]))
            fitting.remove(best)
            groups[best[0]] += 1
            chosen.append(best)
        self._random.shuffle(chosen)
        return sorted(chosen, key=lambda place: place[1] != victims.AT_FIRST)


def rounds(bench: Bench, options: argparse.Namespace) -> Iterator[str]:
    """Interrupts study after study until all goals are reached; yields a line about each."""
    deck = Deck(bench.tally, options.seed, commands=options.commands)
    studies = [quick_study()] if options.quick_study else small_studies()
    number = 0
    while not _is_enough(bench.tally, options):
        study = studies[number % len(studies)]
        places = deck.deal(options.per_study, bench.reference(study).calls)
        killed = bench.interrupt(study, places, command=options.commands and number % 8 == 7)
        number += 1
        total = bench.tally.kills.total()
        problems = counted(len(bench.tally.problems), "problem")
        yield f"{number}: {study.title}: killed {counted(killed, 'time')}; {total} in all; {problems}"


def _is_enough(tally: Tally, options: argparse.Namespace) -> bool:
    groups = Counter[str]()
    for (group, _), kills in tally.kills.items():
        groups[group] += kills
    return (
        tally.kills.total() >= options.kills
        and tally.studies.total() >= options.studies
        and all(groups[group] >= options.each for group in (*victims.POINTS, RANDOM))
    )


def report(tally: Tally, seconds: float) -> str:
    """Returns the result file."""
    command = " ".join(["python -m benchmarks.faults.kills", *sys.argv[1:]])
    conditions = (
        f"Command: `{command}`. {platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, torch {torch.__version__}, SQLite {sqlite3.sqlite_version}; "
        f"{seconds / 60:.0f} minutes beside other work."
    )
    found = (
        f"**{tally.kills.total()} kills of {tally.studies.total()} studies, "
        f"{counted(len(tally.problems), 'problem')}.** After every kill: `PRAGMA integrity_check` is ok, and no "
        "trial that was over is gone or changed, in our tables and in Optuna's. At the end: "
        "candidates, values, reports, decisions, legs, front, Optuna's trials, weights and files "
        "equal those of the same study without a kill; no zombie; no epoch, trial or design twice. "
        f"The last run of {tally.num_commands} studies was the real command."
    )
    lines = [
        "# SIGKILL at any moment",
        "",
        conditions,
        "",
        found,
        "",
        "| killed | where | kills |",
        "|---|---|--:|",
    ]
    rows = [*victims.POINTS.items(), (RANDOM, {"": None}), (COMMAND, {"": None})]
    for group, places in rows:
        total = sum(tally.kills[group, name] for name in places)
        lines.append(f"| **{group}** | | **{total}** |")
        if len(places) > 1:
            lines += [f"| | {name} | {tally.kills[group, name]} |" for name in places]
    lines += ["", "| study | interrupted |", "|---|--:|"]
    lines += [f"| {title} | {number} |" for title, number in tally.studies.items()]
    if tally.problems:
        lines += ["", "## Problems", "", *(f"- {one}" for one in tally.problems)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs it and prints a table; exit code 1 if something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--each", type=int, default=10, help="kills at each point, at least")
    parser.add_argument("--per-study", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick-study", action="store_true", help="always a very small one")
    parser.add_argument("--commands", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    first = quick_study() if options.quick_study else small_studies()[0]
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/first.db"
        victims.import_what_is_needed(lambda: first.run(url))
        bench = Bench(Path(folder), options.seed)
        for line in rounds(bench, options):
            print(line, file=sys.stderr, flush=True)
            for problem in bench.tally.problems:
                print(f"  {problem[:2000]}", file=sys.stderr, flush=True)
    print(report(bench.tally, time.monotonic() - began), end="")
    sys.exit(1 if bench.tally.problems else 0)


if __name__ == "__main__":
    main()
