"""Residual MLP of MoE layers, the setting of DynaMoE's image experiments."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from dynamoe_search.moe.layer import MoELayer
from dynamoe_search.moe.randomness import Dropout
from dynamoe_search.moe.routing import Routing
from dynamoe_search.records import ModelConfig


class MLPMoE(nn.Module):
    """One token per example: linear embedding, residual MoE layers, norm, linear head.

    Source: the review of Guelmez, 2026, arXiv:2603.01697 says that the tested networks are MLP-like without attention;
    the exact layout is ours.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        config: ModelConfig,
        layers: Sequence[MoELayer],
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(math.prod(input_shape), config.d_model)
        self.layers = nn.ModuleList(layers)
        self.dropouts = nn.ModuleList(Dropout(config.dropout) for _ in layers)
        self.norm = nn.LayerNorm(config.d_model)
        self.head = nn.Linear(config.d_model, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Routing]]:
        """Returns logits (batch, classes) of images (batch, channels, height, width), and the routing of each layer."""
        h = self.embed(x.flatten(1))  # (batch, d_model)
        routings = []
        for layer, dropout in zip(self.layers, self.dropouts, strict=True):
            h, routing = layer(h)
            h = dropout(h)
            routings.append(routing)
        return self.head(self.norm(h)), routings
