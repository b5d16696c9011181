"""What does the search cost beside the training, as a study grows? Seconds per trial with 100, 1,000 and 10,000 stored.

    python -m benchmarks.speed.overhead --out benchmarks/speed/results/overhead_2-cores.md

The real loop on a real SQLite file, with TPE and the space of the preset fashion-mnist; only the training is left out:
every candidate gets made-up learning curves at once. A study begins with 100 random designs, which are copied under new
numbers until there are enough. A run then goes on with cohorts of 16: its first one, for which it reads the whole
study, and the next ones, by its stopwatch and with every database statement counted, ours and Optuna's. Beside that
stands what Optuna's sampler takes by itself: the same TPE, told of the same trials, asked in memory for designs.
"""

import argparse
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
import torch

from benchmarks.pages import tell
from benchmarks.speed.filling import multiply
from benchmarks.speed.machine import conditions
from dynamoe_search.presets import read_study
from dynamoe_search.records import Candidate, Outcome, Progress
from dynamoe_search.search import (
    Event,
    LegFinished,
    Limits,
    create_study,
    estimate,
    legs,
    run_study,
)
from dynamoe_search.search.space import suggest
from dynamoe_search.seeding import derive_seed
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from dynamoe_search.training import Trained

NAME, FIRST, COHORT, LARGE = "overhead", 100, 16, 1024
OUTSIDE = ("sample", "prune", "store")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Seconds per trial at one size of the study.

    Attributes:
        trials: How many are stored.
        seconds: By activity, in cohorts after the run's first one.
        statements: Of the database per trial, likewise.
        start: Seconds of the run until the end of its first cohort, which includes reading the study.
        sampler: Of Optuna's own TPE.
    """

    trials: int
    seconds: dict[str, float]
    statements: float
    start: float
    sampler: float

    @property
    def outside(self) -> float:
        """All that is not training."""
        return sum(self.seconds[name] for name in OUTSIDE)


def spec_of() -> StudySpec:
    """The preset's space, on small data."""
    spec = read_study("fashion-mnist", ()).spec
    return StudySpec.model_validate(
        spec.model_dump(mode="json")
        | {
            "study": {"name": NAME, "trials": 100_000},
            "data": {"name": "digits", "max_train": 64},
            "search": {
                "cohort_size": LARGE,
                "startup_trials": FIRST // 2,
                "pruner": {"kind": "none"},
            },
        }
    )


def made_up(pack: Sequence[Candidate], **options: Any) -> list[Trained]:
    """Stands in for the trainer: learning curves from the design, at once."""
    epochs: int = options["until"]
    reports: list[Progress] = []
    for epoch in range(1, epochs + 1):
        reports = [_report(one, epoch) for one in pack]
        options["on_progress"](reports)
    return [
        Trained(
            outcome=Outcome(
                ordinal=one.ordinal,
                status="complete",
                epochs=epochs,
                seconds=0.0,
                metrics={
                    "accuracy": report.accuracy,
                    "activated_params": report.activated_params,
                    "validation_loss": report.validation_loss,
                },
            ),
            state={"weight": torch.zeros(64, 64)},
        )
        for one, report in zip(pack, reports, strict=True)
    ]


def _report(one: Candidate, epoch: int) -> Progress:
    luck = derive_seed(one.study_seed, one.ordinal, "luck") % 1000 / 1000
    size = float(one.model.d_model * sum(one.experts_per_layer) * (1 + luck))
    error = 0.1 + 0.5 / epoch + 2.0 / size + 0.05 * luck
    return Progress(
        ordinal=one.ordinal,
        epoch=epoch,
        train_loss=error,
        validation_loss=error,
        accuracy=1 - error,
        activated_params=size,
        mean_k_per_layer=tuple(1.0 for _ in one.experts_per_layer),
        experts_per_layer=one.experts_per_layer,
        seconds=0.0,
    )


def _set_cohort(path: Path, size: int) -> None:
    with sqlite3.connect(path) as connection:
        query = "SELECT settings_json FROM dynamoe_studies"
        settings = json.loads(connection.execute(query).fetchone()[0])
        text = json.dumps(settings | {"cohort_size": size})
        connection.execute("UPDATE dynamoe_studies SET settings_json = ?", (text,))
    connection.close()


