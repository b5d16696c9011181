"""Networks around MoE layers. `build_model` is the only dispatcher on backbone names.

A backbone is a module class that is called as `Class(input_shape, num_classes, config, layers)` with

- input_shape: (channels, height, width) of one image, or (tokens,) of one sequence,
- num_classes: how many logits to return: classes, or tokens of the vocabulary,
- config: the candidate's `ModelConfig`,
- layers: the candidate's MoE layers, already built, first to last,

and whose `forward(x)` takes (batch, channels, height, width) and returns the logits (batch, classes) and a list with
one `Routing` per MoE layer. A language model takes tokens (batch, tokens) int64 and returns (batch, tokens,
vocabulary); it may name its tables of the vocabulary in an attribute `vocabulary_tables`, to be counted apart.

A user's own class follows the same contract. It may not change its buffers (as `nn.BatchNorm` does with its running
statistics), since a candidate's state is its parameters and its routers'. Only candidates whose modules agree on all
numbers and texts kept outside tensors are trained together: a rate that is searched belongs into a buffer, as in
`moe.randomness.Dropout`. On the CPU its numbers are independent of its company to the last bit if it keeps away from
torch's `sigmoid`, `silu`, `softplus` and `pow`, see `routers.selection.sigmoid`.
"""

import importlib
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn
from torch.func import functional_call

from dynamoe_search.errors import UsageError
from dynamoe_search.moe.backbones.gpt import GPTMoE
from dynamoe_search.moe.backbones.language import example
from dynamoe_search.moe.backbones.mlp import MLPMoE
from dynamoe_search.moe.backbones.mlp_lm import MLPLanguageModel
from dynamoe_search.moe.backbones.vit import ViTMoE
from dynamoe_search.moe.layer import MoELayer
from dynamoe_search.moe.routers import build_router
from dynamoe_search.records import Candidate, ModelConfig
from dynamoe_search.seeding import derive_seed


class Backbone(Protocol):
    """What `build_model` calls to make a network, see the module's docstring."""

    def __call__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        config: ModelConfig,
        layers: Sequence[MoELayer],
    ) -> nn.Module:
        """Returns the network."""
        ...


BACKBONES: dict[str, Backbone] = {
    "mlp": MLPMoE,
    "vit": ViTMoE,
    "gpt": GPTMoE,
    "mlp-lm": MLPLanguageModel,
}


def find_backbone(name: str, *, trust_code: bool = False) -> Backbone:
    """Returns the backbone of that name, importing `package.module:Class` only if `trust_code` is true.

    Raises:
        UsageError: if the name is unknown, the import is not allowed, or it fails.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    module_name, _, class_name = name.partition(":")
    if not class_name:
        raise UsageError(f"unknown backbone {name!r}; use {', '.join(BACKBONES)} or module:Class")
    if not trust_code:
        raise UsageError(
            f"backbone {name!r} is code of the study's author; add --trust-code, in Python trust_code=True, "
            "to import and run it"
        )
    try:
        backbone: Backbone = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UsageError(f"backbone {name!r} cannot be imported: {error}") from error
    return backbone


def build_model(
    candidate: Candidate,
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    trust_code: bool = False,
) -> nn.Module:
    """Returns the candidate's network with the initial weights that belong to its study seed and ordinal.

    The global random state is left as it was.

    Raises:
        UsageError: if the backbone cannot be had (see `find_backbone`), has no MoE layer or changes its buffers.
    """
    config = candidate.model
    backbone = find_backbone(config.backbone, trust_code=trust_code)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(candidate.study_seed, candidate.ordinal, "init"))
        layers = [
            MoELayer(
                config.d_model,
                config.d_expert,
                num_slots,
                build_router(candidate.router, num_slots, config.d_model),
                num_open,
                expert=config.expert,
                norm="rms" if config.backbone == "gpt" else "layer",
            )
            for num_slots, num_open in zip(
                candidate.slots_per_layer, candidate.experts_per_layer, strict=True
            )
        ]
        model = backbone(input_shape, num_classes, config, layers)
        if config.backbone not in BACKBONES:
            _check(model, config.backbone, input_shape)
        return model


def _check(model: nn.Module, name: str, input_shape: tuple[int, ...]) -> None:
    """Raises `UsageError` if a user's network cannot be trained here, found out with a pass of two random examples."""
    if not any(isinstance(module, MoELayer) for module in model.modules()):
        raise UsageError(f"backbone {name!r} holds none of the MoE layers that it was given")
    before = dict(model.named_buffers())
    after = {name: buffer.clone() for name, buffer in before.items()}
    with torch.no_grad():
        functional_call(model, after, (example(input_shape, 2).random_(0, 2),))
    changed = [name for name, buffer in before.items() if not torch.equal(buffer, after[name])]
    if changed:
        raise UsageError(
            f"backbone {name!r} changes its buffer {changed[0]} while it trains, and running statistics such as those "
            "of nn.BatchNorm are not kept; use nn.LayerNorm or nn.GroupNorm"
        )


__all__ = [
    "BACKBONES",
    "Backbone",
    "GPTMoE",
    "MLPLanguageModel",
    "MLPMoE",
    "ViTMoE",
    "build_model",
    "find_backbone",
]
