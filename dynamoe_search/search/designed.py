"""Designed studies: every candidate is given before the first is trained, and nothing is searched.

A designed study is a study like any other, in the same database, so it is trained in legs, shared, interrupted and
resumed, reported and deleted like any other. It is made from a finished search, its parent, on the same data and with
the parent's settings. Each design is trained several times: a *replicate* is one seed, of the initial weights and of
the order of the batches, so that what replicates differ in is what chance does. All designs of one replicate get the
same batches in the same order, so that two designs can be compared replicate by replicate.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from dynamoe_search.data import DataInfo
from dynamoe_search.errors import DeviceError, UsageError
from dynamoe_search.records import Candidate, CandidateRecord, Purpose, StudyRecord, StudySettings
from dynamoe_search.search.estimate import largest_of
from dynamoe_search.search.events import OnEvent, StudySummary, ignore, never
from dynamoe_search.search.machine import library_versions, resolve_device
from dynamoe_search.search.objectives import reference_point_of
from dynamoe_search.search.runner import run_study
from dynamoe_search.search.same_data import load_same_data
from dynamoe_search.seeding import derive_seed
from dynamoe_search.specs import PrunerSection, StudySpec
from dynamoe_search.store import Addition, Store
from dynamoe_search.training.checkpoints import EVERY_SECONDS

DESIGN, REPLICATE = "design", "replicate"
"""The parameters of a designed study's trials, in Optuna's tables and in ours."""
_LONGEST_NAME = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """One run of a designed study.

    Attributes:
        name: What is trained: `trial-17`, `dense`; the same for all of its replicates; at most 80 characters.
        replicate: Which seed it gets, from 0.
        candidate: The architecture and its training; seed, ordinal and reference are replaced.
    """

    name: str
    replicate: int
    candidate: Candidate


@dataclass(frozen=True, kw_only=True, slots=True)
class DesignedRun:
    """A stored run of a designed study."""

    design: str
    replicate: int
    record: CandidateRecord


def replicated(candidates: Mapping[str, Candidate], seeds: int) -> list[Design]:
    """Returns every named candidate once per seed, replicate by replicate.

    Args:
        candidates: By name of the design.
        seeds: Replicates of each.
    """
    return [
        Design(name=name, replicate=replicate, candidate=candidate)
        for replicate in range(seeds)
        for name, candidate in candidates.items()
    ]


def create_designed(
    store: Store,
    parent_name: str,
    purpose: Purpose,
    plan: Mapping[str, Any],
    designs: Sequence[Design],
    *,
    epochs: int | None = None,
    trust_code: bool = False,
) -> str:
    """Adds a designed study to the database and returns its name: `PARENT.confirm`, `PARENT.confirm-2`, ...

    The same request gives the study that was made for it before, and completes it if a killed process left it without
    some of its candidates; another request makes another study.

    Args:
        store: The open database.
        parent_name: The study that it is made from.
        purpose: `confirm` or `audit`.
        plan: What was asked for, as JSON can hold it.
        designs: Every run, in the order of their ordinals.
        epochs: Of the longest run; None means those of the parent.
        trust_code: Whether a backbone named as `package.module:Class` may be imported.

    Raises:
        DataError: The data cannot be read, or are not those that the parent began with.
        DeviceError: The parent's device is not here.
        UsageError: There is no such parent, it is no search, or a design cannot be built.
    """
    parent = store.study(parent_name)
    if parent.purpose != "search":
        raise UsageError(
            f"the study {parent_name!r} was made by {parent.purpose}; name the study that it was made "
            f"from, {parent.parent!r}"
        )
    request = json.dumps(dict(plan), sort_keys=True)
    known = [store.study(name) for name in store.children(parent_name)]
    same = [one for one in known if one.purpose == purpose and one.plan_json == request]
    if same:
        name = same[0].name
        spec = StudySpec.model_validate_json(same[0].spec_json)
    else:
        taken = {one.name for one in store.studies()}
        spec = _spec(parent, _free_name(parent_name, purpose, taken), purpose, designs, epochs)
        name = spec.study.name
        store.create_study(
            spec,
            source=f"{purpose} {parent_name}",
            settings=_settings(parent, spec, designs, trust_code=trust_code),
            parent=parent_name,
            purpose=purpose,
            plan_json=request,
        )
        if parent.max_pack is not None:
            store.set_max_pack(name, parent.max_pack)
    _fill(store, name, spec, designs)
    return name


def run_designed(
    store: Store,
    name: str,
    *,
    on_event: OnEvent = ignore,
    should_stop: Callable[[], bool] = never,
    trust_code: bool = False,
    checkpoint_seconds: float = EVERY_SECONDS,
) -> StudySummary:
    """Trains what is left of a designed study; `run_study` under the name that belongs to `create_designed`.

    Raises:
        DataError: The data cannot be read, or have changed.
        DeviceError: The study's device is not here.
        UsageError: There is no such study, or some of its candidates are missing.
    """
    return run_study(
        store,
        name,
        on_event=on_event,
        should_stop=should_stop,
        trust_code=trust_code,
        checkpoint_seconds=checkpoint_seconds,
    )


def unfinished(store: Store, summary: StudySummary) -> str | None:
    """Returns why a designed study has not come to its end, as a sentence that says how to go on; None if it has."""
    if summary.state == "finished":
        return None
    name, record = summary.name, store.study(summary.name)
    if summary.reason == "epochs":
        needed = sum(one.candidate.train.epochs for one in store.candidates(name))
        return (
            f"the study {name!r} has a budget of {record.max_epochs:,} candidate-epochs, which are trained; lift it "
            f"with `resume {name} --epochs {needed}`, and call the same command again"
        )
    if summary.reason == "time-budget":
        return (
            f"the study {name!r} has a time budget of {record.max_seconds:,.0f} s, which is used up; lift it with "
            f"`resume {name} --time-budget` and a longer time, and call the same command again"
        )
    return "stopped; call the same command again to go on"


def designed_runs(store: Store, name: str) -> list[DesignedRun]:
    """Returns every run of a designed study, by trial number."""
    return [
        DesignedRun(
            design=str(record.params[DESIGN]),
            replicate=int(record.params[REPLICATE]),
            record=record,
        )
        for record in store.candidates(name)
    ]


def _free_name(parent: str, purpose: str, taken: Iterable[str]) -> str:
    """Returns the first name that nobody has; a long parent's name is cut."""
    names, number = set(taken), 1
    while True:
        ending = f".{purpose}" if number == 1 else f".{purpose}-{number}"
        name = f"{parent[: _LONGEST_NAME - len(ending)]}{ending}"
        if name not in names:
            return name
        number += 1


