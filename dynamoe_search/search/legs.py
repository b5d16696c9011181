"""Training one leg of a study, and storing what came out of it.

The order of writes makes every moment safe to be killed at: checkpoints first, then one transaction that names their
checksums and says who ended, then Optuna, then the removal of files that are no longer needed.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from safetensors import SafetensorError
from torch import Tensor

from dynamoe_search.data import SearchData, TextData
from dynamoe_search.errors import CandidateError, StorageError
from dynamoe_search.places import AnyPath
from dynamoe_search.pruning import Decision, in_words
from dynamoe_search.records import (
    Candidate,
    CandidateRecord,
    Ended,
    Leg,
    Outcome,
    Progress,
    RungDecision,
    Standing,
    Stood,
)
from dynamoe_search.search import weights
from dynamoe_search.search.objectives import values, violations
from dynamoe_search.search.recent_states import RecentStates
from dynamoe_search.search.rungs import PRUNED, Rungs, to_store
from dynamoe_search.search.stopwatch import Stopwatch
from dynamoe_search.search.study_files import StudyFiles
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import PassingError, Store
from dynamoe_search.training import (
    CandidateState,
    DamagedError,
    Trained,
    TrainSettings,
    prepare,
    train_leg,
)
from dynamoe_search.wording import counted

logger = logging.getLogger(__name__)

_AT_ONCE = 8
"""Checkpoints and weights that are read or written at a time: a part of it is waiting for the disk."""

_USUAL_SHARE = 0.3
"""Of all epochs of all candidates that are trained, where a pruner is at work."""

OnReports = Callable[[list[Progress]], None]
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class LegResults:
    """What came out of a leg, as it is stored."""

    ended: tuple[Ended, ...]
    stood: tuple[Stood, ...]
    decisions: tuple[RungDecision, ...]


class LegTrainer:
    """Trains legs of one study.

    Args:
        store: The open database.
        spec: The study.
        settings: For the trainer.
        data: On the device.
        rungs: What candidates reported; it learns of those that reach the end of a leg.
        files: Of the study.
        watch: Told what the time goes into.
    """

    def __init__(
        self,
        store: Store,
        spec: StudySpec,
        settings: TrainSettings,
        data: SearchData,
        rungs: Rungs,
        files: StudyFiles,
        watch: Stopwatch,
    ) -> None:
        self._store, self._name, self._spec = store, spec.study.name, spec
        self._settings, self._data = settings, data
        self._rungs, self._files, self._watch = rungs, files, watch
        self._recent = RecentStates()

    def train(
        self,
        leg: Leg,
        records: Sequence[CandidateRecord],
        *,
        on_reports: OnReports,
        should_stop: Callable[[], bool],
        checkpoint_seconds: float,
    ) -> LegResults:
        """Trains a leg and writes the checkpoints of those who stand at its end.

        Args:
            leg: Owned by this process.
            records: Its candidates.
            on_reports: Told after every epoch, and of the epochs that a checkpoint saves from being trained again.
            should_stop: Asked after every training step.
            checkpoint_seconds: How old the leg's last checkpoint must be for the next.

        Raises:
            Interrupted: `should_stop` returned true; a checkpoint is written.
            StorageError: A checkpoint cannot be written.
            LeaseLostError: Another worker took the leg over; nothing of its results was written.
        """
        train = partial(
            self._train_leg,
            data=self._data,
            settings=self._settings,
            should_stop=self._watch.after_steps(should_stop),
            max_pack=self._store.max_pack(self._name),
            on_memory=self._remember_memory,
        )
        ahead = self._spec.study.trials * self._spec.train.epochs * _USUAL_SHARE
        prepare(records[0].candidate, self._data, self._settings, ahead)
        folder = self._files.of_leg(leg, checkpoint_seconds)
        states = self._states(leg, records)
        results: dict[int, Trained] = {}
        for epoch in sorted({_epoch(states.get(one.ordinal)) for one in records} - {leg.start}):
            late = [one.candidate for one in records if _epoch(states.get(one.ordinal)) == epoch]
            late_folder = folder.late(epoch)
            own = _of(states, late)
            for one in train(late, start=own, until=leg.start, checkpoints=late_folder):
                if one.standing is not None:
                    states[one.ordinal] = one.standing
                    self._save(one.standing)
                else:  # it fails while it catches up
                    results[one.ordinal] = one
        pack = [one.candidate for one in records if one.ordinal not in results]
        if pack:
            trained = train(
                pack,
                start=_of(states, pack),
                until=leg.end,
                on_progress=self._watch.after_epochs(on_reports),
                on_restore=on_reports,
                checkpoints=folder,
            )
            results |= {one.ordinal: one for one in trained}
        self._watch.lap("train")
        return self._results(leg, records, results)

    def _train_leg(self, pack: Sequence[Candidate], **options: Any) -> list[Trained]:
        """Trains a pack; storage that cannot say whether it has a checkpoint is waited for."""
        return self._store.patiently(lambda: train_leg(pack, **options))

    def _remember_memory(self, max_pack: int) -> None:
        logger.warning(
            "out of memory; from now on at most %s trained together",
            "1 candidate is" if max_pack == 1 else f"{max_pack} candidates are",
        )
        self._store.set_max_pack(self._name, max_pack)

    def _states(self, leg: Leg, records: Sequence[CandidateRecord]) -> dict[int, CandidateState]:
        """Returns where candidates go on: at the start of the leg, or before it if a checkpoint is damaged."""
        if not leg.start:
            return {}

        def load(record: CandidateRecord) -> CandidateState | None:
            return self._store.patiently(partial(self._load, record, leg.start))

        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            states = list(pool.map(load, records))
        for record, state in zip(records, states, strict=True):
            if state is None or state.epoch < leg.start:
                logger.warning(
                    "trial %d has no checkpoint of its first %s; what is missing is trained again",
                    record.trial,
                    counted(leg.start, "epoch"),
                )
        return {state.ordinal: state for state in states if state is not None}

    def _load(self, record: CandidateRecord, epoch: int) -> CandidateState | None:
        recent = self._recent.take(record.checkpoint)
        if recent is not None and recent.epoch == epoch:
            return recent
        states, ordinal = self._files.states, record.ordinal
        for kept in sorted((e for e in states.epochs(ordinal) if e <= epoch), reverse=True):
            named = [record.checkpoint] if kept == epoch else []
            for checksum in (*named, None):  # whoever catches up writes a file of its own
                try:
                    return states.load(record.candidate, kept, checksum, self._data, self._settings)
                except DamagedError as error:
                    why = error
            logger.warning("a checkpoint of trial %d is not used: %s", record.trial, why)
        return None

    # Results

    def _results(
        self, leg: Leg, records: Sequence[CandidateRecord], results: Mapping[int, Trained]
    ) -> LegResults:
        reports = by_ordinal(self._store.progress(self._name, trials=leg.trials))
        decisions = self._judge(leg, records, results, reports)
        stops = {one.ordinal: one for one in decisions if one.action == "stop"}
        stored = to_store(decisions, self._trials_in(decisions))
        of_trial = {one.trial: one for one in stored}
        ended = self._finished(leg, records, results)
        standing = []
        for record in records:
            trained, own = results[record.ordinal], reports.get(record.ordinal, [])
            if trained.outcome is not None:
                continue
            if record.ordinal in stops:
                ended.append(self.stopped(record, own, of_trial[record.trial], leg.end))
            elif trained.standing is not None:
                standing.append((record.trial, trained.standing))
        self._store.require_leg(self._name, leg)
        return LegResults(
            ended=tuple(ended), stood=self._saved(standing, leg.end), decisions=tuple(stored)
        )

    def _trials_in(self, decisions: Sequence[Decision]) -> dict[int, int]:
        """Returns the trial number of every ordinal in decisions."""
        strongest = {one.strongest for one in decisions if one.strongest is not None}
        ordinals = strongest | {one.ordinal for one in decisions}
        return self._store.numbers(self._name, ordinals) if ordinals else {}

    def _saved(
        self, standing: Sequence[tuple[int, CandidateState]], epochs: int
    ) -> tuple[Stood, ...]:
        """Writes checkpoints, several at a time."""
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            checksums = list(pool.map(self._save, (state for _, state in standing)))
        self._recent.put(dict(zip(checksums, (state for _, state in standing), strict=True)))
        return tuple(
            Stood(trial=trial, epochs=epochs, checkpoint=checksum)
            for (trial, _), checksum in zip(standing, checksums, strict=True)
        )

    def _judge(
        self,
        leg: Leg,
        records: Sequence[CandidateRecord],
        results: Mapping[int, Trained],
        reports: Mapping[int, Sequence[Progress]],
    ) -> list[Decision]:
        """Lets the rungs know of everybody's epochs, and returns what becomes of those who stand."""
        places = []
        for record in records:
            outcome = results[record.ordinal].outcome
            place = Standing(
                trial=record.trial,
                ordinal=record.ordinal,
                cohort=record.cohort,
                status="paused" if outcome is None else outcome.status,
                epochs=leg.end if outcome is None else outcome.epochs,
                checkpoint=None,
                pack_key=leg.pack_key,
                reference=record.candidate.reference,
            )
            self._rungs.take(place, reports.get(record.ordinal, []))
            if outcome is None:
                places.append(place)
        with self._watch.at("prune"):
            return self._rungs.judge(places)

    def _save(self, state: CandidateState) -> str:
        return self._written(self._files.states.path, lambda: self._files.states.save(state))

    def _written(self, folder: AnyPath, write: Callable[[], Result]) -> Result:
        """Writes a file; while the storage is away it waits, as for the database."""
        with writing(folder):
            try:
                return self._store.patiently(write)
            except FileNotFoundError:
                self._store.study(self._name)  # returns when the storage is back
                self._files.make()
                return write()

    def _finished(
        self, leg: Leg, records: Sequence[CandidateRecord], results: Mapping[int, Trained]
    ) -> list[Ended]:
        """Judges those who came to their end, and writes the weights of the complete, several at a time."""
        ended, states = [], {}
        for record in records:
            trained = results[record.ordinal]
            if trained.outcome is not None:
                outcome, measured, excess = _judged(trained.outcome, self._spec)
                ended.append(
                    Ended(trial=record.trial, outcome=outcome, values=measured, violations=excess)
                )
                if measured is not None and trained.state is not None:
                    states[record.trial] = trained.state
        if not states:
            return ended
        self._store.require_leg(self._name, leg)  # its successor has written them, or will
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            written = pool.map(lambda trial: self._save_weights(trial, states[trial]), states)
            checksums = dict(zip(states, written, strict=True))
        return [
            replace(one, outcome=replace(one.outcome, weights=checksums.get(one.trial)))
            for one in ended
        ]

    def _save_weights(self, trial: int, state: Mapping[str, Tensor]) -> str:
        folder = self._files.models
        return self._written(folder, lambda: weights.save(folder, trial, state))

    def stopped(
        self,
        record: CandidateRecord,
        reports: Sequence[Progress],
        decision: RungDecision,
        epochs: int | None = None,
    ) -> Ended:
        """Returns the end of a candidate that the pruner stops for good; what its experts did is in its reports.

        Args:
            record: The candidate.
            reports: Its reports, by epoch.
            decision: Why.
            epochs: Epochs that it is trained for; None means those that are stored.
        """
        epochs = record.epochs if epochs is None else epochs
        last = [report for report in reports if report.epoch <= epochs]
        length = self._data.bytes_per_token if isinstance(self._data, TextData) else None
        words = in_words(decision, self._spec.pruner)
        outcome = Outcome(
            ordinal=record.ordinal,
            status="stopped",
            epochs=last[-1].epoch if last else 0,
            seconds=sum(report.seconds for report in last),
            metrics=last[-1].metrics(length) if last else {},
            reason=PRUNED,
            message=f"pruned after epoch {decision.rung}: {words}",
            device=self._settings.device,
        )
        return Ended(trial=record.trial, outcome=outcome)


