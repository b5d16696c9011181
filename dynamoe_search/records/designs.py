"""What was chosen: a candidate, and the parts that its design is made of."""

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Literal

from dynamoe_search.records.json_text import to_json


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
