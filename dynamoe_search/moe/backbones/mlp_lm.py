"""MoE layers over tokens that do not see each other, as in DynaMoE's published language experiments."""

from collections.abc import Sequence

from torch import Tensor, nn

from dynamoe_search.moe.backbones.language import LanguageModel
from dynamoe_search.moe.layer import MoELayer
from dynamoe_search.moe.randomness import Dropout
from dynamoe_search.moe.routing import Routing
from dynamoe_search.records import ModelConfig


class MLPLanguageModel(LanguageModel):
    """Token table, residual MoE layers, norm, head. The next token is told from the present one alone.

    So no such model can beat the entropy of pairs of tokens.

    Source: a public review of Guelmez, 2026, arXiv:2603.01697 says that the networks tested there have no attention;
    the exact layout is ours.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        config: ModelConfig,
        layers: Sequence[MoELayer],
    ) -> None:
        super().__init__(input_shape[0], num_classes, config)
        self.layers = nn.ModuleList(layers)
        self.dropouts = nn.ModuleList(Dropout(config.dropout) for _ in layers)
        self.norm = nn.LayerNorm(config.d_model)

    def body(self, x: Tensor) -> tuple[Tensor, list[Routing]]:
        """Returns what the head reads, (batch, tokens, d_model), of tokens (batch, tokens), and the routings."""
        h = self.read(x)
        routings = []
        for layer, dropout in zip(self.layers, self.dropouts, strict=True):
            h, routing = layer(h)
            h = dropout(h)
            routings.append(routing)
        return self.norm(h), routings
