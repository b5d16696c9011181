"""How long until a search has found what a plain Optuna script finds: the script of tutorials against this program.

    python -m benchmarks.speed.whole_study --out benchmarks/speed/results/whole-study_2-cores.md

Same space, trials, epochs, data, objectives and number of threads; each with its own sampler's default settings, TPE in
both. The clock of the script is that of its trials; ours runs from the creation of the study to the end, sampling,
pruning and the database included. Time counts until the hypervolume of the front of completed trials reaches 99 % of
the script's final one. Both go on where they were stopped, so `--minutes` cuts the whole into pieces.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.pages import tell
from benchmarks.speed import plain_optuna
from benchmarks.speed.machine import conditions, run_as_users_do
from dynamoe_search.data import ImageData, load_data
from dynamoe_search.errors import UsageError
from dynamoe_search.pareto import dominated_share
from dynamoe_search.search import CandidateFinished, Limits, create_study, run_study
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store

Timeline = list[tuple[float, float, float]]
"""Seconds, accuracy and activated parameters of every completed trial, in the order of time."""


def space(options: argparse.Namespace) -> StudySpec:
    """Returns the study; `plain_optuna.objective` has the same space."""
    return StudySpec.model_validate(
        {
            "study": {
                "name": f"whole-{options.seed}",
                "trials": options.trials,
                "seed": options.seed,
            },
            "data": {
                "name": options.data,
                "max_train": options.max_train,
                "validation_fraction": options.validation_fraction,
            },
            "model": {
                "d_model": options.width,
                "d_expert": options.width,
                "num_layers": options.layers,
            },
            "schedule": {
                "shape": list(plain_optuna.SHAPES),
                "min_experts": 1,
                "max_experts": {"low": 2, "high": 12},
            },
            "router": {"kind": "top-k", "k": [1, 2, 4], "softmax": "after"},
            "losses": {"load_balance": {"low": 1e-3, "high": 0.1, "log": True}},
            "train": {
                "epochs": options.epochs,
                "batch_size": options.batch,
                "learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
            },
            "search": {"cohort_size": options.cohort},
        }
    )


def plainly(options: argparse.Namespace, data: ImageData, until: float) -> Timeline:
    """Runs the script, or goes on with it."""
    study = plain_optuna.run(
        f"sqlite:///{options.folder}/plain-{options.seed}.db",
        data,
        trials=options.trials,
        until=until,
        seed=options.seed,
        width=options.width,
        num_layers=options.layers,
        epochs=options.epochs,
        batch=options.batch,
    )
    seconds, timeline = 0.0, []
    for trial in study.trials:
        if trial.values is not None and trial.duration is not None:
            seconds += trial.duration.total_seconds()
            timeline.append((seconds, trial.values[0], trial.values[1]))
    return timeline


def ours(options: argparse.Namespace, spec: StudySpec, until: float) -> tuple[Timeline, bool]:
    """Runs the study, or goes on with it; returns whether it is finished."""
    kept = options.folder / f"ours-{options.seed}.json"
    state: dict[str, Any] = {"seconds": 0.0, "timeline": [], "finished": False}
    if kept.exists():
        state = json.loads(kept.read_text())
    if not state["finished"] and time.monotonic() < until:
        begin = time.perf_counter() - state["seconds"]

        def on_event(event: object) -> None:
            if isinstance(event, CandidateFinished) and event.record.values:
                seconds = time.perf_counter() - begin
                own = event.record.values
                state["timeline"].append((seconds, own["accuracy"], own["activated_params"]))

        with Store.open(f"sqlite:///{options.folder}/ours-{options.seed}.db") as store:
            with suppress(UsageError):  # it was begun in an earlier piece
                create_study(store, spec, source="benchmark", num_threads=options.threads)
            limits = Limits(timeout_seconds=max(1.0, until - time.monotonic()))
            summary = run_study(store, spec.study.name, limits=limits, on_event=on_event)
        state |= {
            "seconds": time.perf_counter() - begin,
            "finished": summary.state == "finished",
            "epochs": summary.epochs,
        }
        kept.write_text(json.dumps(state))
    return [tuple(row) for row in state["timeline"]], bool(state["finished"])


def reached(timeline: Timeline, reference: Sequence[float], goal: float) -> float | None:
    """Returns when the front of the trials so far had this hypervolume."""
    for number, (seconds, *_) in enumerate(timeline, 1):
        if share(timeline[:number], reference) >= goal:
            return seconds
    return None


def share(timeline: Timeline, reference: Sequence[float]) -> float:
    """Returns the share of the box up to the reference point that the trials dominate."""
    points = [list(row[1:]) for row in timeline]
    return dominated_share(points, [True, False], list(reference)) if points else 0.0


def went_into(options: argparse.Namespace, spec: StudySpec) -> str:
    """Returns how much was trained and where our time went, in words."""
    with Store.open(f"sqlite:///{options.folder}/ours-{options.seed}.db") as store:
        epochs = sum(one.epochs for one in store.candidates(spec.study.name))
        times = store.times(spec.study.name)
    everything = sum(times.values())
    busy = times["train"] + times["evaluate"]
    seconds = ", ".join(f"{name} {own:.1f}" for name, own in times.items())
    return (
        f"Ours trained {epochs:,} of {options.trials * options.epochs:,} epochs. Its seconds: {seconds}. Training and "
        f"evaluation waited for the rest for {(everything - busy) / everything:.1%} of the time."
    )


def report(options: argparse.Namespace, plain: Timeline, packed: Timeline, went_into: str) -> str:
    """Returns the page of the results."""
    largest = max(row[2] for row in (*plain, *packed))
    reference = (0.1, largest)
    final = share(plain, reference)
    goal = 0.99 * final
    rows = []
    for name, own in (("plain Optuna script", plain), ("dynamoe_search", packed)):
        when = reached(own, reference, goal)
        rows.append((name, len(own), own[-1][0], share(own, reference), when))
    lines = [
        "# Wall time of a whole search against a plain Optuna script",
        "",
        conditions("benchmarks.speed.whole_study", "cuda" if torch.cuda.is_available() else "cpu"),
        _words(options, largest),
        "",
        "| search | trials complete | last one after, s | hypervolume | 99 % of the script's after, s |",
        "| :-- | --: | --: | --: | --: |",
        *(
            f"| {name} | {count} | {end:.1f} | {value:.4f} | {'never' if when is None else f'{when:.1f}'} |"
            for name, count, end, value, when in rows
        ),
        "",
    ]
    first, second = rows[0][2], rows[1][4]
    if second is not None:
        lines.append(f"The script's whole time against ours to 99 % of it: {first / second:.1f}x.")
        script = rows[0][4]
        if script is not None:
            lines.append(f"Both to 99 %: {script / second:.1f}x.")
    lines += ["", went_into]
    return "\n".join(lines) + "\n"


def _words(options: argparse.Namespace, largest: float) -> str:
    return (
        f"{options.trials} trials of at most {options.epochs} epochs on {options.max_train} examples of "
        f"{options.data}, batch {options.batch}, {options.layers} layers of width {options.width}, seed "
        f"{options.seed}. Hypervolume of validation accuracy against activated parameters, as a share of the box "
        f"from accuracy 0.1 and {largest:,.0f} parameters."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/whole_study"))
    parser.add_argument(
        "--minutes", type=float, default=4.5, help="after which it stops, to go on later"
    )
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--max-train", type=int, default=4096)
    parser.add_argument("--validation-fraction", type=float, default=1 / 30)
    parser.add_argument("--trials", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--cohort", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Runs both, piece by piece, and writes the page when both are finished."""
    run_as_users_do("benchmarks.speed.whole_study")
    options = _options()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    until = time.monotonic() + 60 * options.minutes
    spec = space(options)
    data = load_data(spec.data)
    packed, is_finished = ours(options, spec, until)
    plain = plainly(options, data, until)
    if not is_finished or len(plain) < options.trials:
        sys.stdout.write(
            f"{len(packed)} and {len(plain)} of {options.trials} trials so far; run it again to go on\n"
        )
        return
    tell(report(options, plain, packed, went_into(options, spec)), options.out)


if __name__ == "__main__":
    main()
