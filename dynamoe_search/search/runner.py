"""The loop of a study: propose a cohort, train it, store what came out, refresh the front.

Everything that decides what happens next is in the database, and nothing depends on the clock (the
time limit apart), so a study that was killed at any moment goes on as if nothing had happened: a
proposed candidate without an outcome is trained under its own trial number, from the last epoch that
a checkpoint of its pack has kept or else from the start, a cohort that was cut short is filled up with
the designs that it would have got, and packs are trained in the order that the whole cohort gives
them, so that a pruner sees the same rivals (see `search.rungs`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dynamoe_search.data import DataInfo, load_data
from dynamoe_search.errors import CandidateError, UsageError
from dynamoe_search.records import (
    CandidateRecord,
    Outcome,
    Progress,
    StudyRecord,
    StudySettings,
)
from dynamoe_search.search import weights
from dynamoe_search.search.estimate import largest_design
from dynamoe_search.search.events import (
    CandidateFinished,
    CohortStarted,
    EndReason,
    EpochFinished,
    FrontChanged,
    OnEvent,
    StudyEnded,
    StudyStarted,
    StudySummary,
    ignore,
    never,
)
from dynamoe_search.search.limits import Limits, Stopper
from dynamoe_search.search.machine import (
    default_threads,
    library_versions,
    resolve_device,
    train_settings,
)
from dynamoe_search.search.objectives import (
    front_hypervolume,
    reference_point,
    values,
    violations,
)
from dynamoe_search.search.pack_folders import PackFolders
from dynamoe_search.search.rungs import Rungs
from dynamoe_search.search.same_data import load_same_data
from dynamoe_search.search.sampling import Known, Proposer
from dynamoe_search.search.space import Space
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from dynamoe_search.training import CheckpointFolder, Interrupted, Trained, train_population
from dynamoe_search.training.checkpoints import EVERY_SECONDS


def create_study(
    store: Store,
    spec: StudySpec,
    *,
    source: str,
    device: str = "auto",
    num_threads: int | None = None,
    trust_code: bool = False,
) -> str:
    """Adds a study to the database and returns its name.

    Everything that could change a number is chosen here, once, and stored with the study.

    Args:
        store: The open database.
        spec: The study.
        source: The file or preset that it came from, for people.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        num_threads: CPU threads of torch; none means as many as torch would use.
        trust_code: Whether a backbone named as `package.module:Class` may be imported.

    Raises:
        DataError: The data cannot be read.
        DeviceError: This machine has no such device.
        UsageError: The name is taken, or the backbone cannot be imported.
    """
    space = Space(spec)
    resolved = resolve_device(device)
    data = load_data(spec.data)
    info = DataInfo(
        input_shape=data.input_shape,
        num_classes=data.num_classes,
        num_train=len(data.train.y),
        num_validation=len(data.validation.y),
    )
    largest = largest_design(space, info, trust_code=trust_code)
    settings = StudySettings(
        device=resolved,
        num_slots=space.num_slots,
        expert_backend=spec.search.expert_backend,
        num_threads=num_threads or default_threads(),
        cohort_size=spec.search.cohort_size,
        reference_point=reference_point(
            spec,
            num_classes=data.num_classes,
            max_params=largest.parameters,
            max_flops=largest.flops_per_token,
        ),
        versions=library_versions(),
        data_hash=data.data_hash,
    )
    store.create_study(spec, source=source, settings=settings)
    return spec.study.name


def run_study(
    store: Store,
    name: str,
    *,
    limits: Limits | None = None,
    on_event: OnEvent = ignore,
    should_stop: Callable[[], bool] = never,
    trust_code: bool = False,
    checkpoint_seconds: float = EVERY_SECONDS,
) -> StudySummary:
    """Runs a study, or goes on with it, until a limit is reached or somebody asks it to stop.

    Args:
        store: The open database.
        name: The study.
        limits: How far to go; numbers of trials and epochs given here are stored with the study.
        on_event: Told about everything that happens, in this thread.
        should_stop: Asked after every training step; the candidates in training then stay without
            an outcome until the study goes on.
        trust_code: Whether a backbone named as `package.module:Class` may be imported.
        checkpoint_seconds: How old the last checkpoint of the pack in training must be for the next.

    Raises:
        DataError: The data cannot be read, or are not those that the study began with.
        DeviceError: The study's device is not here.
        UsageError: There is no such study, another process is running it, or more candidates are
            finished than `limits.trials`.
    """
    limits = limits or Limits()
    _check_trials(store.study(name), limits)
    store.begin_run(name)
    has_finished = False
    try:
        store.clear_stop(name)
        if limits.trials is not None:
            store.set_trials(name, limits.trials)
        if limits.epochs is not None:
            store.set_max_epochs(name, limits.epochs)
        stopper = Stopper(store, name, limits.timeout_seconds, should_stop)
        packs = PackFolders(store.files_of(name) / "checkpoints", checkpoint_seconds)
        run = _Run(store, store.study(name), on_event, stopper, packs, trust_code=trust_code)
        reason = run.until_end()
        has_finished = reason in ("trials", "exhausted")
    finally:
        store.end_run(name, "finished" if has_finished else "interrupted")
    summary = run.summary(reason)
    on_event(StudyEnded(summary=summary))
    return summary


def _check_trials(record: StudyRecord, limits: Limits) -> None:
    num_finished = record.num_complete + record.num_failed + record.num_stopped
    if limits.trials is not None and limits.trials < num_finished:
        raise UsageError(
            f"the study {record.name!r} has {num_finished} finished trials already, "
            f"which is more than {limits.trials}; ask for {num_finished} or more"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cohort:
    """Candidates that are to be trained now."""

    number: int
    members: tuple[CandidateRecord, ...]
    packs: dict[str, int]  # first ordinal by pack key, in the order of training, finished ones too


class _Run:
    """One run of a study, from its start or from wherever an earlier run ended."""

    def __init__(
        self,
        store: Store,
        record: StudyRecord,
        on_event: OnEvent,
        stopper: Stopper,
        packs: PackFolders,
        *,
        trust_code: bool,
    ) -> None:
        self._store, self._name, self._record = store, record.name, record
        self._on_event, self._stopper, self._packs = on_event, stopper, packs
        self._spec = StudySpec.model_validate_json(record.spec_json)
        self._space = Space(self._spec)
        self._versions = library_versions()
        self._known: dict[int, Known] = {}  # finished candidates by trial, each made once
        self._settings = train_settings(self._spec, record.settings, trust_code=trust_code)
        self._data = load_same_data(record)
        self._front: set[int] = set()
        self._rungs = Rungs(self._spec.search.pruner, self._spec.train.epochs)

    @property
    def _models(self) -> Path:
        return self._store.files_of(self._name) / "models"

    def until_end(self) -> EndReason:
        """Runs cohort after cohort and returns why it ended."""
        self._store.replay_tells(self._name)
        self._refresh_front(is_news=False)
        if self._rungs.are_used:
            self._rungs.load(self._store.candidates(self._name), self._store.progress(self._name))
        self._on_event(self._started())
        while not self._stopper.asks_now():
            cohort = self._next_cohort()
            if not isinstance(cohort, _Cohort):
                self._packs.keep_only([])
                return cohort
            candidates = tuple(member.candidate for member in cohort.members)
            self._on_event(CohortStarted(cohort=cohort.number, candidates=candidates))
            try:
                self._train(cohort)
            except Interrupted:
                break
        assert self._stopper.reason is not None
        return self._stopper.reason

    def _started(self) -> StudyStarted:
        record = self._store.study(self._name)
        return StudyStarted(
            name=self._name,
            trials=record.trials,
            num_finished=record.num_complete + record.num_failed + record.num_stopped,
            num_running=record.num_running,
            epochs_per_candidate=self._spec.train.epochs,
            device=self._settings.device,
        )

    def _next_cohort(self) -> _Cohort | EndReason:
        """Returns the cohort to train, or why there is none; proposes designs that are missing.

        The last cohort stays open until all of its members have an outcome. It is filled up only
        before the first one has: later, proposals would know more than they did.
        """
        records = self._store.candidates(self._name)
        number = max((record.cohort for record in records), default=0)
        members = [record for record in records if record.cohort == number]
        if members and all(record.outcome is not None for record in members):
            number, members = number + 1, []
        before = [record for record in records if record.cohort < number]
        room, limit = self._room(before)
        num_finished = sum(record.outcome is not None for record in members)
        if num_finished == 0:
            missing = room - len(members)
            members += self._propose(records, number, missing)
        waiting = [record for record in members if record.outcome is None]
        allowed = waiting[: max(0, room - num_finished)]
        if allowed:
            packs: dict[str, int] = {}
            for record in members:
                packs.setdefault(record.candidate.pack_key, record.ordinal)
            return _Cohort(number=number, members=tuple(allowed), packs=packs)
        return limit if room <= num_finished else "exhausted"

    def _room(self, before: Sequence[CandidateRecord]) -> tuple[int, EndReason]:
        """Returns how many members the limits allow after these candidates, and which limit binds."""
        trials = self._record.trials - len(before)
        room = min(trials, self._record.settings.cohort_size)
        if self._record.max_epochs is not None:
            spent = sum(record.outcome.epochs for record in before if record.outcome is not None)
            affordable = (self._record.max_epochs - spent) // self._spec.train.epochs
            if affordable < room:
                return max(0, affordable), "epochs"
        return max(0, room), "trials"

    def _propose(
        self, records: Sequence[CandidateRecord], cohort: int, number: int
    ) -> list[CandidateRecord]:
        if number <= 0:
            return []
        by_ordinal = sorted(records, key=lambda record: record.ordinal)
        proposer = Proposer(self._space, [self._known_of(record) for record in by_ordinal])
        added = []
        for _ in range(number):
            proposal = proposer.propose()
            if proposal is None:
                break
            trial = self._store.add_candidate(
                self._name,
                proposal.candidate,
                params=proposal.params,
                distributions=proposal.distributions,
                cohort=cohort,
                sampler_state=proposal.sampler_state,
            )
            added.append(self._store.candidate(self._name, trial))
        return added

    def _known_of(self, record: CandidateRecord) -> Known:
        known = self._known.get(record.trial)
        if known is None:
            known = Known.of(record, self._space)
            if record.outcome is not None:
                self._known[record.trial] = known
        return known

    def _train(self, cohort: _Cohort) -> None:
        """Trains a cohort pack by pack; each pack is stored as soon as it is trained."""
        packs: dict[str, list[CandidateRecord]] = {key: [] for key in cohort.packs}
        for member in cohort.members:
            packs[member.candidate.pack_key].append(member)
        names = {key: f"{cohort.number}-{first}" for key, first in cohort.packs.items()}
        self._packs.keep_only([names[key] for key, pack in packs.items() if pack])
        for key, pack in packs.items():
            if pack:
                self._train_pack(pack, self._packs.of(names[key]))

    def _train_pack(self, pack: Sequence[CandidateRecord], checkpoints: CheckpointFolder) -> None:
        self._rungs.begin_pack(pack)
        results = train_population(
            [record.candidate for record in pack],
            self._data,
            self._settings,
            on_progress=self._report,
            should_stop=self._stopper,
            checkpoints=checkpoints,
            on_restore=self._restore,
        )
        for record, trained in zip(pack, results, strict=True):
            self._finish(record, trained)
        checkpoints.remove()
        self._refresh_front(is_news=True)

    def _restore(self, reports: list[Progress]) -> None:
        self._store.add_progress(self._name, reports)  # a power cut may have taken the latest
        self._rungs.replay(reports)

    def _report(self, reports: list[Progress]) -> set[int]:
        self._store.add_progress(self._name, reports)
        self._on_event(EpochFinished(reports=tuple(reports)))
        return self._rungs.judge(reports)

    def _finish(self, record: CandidateRecord, trained: Trained) -> None:
        outcome, measured, excess = _judged(self._rungs.explained(trained.outcome), self._spec)
        if measured is not None and trained.state is not None:
            weights.save(self._models, record.trial, trained.state)
        self._store.finish(
            self._name,
            record.trial,
            outcome,
            values=measured,
            violations=excess,
            versions=self._versions,
        )
        stored = self._store.candidate(self._name, record.trial)
        self._on_event(CandidateFinished(record=stored))

    def _refresh_front(self, *, is_news: bool) -> None:
        members = self._store.refresh_front(self._name)
        trials = {member.trial for member in members}
        weights.keep_only(self._models, trials)
        if is_news and trials != self._front:
            self._on_event(FrontChanged(members=tuple(members)))
        self._front = trials

    def summary(self, reason: EndReason) -> StudySummary:
        """Returns where the study stands."""
        record, spent = self._store.study(self._name), self._store.spent(self._name)
        front = tuple(self._store.front(self._name))
        return StudySummary(
            name=self._name,
            state="finished" if reason in ("trials", "exhausted") else "interrupted",
            reason=reason,
            trials=record.trials,
            complete=spent.complete,
            failed=spent.failed,
            pruned=spent.stopped,
            running=spent.running,
            epochs=spent.epochs,
            seconds=self._stopper.seconds,
            front=front,
            hypervolume=front_hypervolume(
                [[member.values[name] for name in record.objectives] for member in front],
                record.settings.reference_point,
                self._spec,
            ),
        )


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
