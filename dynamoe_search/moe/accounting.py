"""Sizes and costs of a network that is there, any network that is built from `MoELayer`.

What is counted, and the formula that agrees with it for the backbones of ours, is in `formulas.py`.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dynamoe_search.moe.formulas import ParameterCounts, formula_counts, formula_flops
from dynamoe_search.moe.layer import MoELayer


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Returns the parameter counts of a network of one candidate, its MoE layers as registered.

    Args:
        model: The network; its layers' `is_open` says which experts count.
    """
    layers = [layer for _, layer in _moe_layers(model)]
    ours = {
        id(parameter)
        for layer in layers
        for part in (layer.router, layer.experts)
        for parameter in part.parameters()
    }
    tables = {
        id(table): table.numel()
        for name in getattr(model, "vocabulary_tables", ())
        for table in [model.get_parameter(name)]
    }
    apart = ours | tables.keys()
    return ParameterCounts(
        shared=sum(p.numel() for p in model.parameters() if id(p) not in apart),
        embedding=sum(tables.values()),
        router_per_layer=tuple(
            sum(_num_open_elements(layer, *item) for item in layer.router.named_parameters())
            for layer in layers
        ),
        expert_per_layer=tuple(_expert_size(layer) for layer in layers),
        experts_per_layer=tuple(int(layer.is_open.sum()) for layer in layers),
        slots_per_layer=tuple(layer.is_open.numel() for layer in layers),
    )


def flops_per_token(
    model: nn.Module, input_shape: Sequence[int], mean_k_per_layer: Sequence[float]
) -> float:
    """Returns the operations of a forward pass per token.

    What lies outside the MoE layers is counted by running one example of zeros. For a MoE layer,
    every row of its router costs one product with a token, and the experts cost `mean_k` times
    the products of one expert. An example has as many tokens as enter the first MoE layer.

    Args:
        model: The network of one candidate; its mode and weights stay as they are.
        input_shape: (channels, height, width) of one image, or (tokens,) of one sequence.
        mean_k_per_layer: Measured mean number of experts per token, per layer.
    """
    num_tokens: dict[str, int] = {}
    dtype = torch.int64 if len(input_shape) == 1 else torch.float32  # tokens or an image
    device = next(model.parameters()).device
    example = torch.zeros(1, *input_shape, dtype=dtype, device=device)
    layers = dict(_moe_layers(model))
    hooks = [
        layer.register_forward_pre_hook(_TokenCounter(name, num_tokens))
        for name, layer in layers.items()
    ]
    was_training = model.training
    model.eval()
    try:
        # the counter knows products, and of attention's kernels not all: take the one of products
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as run:
            model(example)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    by_module = run.get_flop_counts()
    root = type(model).__name__
    flops = float(run.get_total_flops())
    for (name, layer), mean_k in zip(layers.items(), mean_k_per_layer, strict=True):
        flops -= sum(by_module.get(f"{root}.{name}", {}).values())
        flops += 2 * num_tokens[name] * (_router_products(layer) + mean_k * _expert_products(layer))
    return flops / num_tokens[next(iter(layers))]


class _TokenCounter:
    """A hook that notes how many tokens enter a layer."""

    def __init__(self, name: str, num_tokens: dict[str, int]) -> None:
        self.name = name
        self.num_tokens = num_tokens

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.num_tokens[self.name] = inputs[0].numel() // inputs[0].shape[-1]


def _moe_layers(model: nn.Module) -> Iterator[tuple[str, MoELayer]]:
    return ((name, part) for name, part in model.named_modules() if isinstance(part, MoELayer))


def _num_open_elements(layer: MoELayer, name: str, parameter: nn.Parameter) -> int:
    """Elements of a router's parameter without those of closed experts."""
    dim: int | None = layer.router.expert_dims.get(name)
    if dim is None:
        return parameter.numel()
    num_open = int(layer.is_open.sum())
    return parameter.numel() // parameter.shape[dim] * num_open


def _expert_size(layer: MoELayer) -> int:
    return sum(parameter[0].numel() for parameter in layer.experts.parameters())


def _router_products(layer: MoELayer) -> int:
    """Multiply-accumulates per token: the router's matrices are rows to compare the token with."""
    return sum(
        _num_open_elements(layer, name, parameter)
        for name, parameter in layer.router.named_parameters()
        if parameter.ndim == 2
    )


def _expert_products(layer: MoELayer) -> int:
    """Multiply-accumulates of one expert for one token."""
    return sum(
        parameter[0].numel() for parameter in layer.experts.parameters() if parameter.ndim == 3
    )


__all__ = [
    "ParameterCounts",
    "count_parameters",
    "flops_per_token",
    "formula_counts",
    "formula_flops",
]
