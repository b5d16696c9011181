"""Sizes and costs of a network from its candidate alone, without building it. No torch.

What is counted, here and in `accounting.py`:

- Total parameters: everything outside the MoE layers' routers and experts (`shared`, which includes
  the layers' norms), the router, and the experts. Only open experts count, with their router rows
  and thresholds: closed slots are not part of the model that is exported. Running buffers, such as
  a balancing bias, are not parameters.
- Activated parameters: shared + all routers + for each layer the mean number of experts per token
  times the parameters of one expert. The mean is measured on validation data.
- Operations: 2 for each multiply-accumulate of a matrix product in a forward pass (linear maps,
  attention scores and mixtures, router rows, chosen experts). Norms, activations, softmax, biases
  and the mixing of expert outputs are left out. `flops_per_token` is the sum over one example,
  embedding and head included, divided by its tokens: 1 for an `mlp`, its patches for a `vit`, all of
  a sequence for a language model. Since attention is quadratic in the number of tokens, the figure
  holds for that size of image or length of sequence; what a causal mask hides is not taken off.
- Language models: the tables of the vocabulary, one that reads and one that writes or both in one,
  are counted apart (`embedding`), in neither total nor activated parameters, since with a large
  vocabulary they would hide the rest; `_with_embeddings` adds them. So do Kaplan et al., 2020,
  arXiv:2001.08361, sec. 2.1. The operations of the table that writes do count.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from dynamoe_search.errors import UsageError
from dynamoe_search.records import Candidate, RouterConfig
from dynamoe_search.specs.vocabulary import LANGUAGE_BACKBONES


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterCounts:
    """Parameters of a network by what they are for; tuples have one number per MoE layer."""

    shared: int  # embedding, attention, norms, head
    router_per_layer: tuple[int, ...]  # rows of open experts, null experts, thresholds, scale
    expert_per_layer: tuple[int, ...]  # one expert
    experts_per_layer: tuple[int, ...]  # how many are open
    slots_per_layer: tuple[int, ...]  # how many exist, open or not
    embedding: int = 0  # tables of a language model's vocabulary, in none of the sums below

    @property
    def router(self) -> int:
        """Parameters of the routers of all layers."""
        return sum(self.router_per_layer)

    @property
    def total(self) -> int:
        """All parameters, open experts only."""
        return self.shared + self.router + int(self._with_experts(self.experts_per_layer))

    def activated(self, mean_k_per_layer: Sequence[float]) -> float:
        """Returns the activated parameters per token.

        Args:
            mean_k_per_layer: Measured mean number of experts per token, per layer.
        """
        return self.shared + self.router + self._with_experts(mean_k_per_layer)

    def _with_experts(self, num_per_layer: Sequence[float]) -> float:
        return sum(n * size for n, size in zip(num_per_layer, self.expert_per_layer, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class _RouterSize:
    """What a router has besides one row of d_model per expert."""

    has_rows: bool = True
    num_thresholds: int = 0  # per expert
    num_scales: int = 0
    num_null: int = 0  # rows


_ROUTERS: Mapping[str, Callable[[RouterConfig], _RouterSize]] = MappingProxyType(
    {
        "top-any": lambda config: _RouterSize(
            num_thresholds=1, num_scales=int(bool(config.learn_logit_scale))
        ),
        "null-experts": lambda config: _RouterSize(num_null=config.null_experts or 0),
        "random-k": lambda _: _RouterSize(has_rows=False),
        "dense": lambda _: _RouterSize(has_rows=False),
    }
)
"""The routers that have more or less than the rows."""


def formula_counts(
    candidate: Candidate,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    open_per_layer: Sequence[int] | None = None,
) -> ParameterCounts:
    """Returns the parameter counts of a candidate with a backbone of ours.

    Args:
        candidate: The candidate.
        input_shape: (channels, height, width) of one image, or (tokens,) of one sequence.
        num_classes: How many classes there are, or tokens of the vocabulary.
        open_per_layer: Open experts, if they are no longer those of the start.

    Raises:
        UsageError: If the backbone is the user's own, for which there is no formula.
    """
    model = candidate.model
    width, hidden = model.d_model, model.d_expert
    num_open = tuple(candidate.experts_per_layer if open_per_layer is None else open_per_layer)
    size = _router_size(candidate.router)
    if model.backbone in LANGUAGE_BACKBONES:
        return _language_counts(candidate, num_classes, num_open, size)
    per_layer = 2 * width  # the MoE layer's norm
    if model.backbone == "vit":
        positions = num_tokens(candidate, input_shape) * width
        attention = 2 * width + _linear(width, 3 * width) + _linear(width, width)
        per_layer += attention
    else:
        positions = 0
    embed = _linear(_features_per_token(candidate, input_shape), width)
    head = 2 * width + _linear(width, num_classes)
    return ParameterCounts(
        shared=embed + positions + len(num_open) * per_layer + head,
        router_per_layer=tuple(_router_parameters(size, width, n) for n in num_open),
        expert_per_layer=(_linear(width, hidden) + _linear(hidden, width),) * len(num_open),
        experts_per_layer=num_open,
        slots_per_layer=candidate.slots_per_layer,
    )


def _language_counts(
    candidate: Candidate, vocabulary: int, num_open: tuple[int, ...], size: _RouterSize
) -> ParameterCounts:
    model = candidate.model
    width, hidden = model.d_model, model.d_expert
    inner = 2 * hidden if model.expert == "swiglu" else hidden
    feed_forward = _linear(width, inner) + _linear(hidden, width)
    if model.backbone == "gpt":
        num_dense = len(num_open) * (model.moe_every - 1)
        num_blocks = len(num_open) + num_dense
        blocks = num_blocks * (2 * width + 4 * width * width) + num_dense * feed_forward
        shared = blocks + width
    else:
        shared = (len(num_open) + 1) * 2 * width
    return ParameterCounts(
        shared=shared,
        router_per_layer=tuple(_router_parameters(size, width, n) for n in num_open),
        expert_per_layer=(feed_forward,) * len(num_open),
        experts_per_layer=num_open,
        slots_per_layer=candidate.slots_per_layer,
        embedding=(1 if model.tie_embeddings else 2) * vocabulary * width,
    )


def _router_parameters(size: _RouterSize, width: int, num_open: int) -> int:
    rows = num_open * (size.has_rows * width + size.num_thresholds)
    return rows + size.num_null * width + size.num_scales


def formula_flops(
    candidate: Candidate,
    input_shape: Sequence[int],
    num_classes: int,
    mean_k_per_layer: Sequence[float],
    *,
    open_per_layer: Sequence[int] | None = None,
) -> float:
    """Returns the operations of a forward pass per token, for a backbone of ours.

    Args:
        candidate: The candidate.
        input_shape: (channels, height, width) of one image, or (tokens,) of one sequence.
        num_classes: How many classes there are, or tokens of the vocabulary.
        mean_k_per_layer: Measured mean number of experts per token, per layer.
        open_per_layer: Open experts, if they are no longer those of the start.

    Raises:
        UsageError: If the backbone is the user's own, for which there is no formula.
    """
    model = candidate.model
    width = model.d_model
    tokens = num_tokens(candidate, input_shape)
    num_open = candidate.experts_per_layer if open_per_layer is None else open_per_layer
    size = _router_size(candidate.router)
    is_language = model.backbone in LANGUAGE_BACKBONES
    expert = (3 if is_language and model.expert == "swiglu" else 2) * width * model.d_expert
    per_token: float = 0.0
    if not is_language:
        per_token = _features_per_token(candidate, input_shape) * width
    if model.backbone in ("vit", "gpt"):
        blocks = model.num_layers * (model.moe_every if model.backbone == "gpt" else 1)
        per_token += blocks * (4 * width * width + 2 * tokens * width)
        per_token += (blocks - model.num_layers) * expert
    for n, mean_k in zip(num_open, mean_k_per_layer, strict=True):
        per_token += (n * size.has_rows + size.num_null) * width
        per_token += mean_k * expert
    return 2 * (per_token + width * num_classes / (1 if is_language else tokens))


def num_tokens(candidate: Candidate, input_shape: Sequence[int]) -> int:
    """Returns how many tokens one example is made of.

    Raises:
        UsageError: If the backbone is the user's own, for which there is no formula.
    """
    model = candidate.model
    if model.backbone == "mlp":
        return 1
    if model.backbone == "vit":
        return math.prod(side // model.patch_size for side in input_shape[1:])
    if model.backbone in LANGUAGE_BACKBONES:
        return input_shape[0]
    raise UsageError(
        f"there is no formula for backbone {model.backbone!r}, only for mlp, vit, gpt and mlp-lm; "
        "build the model and count with moe.accounting"
    )


def _features_per_token(candidate: Candidate, input_shape: Sequence[int]) -> int:
    return math.prod(input_shape) // num_tokens(candidate, input_shape)


def _router_size(config: RouterConfig) -> _RouterSize:
    return _ROUTERS[config.kind](config) if config.kind in _ROUTERS else _RouterSize()


def _linear(inputs: int, outputs: int) -> int:
    """Parameters of a linear map with bias."""
    return (inputs + 1) * outputs
