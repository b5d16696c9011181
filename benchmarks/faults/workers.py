"""Many processes on one SQLite file: no error, every trial exactly once; trials per second, beside plain Optuna.

    python -m benchmarks.faults.workers > benchmarks/faults/results/workers_2-cores.md

One database file, one run: our study with real training of a very small model; our study with training left out; plain
Optuna's `study.optimize` with its defaults (TPE), with the same training as its objective and with none. Workers are
forked from one process that has only imported, begin together, and end when all trials are done.
"""

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
import torch

from benchmarks.faults import victims
from benchmarks.faults.small_studies import (
    NAME,
    SmallStudy,
    by_ordinal,
    done_twice,
    facts,
    shared_study,
    spec_with,
)
from dynamoe_search.data import load_data
from dynamoe_search.records import Candidate, Outcome, Progress
from dynamoe_search.search import legs, run_study
from dynamoe_search.search.designs import candidate_from
from dynamoe_search.search.space import Space, suggest
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from dynamoe_search.training import Trained, TrainSettings, train_leg
from dynamoe_search.wording import counted


@dataclass(kw_only=True, slots=True)
class Shared:
    """What many processes made of one study.

    Attributes:
        title: What they did.
        seconds: From their common start to the end of the last.
        cpu_seconds: Of all of them together.
        trials: That are complete.
        errors: What ended processes before their time.
        problems: What is wrong with the study.
    """

    title: str
    seconds: float
    cpu_seconds: float
    trials: int
    errors: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def tiny_study(trials: int) -> SmallStudy:
    """One layer of width 4, 64 examples, one epoch."""
    spec = spec_with(
        study={"name": NAME, "trials": trials, "references": []},
        data={"name": "digits", "max_train": 64},
        model={"d_model": 4, "num_layers": 1, "d_expert": 4, "dropout": 0.0},
        adaptive={"enabled": False},
        train={
            "learning_rate": {"low": 3e-4, "high": 3e-2, "log": True},
            "epochs": 1,
            "batch_size": 64,
        },
        search={"cohort_size": 4, "startup_trials": 10, "sampler": "tpe"},
    )
    return SmallStudy(title="tiny", spec=spec)


def together(num: int, act: Callable[[], None], folder: Path) -> tuple[float, float, list[str]]:
    """Has so many processes do the same, beginning at one moment.

    Args:
        num: How many.
        act: What each does.
        folder: For what they write to stderr.

    Returns:
        Seconds until the last had ended, CPU seconds of all, and the last line of what each failed one said.
    """
    start = time.monotonic() + 1.0

    def begin() -> None:
        with (folder / f"{os.getpid()}.err").open("w") as file:
            os.dup2(file.fileno(), 2)
        time.sleep(max(0.0, start - time.monotonic()))
        act()

    children = [victims.fork(begin) for _ in range(num)]
    errors, cpu_seconds = [], 0.0
    for child in children:
        _, status, used = os.wait4(child, 0)
        cpu_seconds += used.ru_utime + used.ru_stime
        if code := os.waitstatus_to_exitcode(status):
            lines = (folder / f"{child}.err").read_text().strip().splitlines()
            errors.append(lines[-1] if lines else f"exit code {code}")
    return time.monotonic() - start, cpu_seconds, errors


def ours(url: str, study: SmallStudy, num: int, folder: Path, *, trains: bool) -> Shared:
    """Runs a study of ours with so many workers.

    Args:
        url: The database.
        study: Which; it is made first.
        num: How many workers.
        folder: For their stderr.
        trains: Whether they train, or make numbers up.
    """

    def work() -> None:
        if not trains:
            legs.train_leg = _made_up  # type: ignore[assignment]
        with Store.open(url, create=False) as store:
            run_study(store, study.spec.study.name)

    victims.wait(victims.fork(lambda: study.create(url)))
    seconds, cpu_seconds, errors = together(num, work, folder)
    title = "this program" if trains else "this program, training left out"
    out = folder / "facts.json"
    name = study.spec.study.name
    victims.wait(victims.fork(lambda: _write(out, facts(url, name))))
    found = json.loads(out.read_text())
    complete = [one for one in found["candidates"] if one["status"] == "complete"]
    problems = done_twice(found)
    if found["zombies"] or found["late tells"]:
        problems.append(f"zombies {found['zombies']}, late tells {found['late tells']}")
    members = Counter(trial for leg in found["legs"] for trial in leg["trials"])
    expected = dict.fromkeys(range(study.spec.study.trials), 1)
    if dict(members) != expected:
        problems.append(f"legs have the trials {sorted(members.items())}")
    if Counter(one["state"] for one in found["optuna"]) != {"COMPLETE": len(expected)}:
        problems.append("Optuna has trials that are not complete")
    return Shared(
        title=title,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        trials=len(complete),
        errors=errors,
        problems=problems,
    )


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def _made_up(pack: Sequence[Candidate], **options: Any) -> list[Trained]:
    """Stands in for the trainer: numbers from the design, at once."""
    reports, results = [], []
    for one in pack:
        error, size = _values(one)
        metrics = {"accuracy": 1 - error, "activated_params": size, "validation_loss": error}
        report = Progress(
            ordinal=one.ordinal,
            epoch=1,
            train_loss=error,
            validation_loss=error,
            accuracy=1 - error,
            activated_params=size,
            mean_k_per_layer=(1.0,),
            experts_per_layer=one.experts_per_layer,
            seconds=0.0,
        )
        reports.append(report)
        outcome = Outcome(
            ordinal=one.ordinal, status="complete", epochs=1, seconds=0.0, metrics=metrics
        )
        results.append(Trained(outcome=outcome, reports=(report,)))
    options["on_progress"](reports)
    return results


