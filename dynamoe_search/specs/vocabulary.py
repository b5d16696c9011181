"""The names that a study file may use, and which setting belongs to which router."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import Discriminator, Field, Tag

from dynamoe_search.specs.searchable import form_of

Shape = Literal[
    "uniform", "descending", "ascending", "pyramid-up", "pyramid-down", "wave-up", "wave-down"
]
Ramp = Literal["linear", "cosine", "quadratic"]
Match = Literal["max", "total"]
RouterKind = Literal[
    "percentile",
    "pooled-quantile",
    "relative-to-max",
    "range-fraction",
    "top-any",
    "top-p",
    "top-k",
    "expert-choice",
    "relu",
    "null-experts",
    "random-k",
    "dense",
]
SoftmaxOrder = Literal["before", "after"]
WeightGradient = Literal["sum", "constant"]
LossName = Literal["load_balance", "diversity", "simplicity", "efficiency", "dynamic", "z"]
TextName = Literal["docs", "text", "hf", "recycling-the-web"]
DataName = Literal["digits", "fashion-mnist", "mnist", "cifar10", "npz", "folder", TextName]
TokenizerKind = Literal["bytes", "gpt2", "bpe"]
Objective = Literal[
    "accuracy",
    "perplexity",
    "bits_per_byte",
    "activated_params",
    "total_params",
    "flops_per_token",
    "validation_loss",
    "latency_ms",
    "peak_memory_mb",
]
ExpertKind = Literal["gelu", "swiglu"]
SamplerKind = Literal["tpe", "nsga2", "random", "qmc"]
PrunerKind = Literal["none", "pareto", "moasha", "median"]
Reference = Literal["dense", "top-1", "top-2", "uniform"]

_Choices = Field(strict=False, min_length=1, max_length=1000)
SearchShape: TypeAlias = Annotated[
    Annotated[Shape, Tag("value")] | Annotated[tuple[Shape, ...], Tag("choice"), _Choices],
    Discriminator(form_of),
]
SearchRamp: TypeAlias = Annotated[
    Annotated[Ramp, Tag("value")] | Annotated[tuple[Ramp, ...], Tag("choice"), _Choices],
    Discriminator(form_of),
]
SearchRouterKind: TypeAlias = Annotated[
    Annotated[RouterKind, Tag("value")]
    | Annotated[tuple[RouterKind, ...], Tag("choice"), _Choices],
    Discriminator(form_of),
]
SearchSoftmaxOrder: TypeAlias = Annotated[
    Annotated[SoftmaxOrder, Tag("value")]
    | Annotated[tuple[SoftmaxOrder, ...], Tag("choice"), _Choices],
    Discriminator(form_of),
]
SearchWeightGradient: TypeAlias = Annotated[
    Annotated[WeightGradient, Tag("value")]
    | Annotated[tuple[WeightGradient, ...], Tag("choice"), _Choices],
    Discriminator(form_of),
]

IMAGE_BACKBONES: tuple[str, ...] = ("mlp", "vit")
"""Networks of ours for images."""
LANGUAGE_BACKBONES: tuple[str, ...] = ("gpt", "mlp-lm")
"""Networks of ours for sequences of tokens."""

LOOKS_ACROSS_TOKENS: tuple[RouterKind, ...] = ("pooled-quantile", "expert-choice")
"""Routers that in training compare a token with all others of its batch, so also with those that come after it.

A language model would be told of the tokens that it has to guess."""

SHAPES: tuple[Shape, ...] = get_args(Shape)
ROUTER_KINDS: tuple[RouterKind, ...] = get_args(RouterKind)
LOSS_NAMES: tuple[LossName, ...] = get_args(LossName)
TEXT_NAMES: tuple[TextName, ...] = get_args(TextName)
"""Data sets of text, for language models; all others are images."""

ROUTER_SETTINGS: dict[RouterKind, tuple[str, ...]] = {
    "percentile": ("tau", "temperature", "noise", "bias_rate"),
    "pooled-quantile": ("tau", "temperature", "noise", "momentum", "bias_rate"),
    "relative-to-max": ("rho", "temperature", "noise", "bias_rate"),
    "range-fraction": ("tau", "temperature", "noise", "bias_rate"),
    "top-any": (
        "threshold",
        "threshold_spread",
        "logit_scale",
        "learn_logit_scale",
        "weight_gradient",
    ),
    "top-p": ("p", "temperature", "bias_rate"),
    "top-k": ("k", "softmax", "temperature", "noise", "bias_rate"),
    "expert-choice": ("capacity", "temperature", "momentum"),
    "relu": ("target_active", "sparsity_step"),
    "null-experts": ("k", "null_experts", "temperature", "bias_rate"),
    "random-k": ("histogram",),
    "dense": (),
}
"""Which settings of `[router]` each kind reads; the others are neither sampled nor stored for it."""

ROUTER_LOSSES: dict[RouterKind, tuple[LossName, ...]] = {
    "percentile": ("load_balance", "diversity", "simplicity", "dynamic", "z"),
    "pooled-quantile": ("load_balance", "diversity", "simplicity", "dynamic", "z"),
    "relative-to-max": ("load_balance", "diversity", "simplicity", "dynamic", "z"),
    "range-fraction": ("load_balance", "diversity", "simplicity", "dynamic", "z"),
    "top-any": ("load_balance", "diversity", "simplicity", "efficiency"),
    "top-p": ("load_balance", "diversity", "simplicity", "dynamic", "z"),
    "top-k": ("load_balance", "diversity", "simplicity", "dynamic", "z"),
    "expert-choice": ("diversity", "simplicity", "dynamic", "z"),
    "relu": ("load_balance", "diversity", "simplicity", "efficiency"),
    "null-experts": ("load_balance", "diversity", "simplicity", "dynamic", "z"),
    "random-k": (),
    "dense": (),
}
"""Which auxiliary losses have a gradient for each kind of router."""

MAXIMISED: frozenset[Objective] = frozenset({"accuracy"})
"""Objectives that are maximised; all others are minimised."""

LANGUAGE_OBJECTIVES: tuple[Objective, ...] = ("perplexity", "bits_per_byte")
"""Objectives that need text; each rises with the validation loss and with nothing else."""

LOGARITHMIC: frozenset[str] = frozenset({"perplexity"})
"""Objectives whose best value is 1 and whose hypervolume is measured on a logarithmic scale."""


def is_about_loss(objectives: Sequence[str]) -> bool:
    """Tells whether a study's candidates are as good as their loss is low, and not as their guesses are right."""
    return "accuracy" not in objectives and bool({*objectives} & {*LANGUAGE_OBJECTIVES})


PRUNED_ON: tuple[Objective, ...] = (
    "accuracy",
    "validation_loss",
    "activated_params",
    *LANGUAGE_OBJECTIVES,
)
"""What candidates report after every epoch, and so all that a pruner can compare."""


def excess(constraint: str, bound: float, measures: Mapping[str, float]) -> float | None:
    """Returns by how much a constraint is violated; 0 or less means that it holds, None that it was not measured.

    Args:
        constraint: `min_` or `max_` and the name of a measure.
        bound: Its number in the study file.
        measures: What was measured.
    """
    side, _, measure = constraint.partition("_")
    if measure not in measures:
        return None
    above = measures[measure] - bound
    return above if side == "max" else -above


BOUNDS_KEPT_BY_RIVALS: frozenset[str] = frozenset(
    {
        "min_accuracy",
        "max_validation_loss",
        "max_activated_params",
        "max_perplexity",
        "max_bits_per_byte",
    }
)
"""Constraints that whoever beats a candidate keeps if the candidate does; a pruner may ignore them."""
