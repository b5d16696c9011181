"""A decoder of the GPT kind with MoE layers in place of its feed-forward blocks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynamoe_search.errors import CandidateError
from dynamoe_search.moe.activations import activate, inner_width
from dynamoe_search.moe.attention import attend
from dynamoe_search.moe.backbones.language import LanguageModel
from dynamoe_search.moe.layer import MoELayer
from dynamoe_search.moe.norms import RMSNorm
from dynamoe_search.moe.randomness import Dropout
from dynamoe_search.moe.routing import Routing
from dynamoe_search.records import ModelConfig

_ROTARY_BASE = 10_000.0


class CausalAttention(nn.Module):
    """Pre-norm residual multi-head attention in which a token sees itself and earlier ones; rotary positions.

    Args:
        d_model: Width of the tokens; a multiple of 2 * num_heads.
        num_heads: Heads.
        num_tokens: Longest sequence.

    Source: Su et al., 2021, arXiv:2104.09864, eq. 34, with the two halves of a head as the pairs.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, d_model: int, num_heads: int, num_tokens: int) -> None:
        super().__init__()
        self.norm = RMSNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.num_heads = num_heads
        half = d_model // num_heads // 2
        rates = _ROTARY_BASE ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.arange(num_tokens, dtype=torch.float64)[:, None] * rates
        self.register_buffer("cos", angles.cos().float(), persistent=False)  # (tokens, half)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns tokens of the same shape as `x` (batch, tokens, d_model)."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, tokens, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (batch, heads, tokens, width)
        mixed = attend(self._turned(query), self._turned(key), value, is_causal=True)
        out: Tensor = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return out

    def _turned(self, x: Tensor) -> Tensor:
        """Returns queries or keys (batch, heads, tokens, width), each pair turned by its token's angle."""
        cos, sin = self.cos[: x.shape[-2]], self.sin[: x.shape[-2]]
        first, second = x.chunk(2, -1)
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
        return turned.to(x.dtype)


class FeedForward(nn.Module):
    """A pre-norm residual network like one expert, which every token uses: what stands where no MoE layer does."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.d_model)
        self.first = nn.Linear(config.d_model, inner_width(config.d_expert, config.expert))
        self.second = nn.Linear(config.d_expert, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Returns tokens of the same shape as `x` (..., d_model)."""
        out: Tensor = x + self.second(activate(self.first(self.norm(x)), self.second.in_features))
        return out


class GPTMoE(LanguageModel):
    """Token table, blocks of attention and feed-forward, norm, head; every `moe_every`-th block has a MoE layer.

    A candidate with n MoE layers has n * moe_every blocks.

    Source: pre-norm decoder, Radford et al., 2019, "Language Models are Unsupervised Multitask Learners"; MoE in every
    n-th block, Lepikhin et al., 2020, arXiv:2006.16668. RMSNorm and rotary positions as in Touvron et al., 2023,
    arXiv:2302.13971.

    Raises:
        CandidateError: if the heads do not divide the width into even parts.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        config: ModelConfig,
        layers: Sequence[MoELayer],
    ) -> None:
        super().__init__(input_shape[0], num_classes, config)
        if config.d_model % (2 * config.num_heads):
            raise CandidateError(
                "impossible-design",
                f"model.num_heads must divide model.d_model ({config.d_model}) into even parts, "
                f"got {config.num_heads}",
            )
        num_blocks = len(layers) * config.moe_every
        self.attentions = nn.ModuleList(
            CausalAttention(config.d_model, config.num_heads, input_shape[0])
            for _ in range(num_blocks)
        )
        self.dense = nn.ModuleList(FeedForward(config) for _ in range(num_blocks - len(layers)))
        self.layers = nn.ModuleList(layers)
        self.dropouts = nn.ModuleList(Dropout(config.dropout) for _ in range(num_blocks))
        self.norm = RMSNorm(config.d_model)
        self.every = config.moe_every

    def body(self, x: Tensor) -> tuple[Tensor, list[Routing]]:
        """Returns what the head reads, (batch, tokens, d_model), of tokens (batch, tokens), and the routings."""
        h = self.read(x)
        routings = []
        dense = iter(self.dense)
        layers = iter(self.layers)
        for block, (attention, dropout) in enumerate(
            zip(self.attentions, self.dropouts, strict=True), start=1
        ):
            h = attention(h)
            if block % self.every:
                h = next(dense)(h)
            else:
                h, routing = next(layers)(h)
                routings.append(routing)
            h = dropout(h)
        return self.norm(h), routings