class _Laps:
    """What a run took and asked of the database by the end of every cohort."""

    def __init__(self, store: Store) -> None:
        self._store, self._begin = store, time.perf_counter()
        self.marks: list[tuple[float, int, dict[str, float]]] = []
        self._statements = self._trials = 0
        sa.event.listen(sa.Engine, "before_cursor_execute", self._count)

    def _count(self, *_: Any) -> None:
        self._statements += 1

    def on_event(self, event: Event) -> None:
        if not isinstance(event, LegFinished):
            return
        self._trials += len(event.leg.trials)
        if self._trials % COHORT == 0:  # a cohort may be several legs
            seconds = time.perf_counter() - self._begin
            number = self._statements
            self.marks.append((seconds, number, self._store.times(NAME)))
            self._statements = number  # those of `times` are not the run's

    def end(self) -> None:
        sa.event.remove(sa.Engine, "before_cursor_execute", self._count)


def measure(folder: Path, trials: int, cohorts: int) -> Cost:
    """Fills a study and times the cohorts that come next."""
    path = folder / f"{trials}.db"
    spec = spec_of()
    with Store.open(f"sqlite:///{path}") as store:
        create_study(store, spec, source="benchmark", device="cpu", num_threads=1)
        run_study(store, NAME, limits=Limits(trials=min(trials, FIRST)))
    multiply(path, trials)
    _set_cohort(path, COHORT)
    number = COHORT * (cohorts + 1)
    with Store.open(f"sqlite:///{path}") as store:
        laps = _Laps(store)
        run_study(store, NAME, limits=Limits(trials=trials + number), on_event=laps.on_event)
        laps.end()
        known = optuna.load_study(study_name=NAME, storage=store.storage_for_optuna()).trials
    (start, before, first), (_, after, last) = laps.marks[0], laps.marks[-1]
    timed = COHORT * (len(laps.marks) - 1)
    return Cost(
        trials=trials,
        seconds={name: (last[name] - first[name]) / timed for name in OUTSIDE},
        statements=(after - before) / timed,
        start=start,
        sampler=_sampler_alone(spec, known),
    )


def _sampler_alone(spec: StudySpec, known: list[optuna.trial.FrozenTrial]) -> float:
    """Returns the median time of one design, from Optuna's TPE in memory that knows these trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(
        n_startup_trials=1, multivariate=True, group=True, constant_liar=True, seed=0
    )
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.add_trials([one for one in known if one.state == optuna.trial.TrialState.COMPLETE])
    laps = []
    for _ in range(4):
        begin = time.perf_counter()
        suggest(study.ask(), spec)
        laps.append(time.perf_counter() - begin)
    return statistics.median(laps[1:])


def report(costs: Sequence[Cost], training: Mapping[str, float]) -> str:
    """Returns the page of the results.

    Args:
        costs: One for each size of the study.
        training: Seconds per trial of presets.
    """
    said = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in training.items())
    shares = [f"of training {name}" for name in training]
    names = ["trials stored", *OUTSIDE, "outside training", *shares]
    names += ["Optuna's TPE alone", "statements per trial", "first cohort, s"]
    lines = [
        "# What the search costs beside the training, as a study grows",
        "",
        conditions("benchmarks.speed.overhead", "cpu"),
        "Milliseconds per trial, in cohorts of 16 after the first of a run.",
        f"Training takes, per trial and as `check` measures it here with all epochs: {said}.",
        "",
        f"| {' | '.join(names)} |",
        f"|{' --: |' * len(names)}",
    ]
    for cost in costs:
        row = [f"{cost.trials:,}"]
        row += [f"{1e3 * cost.seconds[name]:.1f}" for name in OUTSIDE]
        row += [f"{1e3 * cost.outside:.1f}"]
        row += [f"{cost.outside / seconds:.1%}" for seconds in training.values()]
        row += [f"{1e3 * cost.sampler:.1f}", f"{cost.statements:.0f}", f"{cost.start:.1f}"]
        lines.append(f"| {' | '.join(row)} |")
    first, last = costs[0], costs[-1]
    growth = (
        f"From {first.trials:,} to {last.trials:,} trials: {last.outside / first.outside:.1f} times as long per trial, "
        f"Optuna's sampler alone {last.sampler / first.sampler:.1f} times."
    )
    lines += ["", growth]
    return "\n".join(lines) + "\n"


def _training(preset: str) -> float:
    """Returns measured seconds per trial of a preset, trained to the end."""
    expected = estimate(read_study(preset, ()).spec, measure=True)
    return (expected.seconds or 0.0) / expected.trials


def main() -> None:
    """Measures and writes a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--cohorts", type=int, default=2)
    parser.add_argument("--presets", nargs="+", default=["fashion-mnist", "digits"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    training = {preset: _training(preset) for preset in options.presets}
    legs.train_leg = made_up  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        costs = [measure(Path(folder), trials, options.cohorts) for trials in options.trials]
    tell(report(costs, training), options.out)


if __name__ == "__main__":
    main()
