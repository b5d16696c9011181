"""The page of `benchmarks.cluster.load`: what was measured, as tables."""

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
import torch

from benchmarks.cluster.observing import Observed


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What every case has in common; times in seconds.

    Attributes:
        cohort: Candidates of a cohort.
        sampler: Of the study.
        epoch: How long an epoch takes.
        ramp: In which the workers are started.
        patience: How long everybody's first leg is waited for after that.
        window: How long is measured.
    """

    cohort: int
    sampler: str
    epoch: float
    ramp: float
    patience: float
    window: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """So many workers on one database, and what was measured.

    Attributes:
        backend: `PostgreSQL` or `SQLite`.
        workers: How many.
        window: Seconds that were measured.
        times: Seconds of every call of all workers.
        locked: Likewise, of those with the planning lock held.
        counts: Sums over all workers.
        observed: By the machine and the server.
        errors: What ended workers before their time, and what was done twice.
    """

    backend: str
    workers: int
    window: float
    times: Mapping[str, Sequence[float]]
    locked: Mapping[str, Sequence[float]]
    counts: Mapping[str, float]
    observed: Observed
    errors: Sequence[str]

    def rate(self, name: str) -> float:
        """Returns how many there were in a second."""
        return self.counts.get(name, 0) / self.window

    @property
    def efficiency(self) -> float:
        """Share of the workers' time that was training."""
        return self.counts.get("seconds in training", 0.0) / self.window / self.workers

    @property
    def held(self) -> float:
        """Share of the time in which somebody held the planning lock."""
        return sum(self.times.get("hold the lock", ())) / self.window


def report(cases: Sequence[Case], plan: Plan) -> str:
    """Returns the page of the results."""
    command = " ".join(["python -m benchmarks.cluster.load", *sys.argv[1:]])
    epochs = [plan.epoch * number for number in (1, 2, 6)]
    legs = f"{epochs[0]:g}, {epochs[1]:g} and {epochs[2]:g}"
    versions = (
        f"Command: `{command}`. {platform.machine()}, {os.cpu_count()} CPU cores, Python "
        f"{platform.python_version()}, torch {torch.__version__}, Optuna {optuna.__version__}."
    )
    setting = (
        f"Cohorts of {plan.cohort}, sampler {plan.sampler}, legs of {legs} s (rungs after epochs one and three of nine)"
        f"; measured for {plan.window:g} s once all had begun."
    )
    lines = ["# How many workers one database carries", "", versions, setting, ""]
    lines += [*_rates(cases), "", *_latencies(cases), "", *_locks(cases), "", *_limits(cases), ""]
    lines += [*_statements(cases), "", *_errors(cases)]
    return "\n".join(lines).rstrip() + "\n"


def _rates(cases: Sequence[Case]) -> list[str]:
    lines = [
        "Efficiency is the share of the workers' time that is training: linear growth is 100 %.",
        "",
        "| database | workers | trials ended per second | legs per second | efficiency | errors |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    return lines + [
        f"| {one.backend} | {one.workers} | {one.rate('trials'):.2f} | {one.rate('legs'):.2f} "
        f"| {one.efficiency:.0%} | {len(one.errors)} |"
        for one in cases
    ]


def _latencies(cases: Sequence[Case]) -> list[str]:
    names = ("ask", "report", "tell", "front", "tidy up", "shall I stop")
    lines = [
        "Milliseconds, median / 95th percentile; ask: planning a leg, with the wait for the lock.",
        "",
        "| database | workers | " + " | ".join(names) + " |",
        "|---|--:|" + "--:|" * len(names),
    ]
    for one in cases:
        cells = " | ".join(_percentiles(one.times.get(name, ())) for name in names)
        lines.append(f"| {one.backend} | {one.workers} | {cells} |")
    return lines


def _percentiles(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    middle, high = np.percentile(seconds, [50, 95])
    return f"{1e3 * middle:,.0f} / {1e3 * high:,.0f}"


def _locks(cases: Sequence[Case]) -> list[str]:
    names = (
        "own processor time",
        "read and judge",
        "read candidates",
        "draw",
        "insert",
        "open the leg",
    )
    lines = [
        (
            "The planning lock: share of the time in which it is held, waiting and holding it (ms, median / 95th "
            "percentile); of the holding, the processor time of its holder, and what it is for."
        ),
        "",
        "| database | workers | held | wait for it | hold it | " + " | ".join(names) + " |",
        "|---|--:|--:|--:|--:|" + "--:|" * len(names),
    ]
    for one in cases:
        held = sum(one.times.get("hold the lock", ())) or 1.0
        parts = " | ".join(f"{sum(one.locked.get(name, ())) / held:.0%}" for name in names)
        lines.append(
            f"| {one.backend} | {one.workers} | {one.held:.0%} "
            f"| {_percentiles(one.times.get('wait for the lock', ()))} "
            f"| {_percentiles(one.times.get('hold the lock', ()))} | {parts} |"
        )
    return lines


def _limits(cases: Sequence[Case]) -> list[str]:
    lines = [
        "Processors in use, and what the active connections of PostgreSQL did when looked at twice a second.",
        "",
        "| database | workers | workers' | database's | others' | idle | connections | what connections did |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for one in cases:
        seen, looks = one.observed, max(1, one.observed.looks)
        cores = " | ".join(
            f"{seen.cores[name]:.2f}" for name in ("workers", "database", "others", "idle")
        )
        waits = ", ".join(
            f"{number / looks:.1f} {kind} ({event})"
            for (kind, event), number in seen.waits.most_common(4)
        )
        lines.append(
            f"| {one.backend} | {one.workers} | {cores} | {seen.connections or '-'} | {waits or '-'} |"
        )
    return lines


def _statements(cases: Sequence[Case]) -> list[str]:
    lines = [
        "Statements per second (and transactions), by what they are for; per trial that ended: all together.",
        "",
        "| database | workers | per trial | per second by activity |",
        "|---|--:|--:|---|",
    ]
    for one in cases:
        found = {
            key.partition(": ")[2]: (
                value,
                one.counts.get(key.replace("statements", "transactions"), 0),
            )
            for key, value in one.counts.items()
            if key.startswith("statements: ")
        }
        total = sum(value for value, _ in found.values())
        ordered = sorted(found.items(), key=lambda item: -item[1][0])
        words = ", ".join(
            f"{name} {value / one.window:.0f} ({begun / one.window:.0f})"
            for name, (value, begun) in ordered
        )
        lines.append(
            f"| {one.backend} | {one.workers} | {total / max(1, one.counts.get('trials', 0)):.0f} | {words} |"
        )
    return lines


def _errors(cases: Sequence[Case]) -> list[str]:
    return [
        f"- {one.workers} on {one.backend}: {error}"
        for one in cases
        for error in sorted(set(one.errors))
    ]
