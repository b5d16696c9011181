"""Logs of other tools beside the database: one run per candidate, written by a thread of its own.

The search hands its events over and goes on at once; what a log does with them, and how long that takes, changes
nothing. A log that fails is told of once and is off from then on.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from dynamoe_search.cli.log_runs import Run, Sink, settings_of
from dynamoe_search.credentials import Mask, masked, secrets_in
from dynamoe_search.records import Candidate, CandidateRecord, Progress
from dynamoe_search.search.events import (
    CandidateFinished,
    EpochFinished,
    Event,
    LegFinished,
    LegStarted,
    OnEvent,
    ignore,
)
from dynamoe_search.search.study_files import StudyFiles
from dynamoe_search.specs import StudySpec
from dynamoe_search.specs.vocabulary import TEXT_NAMES
from dynamoe_search.store import Store
from dynamoe_search.store.weight_files import path_of

CLOSE_SECONDS = 60.0
"""So long the end of a search waits for a log that writes nothing meanwhile."""

_LOOK_SECONDS = 0.5

_log = logging.getLogger(__name__)


@contextmanager
def logging_to(
    store: Store,
    name: str,
    logs: Sequence[tuple[str, str]],
    on_event: OnEvent,
    *,
    catch_up: bool = True,
) -> Iterator[OnEvent]:
    """Yields an `on_event` that tells the logs as well; they are complete when the block ends.

    Args:
        store: The open database.
        name: The study.
        logs: Kind and place of each: (`tensorboard`, a folder) or (`mlflow`, a tracking URI).
        on_event: Who else is told.
        catch_up: Whether what the database has and a log lacks is written first; by one process at a time.
    """
    writers = [Writer(store, name, kind, place) for kind, place in logs]
    for writer in writers if catch_up else ():
        writer.catch_up()

    def tell(event: Event) -> None:
        on_event(event)
        for writer in writers:
            writer(event)

    try:
        yield tell if writers else on_event
    finally:
        for writer in writers:
            writer.close()


def catch_up(store: Store, name: str, logs: Sequence[tuple[str, str]]) -> None:
    """Writes what the database has of a study and logs lack, and returns when it stands there."""
    with logging_to(store, name, logs, ignore):
        pass


def open_sink(kind: str, place: str) -> Sink:
    """Returns a log, which is made if it is not there; loads its library."""
    if kind == "tensorboard":
        from dynamoe_search.cli.log_tensorboard import TensorBoardSink

        return TensorBoardSink(place)
    from dynamoe_search.cli.log_mlflow import MlflowSink

    return MlflowSink(place)


class Writer:
    """Writes events to one log, in a thread of its own.

    Args:
        store: The open database.
        name: The study.
        kind: `tensorboard` or `mlflow`.
        place: A folder or a tracking URI.
        open_log: Makes the log, in the thread.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        kind: str,
        place: str,
        open_log: Callable[[str, str], Sink] = open_sink,
    ) -> None:
        self._translator = _Translator(store, name)
        self._title = masked(f"{kind}={place}")
        self._mask = Mask(secrets_in({**os.environ, "PLACE": place}))
        self._open: Callable[[], Sink] = partial(open_log, kind, place)
        self._tasks: queue.SimpleQueue[Callable[[Sink], None] | None] = queue.SimpleQueue()
        self._is_off = threading.Event()
        self._moved_at = time.monotonic()
        self._thread = threading.Thread(target=self._work, name=f"log {kind}", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Hands an event over."""
        if not self._is_off.is_set():
            self._tasks.put(partial(self._translator.tell, event))

    def catch_up(self) -> None:
        """Asks for what is stored and was not written: by a process that was killed, or before there was a log."""
        self._tasks.put(self._translator.catch_up)

    def close(self) -> None:
        """Waits until everything is written, as long as the log gets on; one that does not writes nothing more."""
        self._tasks.put(None)
        self._moved_at = time.monotonic()
        while self._thread.is_alive() and time.monotonic() < self._moved_at + CLOSE_SECONDS:
            self._thread.join(min(CLOSE_SECONDS, _LOOK_SECONDS))
        if self._thread.is_alive():
            self._is_off.set()
            _log.warning("the log %s did not answer in time; its end is missing", self._title)

    def _work(self) -> None:
        try:
            sink = _Gate(self._open(), self._move)
            while (task := self._tasks.get()) is not None:
                task(sink)
        except _GivenUpError:
            return
        except Exception as error:  # noqa: BLE001 - whatever a library of others raises, the search goes on
            self._is_off.set()
            words = " ".join(self._mask(str(error)).split())[:300]
            _log.warning(
                "the log %s is off from now on, the search goes on: %s: %s",
                self._title,
                type(error).__name__,
                words,
            )

    def _move(self) -> None:
        """Notes that the log gets on; ends its thread if nobody waits for it any more."""
        if self._is_off.is_set():
            raise _GivenUpError
        self._moved_at = time.monotonic()


class _GivenUpError(Exception):
    """Others may write to the log now, so this thread must not."""


class _Gate:
    """A log of which every use is noted, before and after; it writes one report at a time.

    Args:
        sink: The log.
        move: Called at every use; what it raises keeps the log from being written.
    """

    def __init__(self, sink: Sink, move: Callable[[], None]) -> None:
        self._sink, self._move = sink, move

    def is_finished(self, run: Run) -> bool:
        """Whether the end of a run is written."""
        self._move()
        return self._sink.is_finished(run)

    def write_epochs(self, run: Run, reports: Sequence[Progress]) -> None:
        """Writes reports, with the epoch as step."""
        for report in reports:
            self._move()
            self._sink.write_epochs(run, [report])

    def finish(self, run: Run, record: CandidateRecord, links: Mapping[str, str]) -> None:
        """Writes how a run ended, and where its files are."""
        self._move()
        self._sink.finish(run, record, links)

    def rest(self, run: Run) -> None:
        """Lets go of a run that others may go on with."""
        self._move()
        self._sink.rest(run)


class _Translator:
    """Says in runs what happens in a study."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._study = store, store.study(name)
        self._models = StudyFiles(store.files_of(name)).models
        self._runs: dict[int, Run] = {}  # by ordinal
        spec = StudySpec.model_validate_json(self._study.spec_json)
        self._is_text = spec.data.name in TEXT_NAMES

    def tell(self, event: Event, sink: Sink) -> None:
        """Writes what an event says."""
        match event:
            case LegStarted():
                for trial, candidate in zip(
                    sorted(event.leg.trials), event.candidates, strict=True
                ):
                    self._run(trial, candidate)
            case EpochFinished():
                for report in event.reports:
                    sink.write_epochs(self._runs[report.ordinal], [report])
            case LegFinished():
                trials = set(event.leg.trials)
                for run in self._runs.values():
                    if run.trial in trials:
                        sink.rest(run)
            case CandidateFinished():
                self._finish(sink, event.record)

    def catch_up(self, sink: Sink) -> None:
        """Writes what is stored and is not there."""
        for record in self._store.candidates(self._study.name):
            run = self._run(record.trial, record.candidate)
            if sink.is_finished(run):
                continue
            is_over = record.outcome is not None
            reports = self._store.progress(self._study.name, record.trial)
            sink.write_epochs(
                run, [one for one in reports if is_over or one.epoch <= record.epochs]
            )
            if is_over:
                self._finish(sink, record)
            sink.rest(run)

    def _finish(self, sink: Sink, record: CandidateRecord) -> None:
        run = self._run(record.trial, record.candidate)
        if not sink.is_finished(run):
            sink.finish(run, record, self._links(record))
        sink.rest(run)

    def _run(self, trial: int, candidate: Candidate) -> Run:
        if candidate.ordinal not in self._runs:
            self._runs[candidate.ordinal] = Run(
                study=self._study.name,
                created_at=self._study.created_at,
                trial=trial,
                settings=settings_of(candidate),
                is_text=self._is_text,
            )
        return self._runs[candidate.ordinal]

    def _links(self, record: CandidateRecord) -> dict[str, str]:
        return {
            "study_file": self._study.source,
            "database": self._store.url,
            "weights": str(path_of(self._models, record.trial, record.weights))
            if record.values
            else "",
            "export": f"dynamoe-search export {self._study.name} {record.trial} --out DIR",
        }
