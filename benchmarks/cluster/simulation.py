"""A worker of the real program whose training is a pause: recorded learning curves, at a stated number of seconds.

Everything else is real: the loop, the planner, the sampler, the pruner, the database, checkpoints of a few bytes.
Functions of the program are timed by wrapping them in the worker's own memory; the program knows nothing of it.
"""

import functools
import json
import math
import mmap
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import torch

from benchmarks.pruning.curves import Curves
from dynamoe_search.records import Candidate, LayerRouting, Leg, Outcome, Progress
from dynamoe_search.search import legs, next_legs, run_study, runner
from dynamoe_search.search.limits import Stopper
from dynamoe_search.search.sampling import Proposer
from dynamoe_search.store import Store
from dynamoe_search.training import CandidateState, Interrupted, Trained
from dynamoe_search.training.states import circumstances

EVERY = 3
"""One epoch of the study stands for so many that were recorded."""
_STEP_SECONDS = 0.25  # how often a training asks whether to stop
_HEART = "signs of life"


class Clock:
    """When is measured, in memory that a process shares with those it forks; by the clock that is one for all of them.

    Args:
        workers: How many will say that they are at work.
    """

    def __init__(self, workers: int) -> None:
        self._shared = mmap.mmap(-1, 16 + workers)
        self._shared[:16] = struct.pack("dd", math.inf, math.inf)

    @property
    def times(self) -> tuple[float, float]:
        """When the measurement begins and ends; infinite until that is known."""
        begin, end = struct.unpack("dd", self._shared[:16])
        return begin, end

    def set(self, begin: float, end: float) -> None:
        """Says when the measurement begins and ends."""
        self._shared[:16] = struct.pack("dd", begin, end)

    def is_on(self) -> bool:
        """Says whether what happens now counts."""
        begin, end = self.times
        return begin <= time.monotonic() < end

    def is_over(self) -> bool:
        """Says whether the measurement has ended."""
        return time.monotonic() >= self.times[1]

    def at_work(self, worker: int) -> None:
        """Notes that a worker has its first leg."""
        self._shared[16 + worker] = 1

    @property
    def num_at_work(self) -> int:
        """How many have."""
        return self._shared[16:].count(1)


