"""Plain records that every part can speak of: what was chosen, what was measured. No torch, no SQL.

All are frozen dataclasses. `to_json` and `from_json` turn any of them into text and back, checking types on the way.
"""

import hashlib
import json
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Literal, TypeVar, cast

from pydantic import TypeAdapter

Record = TypeVar("Record")

Purpose = Literal["search", "confirm", "audit"]
Status = Literal["running", "paused", "complete", "failed", "stopped"]
"""What a study is for; all but `search` are designed: every candidate is given before the first is trained."""


def to_json(record: Any) -> str:
    """Returns a record as JSON text with a stable key order."""
    return _adapter(cast(Hashable, type(record))).dump_json(record).decode()


def from_json(kind: type[Record], text: str | bytes) -> Record:
    """Returns a record from JSON text; raises `pydantic.ValidationError` if it is not one of this kind."""
    return _adapter(cast(Hashable, kind)).validate_json(text)  # type: ignore[no-any-return]


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    """Building an adapter takes milliseconds, using one microseconds."""
    return TypeAdapter(cast(Any, kind))


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The network around the experts; candidates that agree on it have the same tensor shapes."""

    backbone: str
    d_model: int
    num_layers: int
    d_expert: int
    num_heads: int = 4
    patch_size: int = 4
    dropout: float = 0.0
    # of language models; left out of hashes and pack keys where they are the default
    moe_every: int = 1
    expert: Literal["gelu", "swiglu"] = "gelu"
    tie_embeddings: bool = True


_LATER_FIELDS = ("moe_every", "expert", "tie_embeddings")
"""Fields of `ModelConfig` that designs of earlier versions had not."""


def _added(model: ModelConfig) -> list[str]:
    """Returns those of the later fields that are not at their default, so that older designs keep their hashes."""
    defaults = {one.name: one.default for one in fields(ModelConfig)}
    return [name for name in _LATER_FIELDS if getattr(model, name) != defaults[name]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """Where the experts per layer came from; the numbers themselves are in `Candidate.experts_per_layer`."""

    shape: str
    min_experts: int
    max_experts: int
    ramp: str = "linear"
    cycles: int = 1
    match: str = "max"
    total_experts: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterConfig:
    """A routing rule; settings that the kind does not read are None (see `specs.vocabulary.ROUTER_SETTINGS`)."""

    kind: str
    k: int | None = None
    softmax: str | None = None
    tau: float | None = None
    rho: float | None = None
    p: float | None = None
    threshold: float | None = None
    threshold_spread: float | None = None
    logit_scale: float | None = None
    learn_logit_scale: bool | None = None
    weight_gradient: str | None = None
    capacity: float | None = None
    target_active: float | None = None
    sparsity_step: float | None = None
    null_experts: int | None = None
    histogram: tuple[float, ...] | None = None
    temperature: float | None = None
    noise: float | None = None
    bias_rate: float | None = None
    momentum: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """Weights of the auxiliary losses; 0 where the router gives the loss no gradient."""

    load_balance: float = 0.0
    normalize_load_balance: bool = True
    diversity: float = 0.0
    simplicity: float = 0.0
    efficiency: float = 0.0
    dynamic: float = 0.0
    z: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptiveConfig:
    """Experts added and removed while training; steps are training steps of the candidate."""

    max_experts: int
    period: int
    record_from: int
    update_at: int
    add: bool = True
    remove: bool = True
    new_expert: Literal["keep", "fresh"] = "keep"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How a candidate is trained."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    warmup_fraction: float = 0.05
    decay: str = "cosine"
    final_lr_fraction: float = 0.0
    clip_norm: float = 1.0  # 0 switches it off
    label_smoothing: float = 0.0
    augment: bool = False
    precision: str = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One architecture with everything that is needed to train it again to the same numbers."""

    study_seed: int
    ordinal: int  # how many designs the study had proposed before this one; seeds derive from it
    model: ModelConfig
    schedule: ScheduleConfig
    experts_per_layer: tuple[int, ...]  # open at the start, one number per layer
    router: RouterConfig
    losses: LossWeights
    train: TrainConfig
    adaptive: AdaptiveConfig | None = None
    reference: str | None = None  # name of a reference design, None for a searched one

    @property
    def slots_per_layer(self) -> tuple[int, ...]:
        """Experts that exist in each layer, open or not."""
        if self.adaptive is None:
            return self.experts_per_layer
        return (self.adaptive.max_experts,) * len(self.experts_per_layer)

    @property
    def pack_key(self) -> str:
        """Candidates with the same key have the same tensor shapes and batches, and can be trained in one pack."""
        model = self.model
        train = self.train
        later = [f"{name}={getattr(model, name)}" for name in _added(model)]
        return "|".join(
            str(part)
            for part in (
                model.backbone,
                model.d_model,
                model.num_layers,
                model.d_expert,
                model.num_heads,
                model.patch_size,
                train.batch_size,
                train.label_smoothing,
                train.augment,
                train.precision,
                self.study_seed,  # the order of the batches
                *later,
            )
        )

    @property
    def design_hash(self) -> str:
        """Same for two candidates that differ at most in seed, ordinal and how their design came about."""
        content = json.loads(to_json(self))
        for name in ("study_seed", "ordinal", "reference", "schedule"):
            del content[name]
        for name in _LATER_FIELDS:
            if name not in _added(self.model):
                del content["model"][name]
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRouting:
    """How one layer routed the validation tokens of one candidate."""

    layer: int
    num_experts: int  # open experts
    mean_k: float  # mean number of experts per token
    std_k: float
    k_histogram: tuple[int, ...]  # tokens that used 0, 1, 2, ... experts
    load: tuple[float, ...]  # share of the tokens that used each slot (sums to mean_k)
    load_cv: float  # coefficient of variation of the load over open experts
    max_share: float  # share of all expert calls that the busiest expert has
    # language models: mean loss in nats of the tokens that used 0, 1, 2, ... experts; None where no token did
    loss_by_k: tuple[float | None, ...] = ()


