"""The loop of a study: plan the next leg, train it, store what came out of it, refresh the front.

Everything that decides what happens next is in the database, and nothing depends on the clock (time limits apart), so
a study that was killed at any moment goes on as if nothing had happened: the leg in training is taken over, from its
latest checkpoint, and a cohort whose proposals were cut short is filled up with the designs that it would have got.
Several processes may run one study: each has a lease, they plan one at a time, and nobody touches what a live one does.
"""

import logging
import math
import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Literal

import torch

from dynamoe_search.data import SearchData, TextData
from dynamoe_search.errors import LeaseLostError, StoppedError
from dynamoe_search.places import AnyPath, PlaceError
from dynamoe_search.records import (
    Ended,
    Leg,
    Progress,
    StudyRecord,
)
from dynamoe_search.search.events import (
    CandidateFinished,
    EndReason,
    EpochFinished,
    FrontChanged,
    LegFinished,
    LegStarted,
    OnEvent,
    StudyEnded,
    StudySummary,
    ignore,
    never,
)
from dynamoe_search.search.legs import LegTrainer
from dynamoe_search.search.limits import Limits, Stopper, check_limits, set_limits
from dynamoe_search.search.machine import library_versions, numeric_versions, train_settings
from dynamoe_search.search.next_legs import NextLegs
from dynamoe_search.search.planner import Over
from dynamoe_search.search.rungs import Rungs
from dynamoe_search.search.same_data import load_same_data
from dynamoe_search.search.shared_files import require_files
from dynamoe_search.search.stopwatch import Stopwatch
from dynamoe_search.search.study_files import StudyFiles
from dynamoe_search.search.summaries import started, summarise
from dynamoe_search.specs import StudySpec
from dynamoe_search.specs.vocabulary import is_about_loss
from dynamoe_search.store import Store, weight_files
from dynamoe_search.training import Interrupted, data_on
from dynamoe_search.training.checkpoints import EVERY_SECONDS

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 2.0
_MEGABYTE = 2**20
_QUICK_SECONDS = 0.05
_TIDY_SHARE = 0.02
"""Share of the time for looking through files where that takes longer."""


def run_study(
    store: Store,
    name: str,
    *,
    limits: Limits | None = None,
    on_event: OnEvent = ignore,
    should_stop: Callable[[], bool] = never,
    trust_code: bool = False,
    has_own_device: bool = False,
    checkpoint_seconds: float = EVERY_SECONDS,
) -> StudySummary:
    """Runs a study, or goes on with it, until a limit is reached or somebody asks it to stop.

    Other processes may run the same study at the same time; they share the work.

    Args:
        store: The open database.
        name: The study.
        limits: How far to go; all but the time of this run are stored with the study.
        on_event: Told about everything that happens, in this thread.
        should_stop: Asked after every training step; a checkpoint is written then, and the candidates in training go
            on from it when the study does.
        trust_code: Whether a backbone named as `package.module:Class` may be imported.
        has_own_device: Whether the only CUDA device that this process sees is meant, whatever number is stored.
        checkpoint_seconds: How old the last checkpoint of the leg in training must be for the next.

    Raises:
        DataError: The data cannot be read, or are not those that the study began with.
        DeviceError: The study's device is not here.
        StoppedError: It was asked to stop while the database could not be used, not even to say where the study stands.
        UsageError: There is no such study, or more candidates are finished than `limits.trials`.
    """
    limits = limits or Limits()
    with store.giving_up(should_stop):
        check_limits(store, name, limits)
        require_files(store, name)
        versions = numeric_versions()
        _tell_of_other_versions(store, name, versions)
        worker = store.join(name, versions)
        start, has_finished = time.monotonic(), False
        try:
            set_limits(store, name, limits)
            stopper = Stopper(store, name, limits.timeout_seconds, should_stop)
            record = store.study(name)
            allowed = {"trust_code": trust_code, "has_own_device": has_own_device}
            run = _Run(store, worker, record, on_event, stopper, **allowed)
            reason = run.until_end(checkpoint_seconds)
            has_finished = reason in ("trials", "exhausted")
        finally:
            state: Literal["finished", "interrupted"]
            state = "finished" if has_finished else "interrupted"
            with suppress(StoppedError):  # whoever comes next sees that this process is gone
                store.leave(name, worker, state, time.monotonic() - start)
        summary = run.summary(reason)
    on_event(StudyEnded(summary=summary))
    return summary


