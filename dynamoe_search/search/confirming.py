"""`confirm`: the front's members and plain designs trained again with fresh seeds, and measured on the test part.

Nothing else in the program looks at the test part.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from dynamoe_search.confirmation import (
    Carrying,
    Confirmation,
    carrying,
    confirmation,
    measure_of,
    measured,
    planned,
)
from dynamoe_search.data import SearchData, Split, TextSplit, load_test
from dynamoe_search.errors import StorageError, UsageError
from dynamoe_search.records import Candidate, CandidateRecord, StudyRecord, TestResult
from dynamoe_search.search import weights
from dynamoe_search.search.baselines import baselines
from dynamoe_search.search.designed import create_designed, replicated, run_designed, unfinished
from dynamoe_search.search.events import OnEvent, StudySummary, ignore, never
from dynamoe_search.search.machine import train_settings
from dynamoe_search.search.packs import by_packs, most_together
from dynamoe_search.search.same_data import load_same_data
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from dynamoe_search.training import TrainSettings
from dynamoe_search.training.checkpoints import EVERY_SECONDS
from dynamoe_search.training.held_out import evaluate_weights

ScaleBy = Literal["width", "epochs"]
USUAL_SEEDS = 5
USUAL_LIMIT = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmRequest:
    """What to confirm.

    Attributes:
        trials: Trial numbers; none means the front.
        limit: Most members of the front to take, spread evenly along it.
        seeds: Replicates of every design.
        with_baselines: Whether plain designs are trained beside.
        factor: How many times wider or longer the same designs are trained as well; 1 for no such thing.
        scale_by: What is scaled: `width` (of the residual stream and of the experts) or `epochs`.
    """

    trials: tuple[int, ...] = ()
    limit: int = USUAL_LIMIT
    seeds: int = USUAL_SEEDS
    with_baselines: bool = True
    factor: int = 1
    scale_by: ScaleBy = "width"


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmed:
    """What `confirm_study` did and found.

    Attributes:
        studies: The designed studies: at the parent's scale, and scaled up if that was asked for.
        summaries: How the run of each ended; fewer than asked for if one was interrupted.
        chosen: Trial numbers of the members.
        num_front: Members of the front when it was asked; None if trials were named.
        confirmation: What the runs say; None if they were interrupted.
        scaled: Likewise of the designs that were scaled up.
        carrying: Whether the ranking carries over; None if nothing was scaled.
        unfinished: Why the runs did not come to their end, as a sentence that says how to go on; else None.
    """

    studies: tuple[str, ...]
    summaries: tuple[StudySummary, ...]
    chosen: tuple[int, ...]
    num_front: int | None
    confirmation: Confirmation | None = None
    scaled: Confirmation | None = None
    carrying: Carrying | None = None
    unfinished: str | None = None


def confirm_study(
    store: Store,
    name: str,
    request: ConfirmRequest,
    *,
    on_event: OnEvent = ignore,
    should_stop: Callable[[], bool] = never,
    trust_code: bool = False,
    checkpoint_seconds: float = EVERY_SECONDS,
) -> Confirmed:
    """Trains chosen designs and plain ones again with fresh seeds and measures them on the test part.

    What was done before for the same request is not done again, so a confirmation that was interrupted goes on.

    Args:
        store: The open database.
        name: A study with finished trials.
        request: What to confirm.
        on_event: Told about everything that happens in training.
        should_stop: Asked after every training step, and between packs that are measured.
        trust_code: Whether a backbone named as `package.module:Class` may be imported.
        checkpoint_seconds: See `run_study`.

    Raises:
        DataError: The data or their test part cannot be read, or are not those that the study began with.
        DeviceError: The study's device is not here.
        StoppedError: It was asked to stop while the database could not be used.
        UsageError: There is no such study or trial, a trial is not complete, or nothing is.
    """
    with store.giving_up(should_stop):
        return _confirm(
            store, name, request, on_event, should_stop, checkpoint_seconds, trust_code=trust_code
        )


def _confirm(
    store: Store,
    name: str,
    request: ConfirmRequest,
    on_event: OnEvent,
    should_stop: Callable[[], bool],
    checkpoint_seconds: float,
    *,
    trust_code: bool,
) -> Confirmed:
    study = store.study(name)
    _check(request, study)
    spec = StudySpec.model_validate_json(study.spec_json)
    members = _members(store, study, request)
    designs, kinds = _designs(members, spec, with_baselines=request.with_baselines)
    test = load_test(spec.data)  # before anything that takes time
    confirmed = Confirmed(
        studies=(),
        summaries=(),
        chosen=tuple(record.trial for record in members.values()),
        num_front=None if request.trials else len(store.front(name)),
    )
    for factor in dict.fromkeys((1, request.factor)):
        child = _create(store, study, request, designs, kinds, factor, trust_code=trust_code)
        summary = run_designed(
            store,
            child,
            on_event=on_event,
            should_stop=should_stop,
            trust_code=trust_code,
            checkpoint_seconds=checkpoint_seconds,
        )
        confirmed = replace(
            confirmed,
            studies=(*confirmed.studies, child),
            summaries=(*confirmed.summaries, summary),
            unfinished=unfinished(store, summary),
        )
        if summary.state != "finished" or not _measure(
            store, child, spec, test, should_stop, trust_code=trust_code
        ):
            return confirmed
    return _with_findings(store, confirmed, request, spec, members)


def _check(request: ConfirmRequest, study: StudyRecord) -> None:
    if request.seeds < 2:
        raise UsageError(
            f"one seed shows no noise: --seeds must be at least 2, got {request.seeds}"
        )
    if request.limit < 1:
        raise UsageError(f"--limit must be at least 1, got {request.limit}")
    if request.factor < 1:
        raise UsageError(f"--scale must be 2 or more, got {request.factor}")
    if study.purpose != "search":
        raise UsageError(
            f"the study {study.name!r} was made by {study.purpose}; confirm {study.parent!r} instead"
        )


def _members(
    store: Store, study: StudyRecord, request: ConfirmRequest
) -> dict[str, CandidateRecord]:
    """Returns the chosen candidates by the name of the design."""
    chosen = list(dict.fromkeys(request.trials))
    if not chosen:
        front = [member.trial for member in store.front(study.name)]
        if not front:
            raise UsageError(
                f"the study {study.name!r} has an empty front, so there is nothing to confirm; "
                "go on with the command resume, or name finished trials with --trials"
            )
        chosen = _spread(front, request.limit)
    records = [store.candidate(study.name, trial) for trial in chosen]
    for record in records:
        if record.status != "complete":
            raise UsageError(
                f"trial {record.trial} of the study {study.name!r} is {record.status}, not complete; "
                "choose trials that were trained to their end"
            )
    return {f"trial-{record.trial}": record for record in records}


def _spread(front: Sequence[int], limit: int) -> list[int]:
    """Returns at most so many members, evenly along the front, both ends among them."""
    if len(front) <= limit:
        return list(front)
    if limit == 1:
        return [front[len(front) // 2]]
    places = {round(index * (len(front) - 1) / (limit - 1)) for index in range(limit)}
    return [front[place] for place in sorted(places)]


def _designs(
    members: Mapping[str, CandidateRecord], spec: StudySpec, *, with_baselines: bool
) -> tuple[dict[str, Candidate], dict[str, dict[str, Any]]]:
    """Returns all designs by name, and what the plan says of each."""
    designs = {name: record.candidate for name, record in members.items()}
    kinds: dict[str, dict[str, Any]] = {
        name: {"kind": "member", "trial": record.trial} for name, record in members.items()
    }
    for one in baselines(members, spec) if with_baselines else ():
        designs[one.name] = one.candidate
        kinds[one.name] = {"kind": "baseline", "of": one.of}
    return designs, kinds


def _create(
    store: Store,
    study: StudyRecord,
    request: ConfirmRequest,
    designs: Mapping[str, Candidate],
    kinds: Mapping[str, Mapping[str, Any]],
    factor: int,
    *,
    trust_code: bool,
) -> str:
    by = request.scale_by if factor > 1 else None
    scaled = {name: _scaled(candidate, factor, by) for name, candidate in designs.items()}
    hashes = {name: candidate.design_hash for name, candidate in scaled.items()}
    plan = {
        "seeds": request.seeds,
        "factor": factor,
        "scale_by": by,
        "designs": {name: {**kinds[name], "design_hash": hashes[name]} for name in designs},
    }
    epochs = max(candidate.train.epochs for candidate in scaled.values())
    return create_designed(
        store,
        study.name,
        "confirm",
        plan,
        replicated(scaled, request.seeds),
        epochs=epochs,
        trust_code=trust_code,
    )


def _scaled(candidate: Candidate, factor: int, by: ScaleBy | None) -> Candidate:
    """Returns the same design, wider or trained for longer; everything else stays, the learning rate too."""
    if by == "width":
        model = candidate.model
        wider = replace(model, d_model=factor * model.d_model, d_expert=factor * model.d_expert)
        return replace(candidate, model=wider)
    if by == "epochs":
        longer = replace(candidate.train, epochs=factor * candidate.train.epochs)
        return replace(candidate, train=longer)
    return candidate


def _measure(
    store: Store,
    name: str,
    spec: StudySpec,
    test: Split | TextSplit,
    should_stop: Callable[[], bool],
    *,
    trust_code: bool,
) -> bool:
    """Measures every run that is complete on the test part, if that was not done before; false if it was stopped."""
    study = store.study(name)
    done = {one.trial for one in store.tests(name)}
    missing = [one for one in store.candidates(name, status=("complete",)) if one.trial not in done]
    if not missing:
        return True
    settings = train_settings(spec, study.settings, trust_code=trust_code)
    data = load_same_data(study)
    moved = (
        test.to(settings.device)
        if isinstance(test, TextSplit)
        else Split(x=test.x.to(settings.device), y=test.y.to(settings.device))
    )
    return by_packs(
        missing,
        lambda one: one.candidate.pack_key,
        lambda pack: store.add_tests(name, _results(store, name, pack, data, moved, settings)),
        most=most_together(study),
        should_stop=should_stop,
    )


def _results(
    store: Store,
    name: str,
    pack: Sequence[CandidateRecord],
    data: SearchData,
    test: Split | TextSplit,
    settings: TrainSettings,
) -> list[TestResult]:
    folder = store.files_of(name) / "models"
    loaded = []
    for record in pack:
        state = weights.load(folder, record.trial, record.weights)
        if state is None:
            raise StorageError(
                f"the weights of trial {record.trial} of the study {name!r} are gone from {folder}; "
                f"delete {name!r} and confirm again"
            )
        loaded.append((record.candidate, state))
    found = evaluate_weights(loaded, data, test, settings)
    return [
        TestResult(
            trial=record.trial,
            examples=test.y.numel(),
            accuracy=one.evaluation.accuracy,
            loss=one.evaluation.loss,
            activated_params=one.activated_params,
            mean_k=one.evaluation.mean_k,
        )
        for record, one in zip(pack, found, strict=True)
    ]


def _with_findings(
    store: Store,
    confirmed: Confirmed,
    request: ConfirmRequest,
    spec: StudySpec,
    members: Mapping[str, CandidateRecord],
) -> Confirmed:
    measure = measure_of(spec.study.objectives)
    searched = {
        name: measure.of(one.outcome.metrics) for name, one in members.items() if one.outcome
    }
    runs, found = [], []
    for name in confirmed.studies:
        plan = store.study(name).plan_json
        assert plan is not None
        runs.append(measured(store.candidates(name), store.tests(name), plan, measure))
        own = searched if len(runs) == 1 else {}  # what is scaled up was not searched
        found.append(
            confirmation(
                runs[-1], seeds=request.seeds, measure=measure, asked=planned(plan), searched=own
            )
        )
    if len(runs) == 1:
        return replace(confirmed, confirmation=found[0])
    return replace(
        confirmed,
        confirmation=found[0],
        scaled=found[1],
        carrying=carrying(
            *runs, factor=request.factor, by=request.scale_by, seeds=request.seeds, measure=measure
        ),
    )