def language_metrics(loss: float, bytes_per_token: float) -> dict[str, float]:
    """Returns `perplexity` and `bits_per_byte` of a language model.

    Args:
        loss: In nats per token. A loss beyond 700 counts as 700, so that the perplexity is a number.
        bytes_per_token: Mean length of a token in bytes of UTF-8.
    """
    return {
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_byte": loss / math.log(2) / bytes_per_token,
    }


def bytes_per_token(metrics: Mapping[str, float]) -> float:
    """Returns what `language_metrics` was told, from a language model's metrics."""
    return metrics["validation_loss"] / math.log(2) / metrics["bits_per_byte"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What a candidate reports after an epoch, measured on the validation part."""

    ordinal: int
    epoch: int  # epochs finished
    train_loss: float
    validation_loss: float
    accuracy: float
    activated_params: float
    mean_k_per_layer: tuple[float, ...]
    experts_per_layer: tuple[int, ...]  # open experts
    seconds: float  # this candidate's share of the cohort's wall time, this epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How the training of a candidate ended.

    `metrics` has every objective by its name, and more: `accuracy`, `validation_loss`, `activated_params`,
    `total_params`, `flops_per_token`, `shared_params`, `router_params`, `latency_ms`, `peak_memory_mb` where measured;
    of language models also `perplexity`, `bits_per_byte`, `embedding_params`, and parameters `_with_embeddings`.
    """

    ordinal: int
    status: Literal["complete", "failed", "stopped"]
    epochs: int
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)
    routing: tuple[LayerRouting, ...] = ()
    expert_events: tuple[tuple[int, tuple[int, ...]], ...] = ()  # (step, open experts per layer)
    reason: str | None = None  # stable word: nan, out-of-memory, exception, pruned
    message: str | None = None  # for people, with the traceback of an exception
    device: str = "cpu"
    pack_size: int = 1  # candidates that were trained together
    pack_mode: Literal["vmap", "loop"] = (
        "vmap"  # `loop`: one at a time, since vmap refused the module
    )
    pack_note: str | None = None  # why not vmap


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySettings:
    """What could change a number and is therefore chosen once, when the study is created."""

    device: str
    num_slots: int  # expert slots of the widest layer of the space; all packs pad to it
    expert_backend: str
    num_threads: int
    cohort_size: int  # candidates proposed at a time
    reference_point: tuple[float, ...] = ()  # of the hypervolume, one value per objective
    versions: dict[str, str] = field(default_factory=dict)  # of the libraries that computed
    data_hash: str = ""  # of the training and the validation part; empty if unknown
    backend_basis: str = ""  # why this expert backend, in words; empty if the study file names it

    @property
    def backend_words(self) -> str:
        """The expert backend and why it was chosen, for people."""
        return (
            f"{self.expert_backend} ({self.backend_basis})"
            if self.backend_basis
            else self.expert_backend
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRecord:
    """A stored study.

    `state` is what is true now: `created` (never ran), `running` (a live process works on it), `interrupted`,
    `finished`, or `deleting` (a deletion that did not end; delete it again).
    """

    name: str
    spec_json: str  # the study file as run, for StudySpec.model_validate_json
    source: str  # file or preset that it came from
    settings: StudySettings
    objectives: tuple[str, ...]
    maximise: tuple[bool, ...]  # one per objective
    state: Literal["created", "running", "interrupted", "finished", "deleting"]
    trials: int  # how many candidates are asked for
    created_at: str  # UTC, ISO 8601
    updated_at: str
    max_epochs: int | None = None  # training budget in candidate-epochs; None is no limit
    max_seconds: float | None = None  # time budget of all workers together; None is no limit
    seconds_spent: float = 0.0  # by all workers, earlier runs included
    max_pack: int | None = None  # most candidates that fit into memory together, once that is known
    exhausted_at: int | None = None  # proposals that there were when the space gave out
    parent: str | None = None  # the study whose designs a designed study trains
    purpose: Purpose = "search"
    plan_json: str | None = None  # what a designed study was asked for
    is_stop_requested: bool = False  # by somebody, of workers that have not left yet
    host: str | None = None  # of the live worker that came last
    pid: int | None = None
    heartbeat_at: str | None = None
    num_complete: int = 0
    num_failed: int = 0
    num_stopped: int = 0
    num_running: int = 0  # candidates in training, or about to be
    num_paused: int = 0  # candidates that stand at a rung
    num_front: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateRecord:
    """A stored candidate with everything that is known of it."""

    trial: int  # Optuna's trial number
    ordinal: int
    cohort: int
    candidate: Candidate
    params: dict[str, Any]
    status: Status
    created_at: str  # UTC, ISO 8601
    epochs: int = 0  # trained, and kept in a checkpoint or in the outcome
    checkpoint: str | None = None  # checksum of the checkpoint of a paused candidate
    reason: str | None = None
    message: str | None = None
    outcome: Outcome | None = None
    values: dict[str, float] | None = None  # objective name -> value
    violations: tuple[float, ...] = ()  # of the constraints; above 0 is not feasible
    feasible: bool = True
    sampler_state: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    finished_at: str | None = None

    @property
    def experts_per_layer(self) -> tuple[int, ...]:
        """Open experts when the training ended; those at its start if it has not."""
        return _experts_at_end(self.candidate, self.outcome.routing if self.outcome else ())


@dataclass(frozen=True, kw_only=True, slots=True)
class Leg:
    """Candidates that one worker trains together from one epoch to another: from one rung to the next."""

    number: int  # counts the legs of a study from 0
    trials: tuple[int, ...]
    start: int  # epochs that all of them have behind them
    end: int  # epochs that those have behind them who reach its end
    pack_key: str
    worker: str | None  # who trains it, or did
    state: Literal["open", "done"] = "open"


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where a candidate stands: what is needed to plan, and quick to read of many."""

    trial: int
    ordinal: int
    cohort: int
    status: Status
    epochs: int  # trained, and kept in a checkpoint or in the outcome
    checkpoint: str | None
    pack_key: str
    reference: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A process that works, or worked, on a study; its lease."""

    id: str
    host: str
    pid: int
    mark: str  # tells the process from a later one with the same number
    started_at: str  # UTC, ISO 8601
    heartbeat_at: str
    beats: int  # rises while it is alive
    is_alive: bool
    seconds: float = 0.0  # wall time that it worked
    versions: dict[str, str] = field(default_factory=dict)  # of the libraries that it computes with


@dataclass(frozen=True, kw_only=True, slots=True)
class FilesMark:
    """A small file among those of a study, by which a worker sees that it looks where the others do."""

    PATTERN: ClassVar[str] = "study-*.json"  # of the names of all such files

    id: str
    study: str
    host: str  # who wrote it
    place: str  # folder or URL that it was written to; no password
    made_at: str  # UTC, ISO 8601

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"study-{self.id}.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stood:
    """A candidate that reached the end of a leg before the end of its training."""

    trial: int
    epochs: int
    checkpoint: str  # checksum


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A candidate whose training is over, with its objectives if it is complete."""

    trial: int
    outcome: Outcome
    values: tuple[float, ...] | None = None
    violations: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RungDecision:
    """What was decided of a candidate at a rung, and why."""

    trial: int
    rung: int  # epochs finished
    action: Literal["go", "pause", "stop"]
    beaten: int  # rivals ahead of it
    rivals: int  # others that reached the rung
    strongest: int | None = None  # trial of the rival ahead of it with the lowest error
    reason: str | None = None  # why it does not go on


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontMember:
    """A candidate that no other complete and feasible candidate of the study dominates."""

    trial: int
    ordinal: int
    candidate: Candidate
    values: dict[str, float]  # objective name -> value
    metrics: dict[str, float]
    params: dict[str, Any]
    routing: tuple[LayerRouting, ...] = ()

    @property
    def experts_per_layer(self) -> tuple[int, ...]:
        """Open experts when the training ended."""
        return _experts_at_end(self.candidate, self.routing)


def _experts_at_end(candidate: Candidate, routing: tuple[LayerRouting, ...]) -> tuple[int, ...]:
    return tuple(layer.num_experts for layer in routing) or candidate.experts_per_layer


@dataclass(frozen=True, kw_only=True, slots=True)
class TestResult:
    """What a candidate did on the test part, which no search looks at."""

    __test__: ClassVar[bool] = False  # whatever pytest makes of the name

    trial: int
    examples: int
    accuracy: float
    loss: float  # mean cross-entropy in nats
    activated_params: float  # mean over the test tokens
    mean_k: tuple[float, ...]  # experts per token, per layer
    measured_at: str = ""  # UTC, ISO 8601; set when it is stored


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What a designed run found out beside its metrics."""

    trial: int
    kind: str
    content_json: str
    made_at: str  # UTC, ISO 8601


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What a study has used so far; a candidate that is trained again counts once."""

    epochs: int  # candidate-epochs
    seconds: float
    complete: int
    failed: int
    running: int
    stopped: int = 0
    paused: int = 0