def _values(candidate: Candidate) -> tuple[float, float]:
    """Returns made-up values of a design."""
    return candidate.train.learning_rate, float(sum(candidate.experts_per_layer))


def plain_optuna(
    url: str, name: str, spec: StudySpec, num: int, folder: Path, *, trains: bool
) -> Shared:
    """Has so many processes call `study.optimize` with Optuna's defaults, for at least as many trials.

    Args:
        url: The database.
        name: Of the study in it.
        spec: The space, and what is trained.
        num: How many processes.
        folder: For their stderr.
        trains: Whether the objective trains a candidate, or makes numbers up.
    """
    share = -(-spec.study.trials // num)
    space = Space(spec)

    def work() -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        torch.set_num_threads(1)
        data = load_data(spec.data)
        settings = TrainSettings(num_slots=space.num_slots, num_threads=1)

        def objective(trial: optuna.Trial) -> tuple[float, float]:
            candidate = candidate_from(suggest(trial, spec), spec, trial.number)
            if not trains:
                return _values(candidate)
            trained = train_leg([candidate], data, settings, until=1)[0]
            assert trained.outcome is not None
            metrics = trained.outcome.metrics
            return metrics["accuracy"], metrics["activated_params"]

        study = optuna.load_study(study_name=name, storage=url)
        study.optimize(objective, n_trials=share)

    def create() -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        directions = ["maximize" if trains else "minimize", "minimize"]
        optuna.create_study(study_name=name, storage=url, directions=directions)

    victims.wait(victims.fork(create))
    seconds, cpu_seconds, errors = together(num, work, folder)
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        (complete,) = connection.execute(
            "SELECT count(*) FROM trials JOIN studies USING (study_id) "
            "WHERE study_name = ? AND state = 'COMPLETE'",
            (name,),
        ).fetchone()
    connection.close()
    title = "plain Optuna, the same training" if trains else "plain Optuna, a trivial objective"
    return Shared(
        title=title, seconds=seconds, cpu_seconds=cpu_seconds, trials=complete, errors=errors
    )


def same_numbers(folder: Path, num: int) -> list[str]:
    """Returns where candidates of a study that several workers share differ from those of one worker.

    Designs are drawn at random by their ordinal, so that both studies have the same.

    Args:
        folder: For databases.
        num: How many workers.
    """
    study, found = shared_study(), []
    for workers in (1, num):
        url = f"sqlite:///{folder / f'{workers}.db'}"
        shared = ours(url, study, workers, folder, trains=True)
        out = folder / "facts.json"
        found.append(by_ordinal(json.loads(out.read_text())))
        if shared.errors or shared.problems:
            return shared.errors + shared.problems
    one, several = found
    return [
        f"candidate {ordinal} differs"
        for ordinal in sorted(one.keys() | several.keys())
        if one.get(ordinal) != several.get(ordinal)
    ]


def report(rows: Sequence[Shared], num: int, differing: Sequence[str]) -> str:
    """Returns the result file."""
    command = " ".join(["python -m benchmarks.faults.workers", *sys.argv[1:]])
    conditions = (
        f"Command: `{command}`. {platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, torch {torch.__version__}, Optuna {optuna.__version__}, "
        f"SQLite {sqlite3.sqlite_version}."
    )
    lines = [
        f"# {num} processes on one SQLite file",
        "",
        conditions,
        "",
        "| what | trials complete | seconds | trials per second | CPU seconds per trial | processes that failed |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        rate = row.trials / row.seconds
        lines.append(
            f"| {row.title} | {row.trials} | {row.seconds:.1f} | {rate:.2f} "
            f"| {row.cpu_seconds / max(1, row.trials):.2f} | {len(row.errors)} |"
        )
    problems = [one for row in rows for one in row.problems]
    lines += [
        "",
        "Of this program's trials, each is there exactly once, in one leg, told to Optuna, and none is a zombie."
        if not problems
        else f"Problems: {problems}",
        "",
        "Four workers give every candidate the numbers of one worker, bit for bit."
        if not differing
        else f"Four workers differ from one: {list(differing)}",
    ]
    said = Counter(f"{row.title}: {error}" for row in rows for error in row.errors)
    lines += [f"- {counted(number, 'time')}: {error}" for error, number in said.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs everything and prints a table; exit code 1 if this program's studies have a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--optuna", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    study = tiny_study(options.trials)
    num = options.workers
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = replace(study, spec=tiny_study(8).spec)
        victims.import_what_is_needed(lambda: first.run(f"sqlite:///{folder / 'first.db'}"))
        url = f"sqlite:///{folder / 'shared.db'}"
        for trains in (True, False):
            section = study.spec.study.model_copy(update={"name": f"trains-{trains}"})
            own = replace(study, spec=study.spec.model_copy(update={"study": section}))
            rows.append(ours(url, own, num, folder, trains=trains))
            print(rows[-1], file=sys.stderr, flush=True)
            if options.optuna:
                title = f"optuna-{trains}"
                rows.append(plain_optuna(url, title, study.spec, num, folder, trains=trains))
                print(rows[-1], file=sys.stderr, flush=True)
        differing = same_numbers(folder, 4)
    print(report(rows, num, differing), end="")
    is_wrong = any(row.errors or row.problems for row in rows if "this program" in row.title)
    sys.exit(1 if is_wrong or differing else 0)


if __name__ == "__main__":
    main()
