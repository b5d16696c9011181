"""One model at a time: a candidate of a study written out, or one fixed architecture trained."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from dynamoe_search.data import SearchData, TextData, Tokenizer, load_data
from dynamoe_search.errors import CandidateError, DynamoeError, UsageError
from dynamoe_search.records import (
    Candidate,
    CandidateRecord,
    Outcome,
    Progress,
    StudyRecord,
    StudySettings,
)
from dynamoe_search.search import weights
from dynamoe_search.search.designs import candidate_from
from dynamoe_search.search.events import EpochFinished, OnEvent, ignore, never
from dynamoe_search.search.expert_backends import choose_backend, size_of
from dynamoe_search.search.machine import (
    default_threads,
    library_versions,
    resolve_device,
    train_settings,
)
from dynamoe_search.search.same_data import load_same_data
from dynamoe_search.search.shared_files import is_here, missing
from dynamoe_search.search.space import Space
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store, answers, weight_files
from dynamoe_search.training import TrainSettings, train_leg
from dynamoe_search.training.export import FORMAT, ExportedConfig, save_model

logger = logging.getLogger(__name__)

ACCURACY_TOLERANCE = 0.01
"""Largest change of accuracy after training again that another machine or version may explain."""
LOSS_TOLERANCE = 0.02
"""The same of a language model's loss, as a share of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What `export_candidate` wrote.

    Attributes:
        folder: Where the model is.
        is_retrained: Whether it was trained again, since its weights were not kept.
        metrics: What the exported weights reach on the validation part, and their sizes.
        stored: The same as the study has it for the trial.
    """

    folder: Path
    is_retrained: bool
    metrics: Mapping[str, float]
    stored: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedModel:
    """One fixed architecture, trained.

    Attributes:
        candidate: The architecture.
        outcome: Its measurements on the validation part.
        state: The `state_dict` of its plain module, on the CPU.
        config: What `training.export.save_model` writes beside the weights.
        tokenizer: Of a language model, to be written too.
    """

    candidate: Candidate
    outcome: Outcome
    state: Mapping[str, Tensor]
    config: ExportedConfig
    tokenizer: Tokenizer | None = None


def export_candidate(
    store: Store,
    name: str,
    trial: int,
    out: Path,
    *,
    trust_code: bool = False,
    on_event: OnEvent = ignore,
    should_stop: Callable[[], bool] = never,
) -> Exported:
    """Writes the model of a candidate into a folder: weights, configuration and model card.

    The weights of the front's members are kept by the study; another candidate is trained again
    from its seed, which gives the same numbers on the same machine with the same versions.

    Args:
        store: The open database.
        name: The study.
        trial: Trial number of a complete candidate.
        out: The folder to write; made if it is missing.
        trust_code: Whether a backbone named as `package.module:Class` may be imported.
        on_event: Told about every epoch if the candidate is trained again.
        should_stop: Asked after every step of that training.

    Raises:
        DataError: The data cannot be read, or are not those that the study began with.
        DynamoeError: Trained again, the candidate has another accuracy, or of text another loss, than the study says.
        Interrupted: `should_stop` returned true.
        UsageError: There is no such study or trial, or the candidate is not complete.
    """
    study, record = store.study(name), store.candidate(name, trial)
    answers.require_model(record, name)
    assert record.outcome is not None
    spec = StudySpec.model_validate_json(study.spec_json)
    data = load_same_data(study)
    outcome, versions = record.outcome, record.versions
    state: Mapping[str, Tensor] | None = store.patiently(
        lambda: weights.load(store.files_of(name) / weight_files.FOLDER, trial, record.weights)
    )
    is_retrained = state is None
    if state is None:
        mark = store.files_mark(name)
        if mark is not None and not is_here(store.files_of(name), mark):
            logger.warning(
                "trial %d is trained again: %s", trial, missing(store.files_of(name), mark)
            )
        settings = train_settings(spec, study.settings, trust_code=trust_code)
        outcome, state = _train(record.candidate, data, settings, on_event, should_stop)
        versions = library_versions()
        _check_same(study, record, outcome)
    config = _config(spec, data, record.candidate, outcome, trial, versions)
    config = replace(config, purpose=study.purpose)
    save_model(out, config, state, _tokenizer(data))
    return Exported(
        folder=out,
        is_retrained=is_retrained,
        metrics=outcome.metrics,
        stored=record.outcome.metrics,
    )


def train_one(
    spec: StudySpec,
    *,
    device: str = "auto",
    num_threads: int | None = None,
    trust_code: bool = False,
    on_event: OnEvent = ignore,
    should_stop: Callable[[], bool] = never,
) -> TrainedModel:
    """Trains the one architecture that a study file with fixed values describes.

    Args:
        spec: A study in which nothing is left open.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        num_threads: CPU threads of torch; none means as many as torch would use.
        trust_code: Whether a backbone named as `package.module:Class` may be imported.
        on_event: Told about every epoch.
        should_stop: Asked after every step.

    Raises:
        CandidateError: The training failed, for example because the loss was not finite.
        DataError: The data cannot be read.
        DeviceError: This machine has no such device.
        Interrupted: `should_stop` returned true.
        UsageError: Some value is left open; the message says which.
    """
    space = Space(spec)
    if space.distributions:
        raise UsageError(
            f"one architecture has one value for everything, but {', '.join(space.distributions)} "
            "can take several; fix them in the file or with --set, or search with run"
        )
    candidate = candidate_from({}, spec, 0)
    data = load_data(spec.data)
    resolved, threads = resolve_device(device), num_threads or default_threads()
    choice = choose_backend(space, size_of(data), device=resolved, num_threads=threads)
    frozen = StudySettings(
        device=resolved,
        num_slots=space.num_slots,
        expert_backend=choice.backend,
        num_threads=threads,
        cohort_size=1,
    )
    settings = train_settings(spec, frozen, trust_code=trust_code)
    outcome, state = _train(candidate, data, settings, on_event, should_stop)
    return TrainedModel(
        candidate=candidate,
        outcome=outcome,
        state=state,
        config=_config(spec, data, candidate, outcome, None, library_versions()),
        tokenizer=_tokenizer(data),
    )


def _train(
    candidate: Candidate,
    data: SearchData,
    settings: TrainSettings,
    on_event: OnEvent,
    should_stop: Callable[[], bool],
) -> tuple[Outcome, Mapping[str, Tensor]]:
    def report(reports: list[Progress]) -> None:
        on_event(EpochFinished(reports=tuple(reports)))

    (trained,) = train_leg(
        [candidate],
        data,
        settings,
        until=candidate.train.epochs,
        on_progress=report,
        should_stop=should_stop,
    )
    outcome = trained.outcome
    assert outcome is not None  # it was trained to its end
    if outcome.status != "complete":
        message = (outcome.message or "").strip().splitlines() or ["no message"]
        raise CandidateError(
            outcome.reason or "exception", f"the training failed ({outcome.reason}): {message[-1]}"
        )
    return outcome, trained.state or {}


def _check_same(study: StudyRecord, record: CandidateRecord, outcome: Outcome) -> None:
    assert record.outcome is not None
    is_text = "perplexity" in outcome.metrics
    name = "validation_loss" if is_text else "accuracy"
    stored, found = record.outcome.metrics[name], outcome.metrics[name]
    if abs(stored - found) > (LOSS_TOLERANCE * stored if is_text else ACCURACY_TOLERANCE):
        raise DynamoeError(
            f"trial {record.trial} of {study.name!r} had {name.replace('_', ' ')} {stored:.4f} and has "
            f"{found:.4f} when trained again; it was computed on {record.outcome.device} with "
            f"{record.versions}: export it there"
        )


def _tokenizer(data: SearchData) -> Tokenizer | None:
    return data.tokenizer if isinstance(data, TextData) else None


def _config(
    spec: StudySpec,
    data: SearchData,
    candidate: Candidate,
    outcome: Outcome,
    trial: int | None,
    versions: Mapping[str, str],
) -> ExportedConfig:
    return ExportedConfig(
        format=FORMAT,
        study=spec.study.name,
        trial=trial,
        input_shape=data.input_shape,
        num_classes=data.num_classes,
        candidate=candidate,
        outcome=outcome,
        data=spec.data,
        mean=() if isinstance(data, TextData) else data.mean,
        std=() if isinstance(data, TextData) else data.std,
        versions=dict(versions),
        tokenizer=data.tokenizer.fingerprint if isinstance(data, TextData) else "",
    )
