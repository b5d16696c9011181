"""A small vision transformer with a MoE layer in place of every feed-forward block."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynamoe_search.errors import CandidateError
from dynamoe_search.moe.attention import attend
from dynamoe_search.moe.layer import MoELayer
from dynamoe_search.moe.randomness import Dropout
from dynamoe_search.moe.routing import Routing
from dynamoe_search.records import ModelConfig


class SelfAttention(nn.Module):
    """Pre-norm residual multi-head self-attention over (batch, tokens, d_model)."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.num_heads = num_heads

    def forward(self, x: Tensor) -> Tensor:
        """Returns tokens of the same shape as `x`."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, tokens, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (batch, heads, tokens, width)
        mixed = attend(query, key, value).transpose(1, 2).reshape(batch, tokens, width)
        out: Tensor = x + self.out(mixed)
        return out


class ViTMoE(nn.Module):
    """Patches as tokens, learned positions, attention and MoE layers in turn, mean over tokens, linear head.

    Source: Dosovitskiy et al., 2021, arXiv:2010.11929, with the mean of the tokens in place of a class token.

    Raises:
        CandidateError: if the patch size does not divide the image or the heads do not divide the width.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        config: ModelConfig,
        layers: Sequence[MoELayer],
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        patch = config.patch_size
        if height % patch or width % patch:
            raise CandidateError(
                "impossible-design",
                f"model.patch_size must divide the image ({height} x {width}), got {patch}",
            )
        if config.d_model % config.num_heads:
            raise CandidateError(
                "impossible-design",
                f"model.num_heads must divide model.d_model ({config.d_model}), got {config.num_heads}",
            )
        self.patch = patch
        num_tokens = (height // patch) * (width // patch)
        self.embed = nn.Linear(channels * patch * patch, config.d_model)
        self.positions = nn.Parameter(
            torch.randn(num_tokens, config.d_model) / math.sqrt(config.d_model)
        )
        self.attentions = nn.ModuleList(
            SelfAttention(config.d_model, config.num_heads) for _ in layers
        )
        self.layers = nn.ModuleList(layers)
        self.dropouts = nn.ModuleList(Dropout(config.dropout) for _ in layers)
        self.norm = nn.LayerNorm(config.d_model)
        self.head = nn.Linear(config.d_model, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Routing]]:
        """Returns logits (batch, classes) of images (batch, channels, height, width), and the routing of each layer."""
        batch, channels, height, width = x.shape
        p = self.patch
        x = x.reshape(batch, channels, height // p, p, width // p, p)
        x = x.permute(0, 2, 4, 1, 3, 5).reshape(
            batch, -1, channels * p * p
        )  # (batch, tokens, patch)
        h = self.embed(x) + self.positions  # (batch, tokens, d_model)
        routings = []
        for attention, layer, dropout in zip(
            self.attentions, self.layers, self.dropouts, strict=True
        ):
            h, routing = layer(attention(h))
            h = dropout(h)
            routings.append(routing)
        return self.head(self.norm(h).mean(1)), routings
