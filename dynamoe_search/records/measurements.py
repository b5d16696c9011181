"""What was measured of a candidate, while it was trained and after."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal


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

    def metrics(self, bytes_per_token: float | None = None) -> dict[str, float]:
        """Returns what was measured, under the names of the measures of an outcome.

        Args:
            bytes_per_token: Mean length of a token, if a text is learned and that is known.
        """
        found = {
            "accuracy": self.accuracy,
            "validation_loss": self.validation_loss,
            "train_loss": self.train_loss,
            "activated_params": self.activated_params,
        }
        if bytes_per_token is not None:
            found |= language_metrics(self.validation_loss, bytes_per_token)
        return found


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
    reason: str | None = None  # stable word: nan, out-of-memory, device-lost, exception, pruned
    message: str | None = None  # for people, with the traceback of an exception
    device: str = "cpu"
    pack_size: int = 1  # candidates that were trained together
    pack_mode: Literal["vmap", "loop"] = (
        "vmap"  # `loop`: one at a time, since vmap refused the module
    )
    pack_note: str | None = None  # why not vmap
    weights: str | None = None  # checksum of the file of its weights, if it was written


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
