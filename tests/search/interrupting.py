"""Studies that are interrupted: how, and all that must be the same afterwards."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

from dynamoe_search.records import CandidateRecord, FrontMember
from dynamoe_search.search import (
    CandidateFinished,
    EpochFinished,
    Event,
    LegStarted,
    StudySummary,
    create_study,
    run_study,
)
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store

MakeSpec = Callable[..., StudySpec]
Facts = list[dict[str, Any]]

EPOCHS = 4
SECTIONS: dict[str, Any] = {
    "study": {"trials": 8, "references": ["dense", "top-2"]},
    "data": {"max_train": 128},
    "model": {"d_model": 8, "dropout": 0.1},
    "schedule": {"shape": ["uniform", "descending"], "max_experts": {"low": 2, "high": 4}},
    "router": {"kind": ["top-any", "top-p"]},
    "adaptive": {
        "enabled": True,
        "max_experts": 5,
        "period": 3,
        "record_from": 0,
        "update_at": 2,
        "new_expert": "fresh",
    },
    "train": {"learning_rate": {"low": 3e-4, "high": 3e-2, "log": True}, "epochs": EPOCHS},
}
SEARCH = {"cohort_size": 5, "startup_trials": 4, "sampler": "tpe"}
PRUNERS: dict[str, dict[str, Any]] = {
    "none": {"kind": "none"},
    "pareto": {"kind": "pareto", "min_records": 2},
    "stop": {"kind": "pareto", "min_records": 2, "pause": False},
}


class Crash(BaseException):
    """What a killed process looks like from inside."""


def spec_with(tiny_spec: MakeSpec, pruner: str) -> StudySpec:
    return tiny_spec(**SECTIONS, search=SEARCH | {"pruner": PRUNERS[pruner]})


def run(url: str, spec: StudySpec, **options: Any) -> StudySummary:
    """Creates the study if it is new, and runs it."""
    with Store.open(url) as store:
        if spec.study.name not in [record.name for record in store.studies()]:
            create_study(store, spec, source="test", device="cpu", num_threads=1)
        return run_study(store, spec.study.name, **options)


class Steps:
    """Counts training steps; asks to stop, or crashes, after so many."""

    def __init__(self, stop_after: int | None = None, crash_after: int | None = None) -> None:
        self.count = 0
        self._stop_after, self._crash_after = stop_after, crash_after
        self._is_training = False

    def on_event(self, event: Event) -> None:
        self._is_training = isinstance(event, LegStarted | EpochFinished)

    def should_stop(self) -> bool:
        self.count += self._is_training
        if self._crash_after is not None and self.count >= self._crash_after:
            raise Crash
        return self._stop_after is not None and self.count >= self._stop_after


def resume(url: str, steps: Steps | None = None) -> int:
    """Goes on with a study, with a checkpoint after every step; returns how many steps that took."""
    steps = steps or Steps()
    with Store.open(url) as store:
        run_study(
            store,
            "tiny",
            on_event=steps.on_event,
            should_stop=steps.should_stop,
            checkpoint_seconds=0,
        )
    return steps.count


def facts(url: str, name: str = "tiny") -> Facts:
    """Everything of a study that must not depend on interruptions; seconds do."""

    def of(record: CandidateRecord) -> dict[str, Any]:
        outcome = record.outcome
        assert outcome is not None
        return {
            "trial": record.trial,
            "cohort": record.cohort,
            "candidate": record.candidate,
            "params": record.params,
            "status": record.status,
            "values": record.values,
            "metrics": outcome.metrics,
            "routing": outcome.routing,
        }

    with Store.open(url) as store:
        return [of(record) for record in store.candidates(name)]


def everything(url: str) -> tuple[Facts, list[Any], tuple[FrontMember, ...]]:
    """All that must not depend on interruptions, besides weights."""
    with Store.open(url) as store:
        ends = [
            (
                one.reason,
                one.message,
                one.outcome and (one.outcome.epochs, one.outcome.expert_events),
            )
            for one in store.candidates("tiny")
        ]
        return facts(url), ends, tuple(store.front("tiny"))


_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["dynamoe_search.search"])  # which takes seconds: once is enough


def killed_after_steps(url: str, spec: StudySpec, number: int) -> None:
    """Runs a study in a process of its own, with a checkpoint after every step, and kills it after so many."""
    _die(_die_after_steps, url, spec, number)


def killed_after_trial(url: str, spec: StudySpec, number: int) -> None:
    """Runs a study in a process of its own and kills it when it tells that a trial is finished."""
    _die(_die_after_trial, url, spec, number)


def _die(
    act: Callable[[str, StudySpec, int], None], url: str, spec: StudySpec, number: int
) -> None:
    words = (act, url, spec.model_dump_json(), number, dict(os.environ))
    process = _FORKS.Process(target=_act, args=words)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _act(
    act: Callable[[str, StudySpec, int], None],
    url: str,
    spec_json: str,
    number: int,
    environment: Mapping[str, str],
) -> None:
    os.environ.clear()  # that of the process it was forked from is as old as its first use
    os.environ.update(environment)
    act(url, StudySpec.model_validate_json(spec_json), number)


def _die_after_steps(url: str, spec: StudySpec, number: int) -> None:
    steps = Steps()

    def kill() -> bool:
        steps.should_stop()
        if steps.count >= number:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    run(url, spec, on_event=steps.on_event, should_stop=kill, checkpoint_seconds=0)


def _die_after_trial(url: str, spec: StudySpec, number: int) -> None:
    def kill(event: Event) -> None:
        if isinstance(event, CandidateFinished) and event.record.trial == number:
            os.kill(os.getpid(), signal.SIGKILL)

    run(url, spec, on_event=kill)