@dataclass(kw_only=True, slots=True)
class Meter:
    """What one worker did.

    Attributes:
        clock: When it counts.
        worker: Its number.
        times: Seconds of every call, by what was called.
        locked: Seconds of every call during which this worker held the planning lock.
        counts: Statements and transactions by activity, trials that ended, seconds in training.
    """

    clock: Clock
    worker: int
    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    locked: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[str] = field(default_factory=Counter)
    activity: str = "other"
    is_planning: bool = False

    def note(self, name: str, seconds: float) -> None:
        """Keeps a time."""
        if self.clock.is_on():
            (self.locked if self.is_planning else self.times)[name].append(seconds)

    def count(self, name: str, number: float = 1) -> None:
        """Adds to a count."""
        if self.clock.is_on():
            self.counts[name] += number  # type: ignore[assignment]

    def wrap(self, owner: Any, name: str, title: str, activity: str | None = None) -> None:
        """Times a function, and lets statements below it count for an activity."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            before, self.activity = self.activity, activity or self.activity
            start = time.monotonic()
            try:
                found = function(*args, **options)
            finally:
                self.activity = before
            is_vain = title == "ask" and not isinstance(found, Leg)
            self.note("ask in vain" if is_vain else title, time.monotonic() - start)
            if isinstance(found, Leg):
                self.clock.at_work(self.worker)
            return found

        setattr(owner, name, timed)

    def install(self) -> None:
        """Times this process."""
        self.wrap(next_legs.NextLegs, "next", "ask", "ask")
        self.wrap(next_legs.NextLegs, "_position", "read and judge")
        self.wrap(Proposer, "propose", "draw")
        self.wrap(Store, "add_candidates", "insert")
        self.wrap(Store, "candidates", "read candidates")
        self.wrap(Store, "open_leg", "open the leg")
        self.wrap(Store, "add_progress", "report", "report")
        self.wrap(Store, "close_leg", "tell", "tell")
        self.wrap(legs.LegTrainer, "_results", "judge and save", "judge and save")
        self.wrap(runner._Run, "_refresh_front", "front", "front")
        self.wrap(runner._Run, "_tidy_up", "tidy up", "tidy up")
        self.wrap(Stopper, "_reason_there", "shall I stop", "shall I stop")
        self._time_lock()
        sa.event.listen(sa.Engine, "before_cursor_execute", self._statement)
        sa.event.listen(sa.Engine, "begin", self._transaction)

    def _time_lock(self) -> None:
        planning = Store.planning

        @contextmanager
        def timed(*args: Any, **options: Any) -> Iterator[None]:
            asked = time.monotonic()
            with planning(*args, **options):
                got, used = time.monotonic(), time.thread_time()
                self.note("wait for the lock", got - asked)
                self.is_planning = True
                try:
                    yield
                finally:
                    self.note("own processor time", time.thread_time() - used)
                    self.is_planning = False
            self.note("hold the lock", time.monotonic() - got)

        Store.planning = timed  # type: ignore[method-assign]

    def _statement(self, *_: Any) -> None:
        self.count(f"statements: {self._doing()}")

    def _transaction(self, _: Any) -> None:
        self.count(f"transactions: {self._doing()}")

    def _doing(self) -> str:
        return "sign of life" if threading.current_thread().name == _HEART else self.activity

    def write(self, path: Path) -> None:
        """Writes everything as JSON."""
        content = {"times": self.times, "locked": self.locked, "counts": self.counts}
        path.write_text(json.dumps(content))


@dataclass(frozen=True, kw_only=True, slots=True)
class Pauses:
    """Stands in for the trainer.

    Attributes:
        curves: What is reported; a candidate has the curves of a recorded one, by its ordinal.
        epoch_seconds: How long an epoch of a leg takes, whatever its size.
        meter: Told how long was trained.
    """

    curves: Curves
    epoch_seconds: float
    meter: Meter

    def __call__(self, pack: Sequence[Candidate], **options: Any) -> list[Trained]:
        """Does what `train_leg` does, but for the training."""
        before: dict[int, CandidateState] = options["start"]
        first = max((one.epoch for one in before.values()), default=0)
        until: int = options["until"]
        reports: list[Progress] = []
        for epoch in range(first + 1, until + 1):
            self._pause(options["should_stop"])
            reports = [self._report(one, epoch) for one in pack]
            options["on_progress"](reports)
        facts = circumstances(options["data"], options["settings"])
        epochs = self.curves.num_epochs // EVERY
        return [
            self._complete(one, report)
            if until == epochs
            else Trained(standing=_standing(one, until, facts))
            for one, report in zip(pack, reports, strict=True)
        ]

    def _pause(self, should_stop: Callable[[], bool]) -> None:
        end = time.monotonic() + self.epoch_seconds
        while (left := end - time.monotonic()) > 0:
            step = min(left, _STEP_SECONDS)
            time.sleep(step)
            self.meter.count("seconds in training", step)
            if should_stop():
                raise Interrupted("stopped in a pause")

    def _report(self, one: Candidate, epoch: int) -> Progress:
        row, column = one.ordinal % self.curves.num_candidates, EVERY * epoch - 1
        return Progress(
            ordinal=one.ordinal,
            epoch=epoch,
            train_loss=float(self.curves.train_loss[row, column]),
            validation_loss=float(self.curves.loss[0, row, column]),
            accuracy=1 - float(self.curves.error[0, row, column]),
            activated_params=float(self.curves.activated[0, row, column]),
            mean_k_per_layer=tuple(map(float, self.curves.mean_k[0, row, column])),
            experts_per_layer=one.experts_per_layer,
            seconds=self.epoch_seconds,
        )

    def _complete(self, one: Candidate, report: Progress) -> Trained:
        metrics = {
            "accuracy": report.accuracy,
            "activated_params": report.activated_params,
            "validation_loss": report.validation_loss,
        }
        outcome = Outcome(
            ordinal=one.ordinal,
            status="complete",
            epochs=report.epoch,
            seconds=report.epoch * self.epoch_seconds,
            metrics=metrics,
            routing=tuple(_routing(layer, n) for layer, n in enumerate(one.experts_per_layer)),
        )
        return Trained(outcome=outcome, state={"weight": torch.zeros(16)})


def _standing(one: Candidate, epoch: int, facts: dict[str, str]) -> CandidateState:
    return CandidateState(
        candidate=one,
        epoch=epoch,
        batch=0,
        step=epoch,
        seconds=0.0,
        events=(),
        tensors={"weight": torch.zeros(16)},
        circumstances=facts,
    )


def _routing(layer: int, num_experts: int) -> LayerRouting:
    return LayerRouting(
        layer=layer,
        num_experts=num_experts,
        mean_k=1.0,
        std_k=0.0,
        k_histogram=(0, 1000),
        load=(1 / num_experts,) * num_experts,
        load_cv=0.0,
        max_share=1 / num_experts,
    )


def work(
    url: str, name: str, curves: Curves, epoch_seconds: float, meter: Meter, out: Path
) -> None:
    """Works on a study until the measurement has ended, then writes what was measured.

    Args:
        url: The database.
        name: The study, which exists.
        curves: See `Pauses`.
        epoch_seconds: Likewise.
        meter: Of this process.
        out: File for what it measured.
    """
    meter.install()
    legs.train_leg = Pauses(curves=curves, epoch_seconds=epoch_seconds, meter=meter)  # type: ignore[assignment]
    wrap_ended(meter)
    with Store.open(url, create=False) as store:
        run_study(store, name, should_stop=meter.clock.is_over)
    meter.write(out)


def wrap_ended(meter: Meter) -> None:
    """Counts legs and the trials that end in them."""
    close_leg = Store.close_leg

    def counted(*args: Any, **options: Any) -> None:
        close_leg(*args, **options)
        meter.count("legs")
        meter.count("trials", len(options["ended"]))
        meter.count("candidates of legs", len(options["ended"]) + len(options["stood"]))

    Store.close_leg = counted  # type: ignore[method-assign]