def _spec(
    parent: StudyRecord,
    name: str,
    purpose: str,
    designs: Sequence[Design],
    epochs: int | None,
) -> StudySpec:
    """Returns the parent's file with what a designed study has of its own."""
    spec = StudySpec.model_validate_json(parent.spec_json)
    study = spec.study.model_copy(
        update={
            "name": name,
            "seed": derive_seed(spec.study.seed, 0, purpose) % 2**32,
            "trials": len(designs),
            "references": (),
        }
    )
    search = spec.search.model_copy(update={"pruner": PrunerSection(kind="none")})
    train = spec.train.model_copy(update={"epochs": epochs or spec.train.epochs})
    return spec.model_copy(update={"study": study, "search": search, "train": train})


def _settings(
    parent: StudyRecord, spec: StudySpec, designs: Sequence[Design], *, trust_code: bool
) -> StudySettings:
    """Returns the parent's settings, wide enough for all designs, after a look at data and device."""
    try:
        resolve_device(parent.settings.device)
    except DeviceError as error:
        raise DeviceError(
            f"the study {parent.name!r} was trained on {parent.settings.device}, and what is made from "
            f"it is, too: {error}"
        ) from error
    data = load_same_data(parent)
    info = DataInfo(
        input_shape=data.input_shape,
        num_classes=data.num_classes,
        num_train=len(data.train.y),
        num_validation=len(data.validation.y),
        epoch_size=data.epoch_size,
    )
    kinds = {one.candidate.design_hash: one.candidate for one in designs}.values()
    largest = largest_of(kinds, info, trust_code=trust_code)
    return replace(
        parent.settings,
        num_slots=max(max(one.slots_per_layer) for one in kinds),
        reference_point=reference_point_of(
            spec, data, max_params=largest.parameters, max_flops=largest.flops_per_token
        ),
        versions=library_versions(),
        data_hash=data.data_hash,
    )


def _fill(store: Store, name: str, spec: StudySpec, designs: Sequence[Design]) -> None:
    """Adds the candidates that are missing; those of one replicate form a cohort."""
    present = {one.ordinal for one in store.standings(name)}
    distributions = _distributions(designs)
    cohorts: dict[int, list[Addition]] = {}
    for ordinal, design in enumerate(designs):
        if ordinal in present:
            continue
        candidate = replace(
            design.candidate,
            study_seed=derive_seed(spec.study.seed, design.replicate, "replicate"),
            ordinal=ordinal,
            reference=design.name,
        )
        addition = Addition(
            candidate=candidate,
            params={DESIGN: design.name, REPLICATE: design.replicate},
            distributions=distributions,
            cohort=design.replicate,
        )
        cohorts.setdefault(design.replicate, []).append(addition)
    for additions in cohorts.values():
        store.add_candidates(name, additions)


def _distributions(designs: Sequence[Design]) -> dict[str, BaseDistribution]:
    names = tuple(dict.fromkeys(design.name for design in designs))
    last = max(design.replicate for design in designs)
    return {DESIGN: CategoricalDistribution(names), REPLICATE: IntDistribution(0, last)}