@contextmanager
def writing(folder: AnyPath) -> Iterator[None]:
    """Turns what keeps a file from being written into one sentence."""
    try:
        yield
    except PassingError:  # of remote storage, for which it has waited long enough
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(
            f"a checkpoint cannot be written to {folder} ({reason}); "
            "make room or mend the permissions, then go on with the command resume"
        ) from error


def by_ordinal(reports: Iterable[Progress]) -> dict[int, list[Progress]]:
    """Returns reports candidate by candidate, in the order given."""
    found: dict[int, list[Progress]] = defaultdict(list)
    for report in reports:
        found[report.ordinal].append(report)
    return dict(found)


def _epoch(state: CandidateState | None) -> int:
    return 0 if state is None else state.epoch


def _of(
    states: Mapping[int, CandidateState], pack: Sequence[Candidate]
) -> dict[int, CandidateState]:
    return {one.ordinal: states[one.ordinal] for one in pack if one.ordinal in states}


def _judged(
    outcome: Outcome, spec: StudySpec
) -> tuple[Outcome, tuple[float, ...] | None, tuple[float, ...]]:
    """Returns the outcome with its objectives and violations; failed if one was not measured."""
    if outcome.status != "complete":
        return outcome, None, ()
    try:
        return outcome, values(outcome, spec), tuple(violations(outcome, spec).values())
    except CandidateError as error:
        failed = replace(outcome, status="failed", reason=error.reason, message=str(error))
        return failed, None, ()