class _Run:
    """One run of a study, from its start or from wherever earlier runs ended."""

    def __init__(
        self,
        store: Store,
        worker: str,
        record: StudyRecord,
        on_event: OnEvent,
        stopper: Stopper,
        *,
        trust_code: bool,
        has_own_device: bool,
    ) -> None:
        self._store, self._worker, self._name, self._record = store, worker, record.name, record
        self._on_event, self._stopper = on_event, stopper
        self._watch = watch = Stopwatch()
        self._spec = StudySpec.model_validate_json(record.spec_json)
        self._versions = library_versions()
        settings = train_settings(
            self._spec, record.settings, trust_code=trust_code, has_own_device=has_own_device
        )
        torch.set_num_threads(record.settings.num_threads)
        data = data_on(load_same_data(record), settings.device)
        self._files = StudyFiles(store.files_of(record.name))
        self._rungs = Rungs(
            self._spec.pruner,
            self._spec.train.epochs,
            _constant_predictor(data),
            by_loss=is_about_loss(self._spec.study.objectives),
        )
        self._trainer = LegTrainer(
            store, self._spec, settings, data, self._rungs, self._files, watch
        )
        self._legs = NextLegs(
            store, worker, self._spec, self._rungs, self._trainer, self._tell_of, stopper, watch
        )
        self._front: set[int] | None = None
        self._tidy_from = 0.0  # when to look through the files again

    def until_end(self, checkpoint_seconds: float) -> EndReason:
        """Trains leg after leg and returns why it ended."""
        with self._store.giving_up(self._stopper.asks_here):
            try:
                reason = self._until_end(checkpoint_seconds)
                self._note_times()  # those since the last leg that came to its end
                return reason
            except StoppedError as error:
                logger.warning("%s", error)
        assert self._stopper.reason is not None
        return self._stopper.reason

    def _until_end(self, checkpoint_seconds: float) -> EndReason:
        self._store.replay_tells(self._name)
        self._refresh_front()
        self._on_event(started(self._store, self._name))
        pause = _WAIT_SECONDS
        while not self._stopper.asks_now():
            try:
                step = self._legs.next()
            except LeaseLostError as error:  # it was silent for so long that it counted as dead
                if not self._store.has_lease(self._name, self._worker):
                    return self._sent_away()
                logger.warning("%s", error)
                time.sleep(_LONGEST_WAIT_SECONDS)
                continue
            except Interrupted:
                break
            if isinstance(step, Over):
                self._tidy_up(is_last=True)
                self._refresh_front()  # of others too, who may have died before they did
                return step.reason
            if isinstance(step, Leg):
                pause = _WAIT_SECONDS
                try:
                    self._train(step, checkpoint_seconds)
                except Interrupted:
                    break
            else:
                with self._watch.at("wait"):
                    time.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - not all at once
                pause = min(1.5 * pause, _LONGEST_WAIT_SECONDS)
        assert self._stopper.reason is not None
        return self._stopper.reason

    def _sent_away(self) -> EndReason:
        """Ends the run of a worker that others were told is gone: they have taken over what it was at."""
        logger.warning(
            "somebody said of this process that it is gone, so it does not work on the study %r any more; "
            "the study is as the others left it, and the command resume goes on with it",
            self._name,
        )
        self._stopper.reason = "interrupt"
        return "interrupt"

    # Training

    def _train(self, leg: Leg, checkpoint_seconds: float) -> None:
        records = self._store.candidates(self._name, trials=leg.trials)
        self._on_event(LegStarted(leg=leg, candidates=tuple(one.candidate for one in records)))
        try:
            results = self._trainer.train(
                leg,
                records,
                on_reports=partial(self._report, leg),
                should_stop=self._stopper,
                checkpoint_seconds=checkpoint_seconds,
            )
            self._store.close_leg(
                self._name,
                self._worker,
                leg.number,
                ended=results.ended,
                stood=results.stood,
                decisions=results.decisions,
                versions=self._versions,
            )
        except LeaseLostError as error:  # it was silent for so long that it counted as dead
            logger.warning("%s", error)
            self._rungs.forget(one.ordinal for one in records)
            return
        self._tell_of(results.ended)
        self._on_event(LegFinished(leg=leg, stood=results.stood))
        self._tidy_up()
        if any(one.outcome.status == "complete" for one in results.ended):
            self._refresh_front()
        self._note_times()

    def _note_times(self) -> None:
        """Stores where the time of this run went, for the command status."""
        self._watch.lap("store")
        self._store.note_times(self._name, self._worker, self._watch.seconds)

    def _tell_of(self, ended: Sequence[Ended]) -> None:
        trials = [one.trial for one in ended]
        for record in self._store.candidates(self._name, trials=trials) if trials else ():
            self._on_event(CandidateFinished(record=record))

    def _report(self, leg: Leg, reports: list[Progress]) -> None:
        with suppress(StoppedError):  # they are in the checkpoint that is written next
            self._store.add_progress(self._name, reports, leg)
        self._on_event(EpochFinished(reports=tuple(reports)))

    def _tidy_up(self, *, is_last: bool = False) -> None:
        """Removes files that nobody needs; what is not removed now is removed after a later leg.

        Many workers have many files, and each of them would look through all after every leg: where that takes long, it
        is done for a small part of the time.
        """
        start = time.monotonic()
        if start < self._tidy_from and not is_last:
            return
        try:
            self._remove_checkpoints()
        except PlaceError as error:
            logger.warning("no checkpoints were removed: %s", error)
        end = time.monotonic()
        if end - start > _QUICK_SECONDS:
            self._tidy_from = end + (end - start) / _TIDY_SHARE

    def _remove_checkpoints(self) -> None:
        """Removes checkpoints that nobody needs, and those of the most hopeless beyond the limit."""
        present = self._files.present()
        open_legs = {leg.number for leg in self._store.legs(self._name, state="open")}
        standings = self._store.standings(self._name, status=("paused", "running"))
        paused = [one for one in standings if one.status == "paused"]
        behind = {one.ordinal: one.behind for one in self._rungs.judge(paused)}
        hopeless = {one.ordinal: behind.get(one.ordinal, -1.0) for one in paused}
        hopeless |= {one.ordinal: -1.0 for one in standings if one.status == "running"}
        limit = self._spec.search.checkpoint_limit_mb * _MEGABYTE
        self._files.keep_states(present, hopeless, limit)
        for one in paused:
            if one.checkpoint is not None:
                files = present.states.get(one.ordinal, {})
                self._files.states.keep_one(files, one.epochs, one.checkpoint)
        self._files.keep_legs(present, open_legs)

    def _refresh_front(self) -> None:
        """Stores the front; only its members keep their weights, and who is still in training somewhere.

        Of a designed study everybody does: what was trained for a comparison is wanted for it.
        """
        found = self._store.patiently(lambda: weight_files.present(self._files.models))
        standings = self._store.standings(self._name, status=("running",))
        members = self._store.refresh_front(self._name)
        trials = {member.trial for member in members}
        running = {one.trial for one in standings}
        is_search = self._record.purpose == "search"
        gone = found.keys() - trials - running if is_search else set()
        self._store.patiently(lambda: weight_files.remove(self._files.models, gone))
        self._remove_outdated({trial: found[trial] for trial in found.keys() - gone})
        if self._front is not None and trials != self._front:
            self._on_event(FrontChanged(members=tuple(members)))
        self._front = trials

    def _remove_outdated(self, found: Mapping[int, Sequence[AnyPath]]) -> None:
        """Removes what workers that counted as dead wrote beside the weights that the database names."""
        several = [trial for trial, paths in found.items() if len(paths) > 1]
        records = self._store.candidates(self._name, trials=several) if several else []
        for path in weight_files.outdated(found, {one.trial: one.weights for one in records}):
            self._store.patiently(partial(path.unlink, missing_ok=True))

    def summary(self, reason: EndReason) -> StudySummary:
        """Returns where the study stands."""
        found = summarise(self._store, self._name, reason, self._stopper.seconds)
        self._watch.lap("store")
        return replace(found, times=self._watch.seconds)


def _tell_of_other_versions(store: Store, name: str, versions: Mapping[str, str]) -> None:
    """Says so if the last worker of a study had other versions: what it left half done begins again."""
    known = [one for one in store.workers(name) if one.versions]
    changed = [
        f"{library} {known[-1].versions[library]} -> {own}"
        for library, own in versions.items()
        if known and known[-1].versions.get(library, own) != own
    ]
    if changed:
        logger.warning(
            "the study %r was run with other versions on %s (%s); on %s, candidates in training begin again, "
            "and numbers may differ in their last digits",
            name,
            known[-1].host,
            ", ".join(changed),
            platform.node(),
        )


def _constant_predictor(data: SearchData) -> tuple[float, float]:
    """Returns validation error and loss of the predictor that says the same for every example.

    Of text the loss is that of the frequencies of the tokens, which is known before any training.
    """
    counts = torch.bincount(data.validation.y.flatten(), minlength=data.num_classes)
    if isinstance(data, TextData):
        return 1.0 - float(counts.max()) / int(counts.sum()), data.unigram_loss
    return 1.0 - float(counts.max()) / int(counts.sum()), math.log(data.num_classes)
