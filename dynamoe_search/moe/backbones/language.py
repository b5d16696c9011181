"""What language models share: token tables, their start, and a head that can be run on part of the tokens."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamoe_search.moe.routing import Routing
from dynamoe_search.records import ModelConfig

_LOGIT_SCALE = 0.25
"""Standard deviation of an untrained model's logits at most, which adds about half its square to the loss."""
_OWN_SHARE = 0.01
"""What the token that was read adds to that loss at most, whose row is its own answer if one table does both."""


class LanguageModel(nn.Module):
    """A network from tokens to the logits of the next tokens; a subclass has `body`.

    Rows of the tables are drawn so small that an untrained model gives every token nearly the same probability: its
    loss is the logarithm of the vocabulary. What is read is scaled up again, to a root mean square of 1.

    Args:
        num_tokens: Length of a sequence.
        vocabulary: How many tokens there are.
        config: Of the candidate.

    Source: one table to read and to write, Press and Wolf, 2017, arXiv:1608.05859; the scale is ours.
    """

    def __init__(self, num_tokens: int, vocabulary: int, config: ModelConfig) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        length = _LOGIT_SCALE * math.sqrt(config.d_model)  # of a row times what a norm gives
        if config.tie_embeddings:
            length = min(length, math.log1p(_OWN_SHARE * vocabulary))
        self.scale = config.d_model / length
        self.embed = nn.Embedding(vocabulary, config.d_model)
        self.head = None if config.tie_embeddings else nn.Embedding(vocabulary, config.d_model)
        for table in (self.embed, self.head):
            if table is not None:
                nn.init.normal_(table.weight, std=1 / self.scale)

    @property
    def vocabulary_tables(self) -> tuple[str, ...]:
        """Names of the parameters with one row per token of the vocabulary, the one that writes last."""
        return ("embed.weight",) if self.head is None else ("embed.weight", "head.weight")

    def read(self, x: Tensor) -> Tensor:
        """Returns the rows (batch, tokens, d_model) of tokens (batch, tokens), root mean square about 1."""
        rows: Tensor = self.embed(x) * self.scale
        return rows

    def body(self, x: Tensor) -> tuple[Tensor, list[Routing]]:
        """Returns what the head reads, (batch, tokens, d_model), of tokens (batch, tokens), and the routings."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, list[Routing]]:
        """Returns logits (batch, tokens, vocabulary) of tokens (batch, tokens) int64, and the routing of each layer."""
        hidden, routings = self.body(x)
        table = self.embed if self.head is None else self.head
        return F.linear(hidden, table.weight), routings


class Body(nn.Module):
    """A language model without its head, as a module to call.

    Args:
        model: Its parameters keep their names behind `model.`.
    """

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, list[Routing]]:
        """Returns what the head of the model reads, and the routings."""
        return self.model.body(x)


def is_language_shape(input_shape: Sequence[int]) -> bool:
    """Tells whether examples of this shape are sequences of tokens, (tokens,), and not images."""
    return len(input_shape) == 1


def example(input_shape: Sequence[int], batch: int, device: torch.device | str = "cpu") -> Tensor:
    """Returns a batch of zeros of the type that examples of this shape have: tokens int64, images float32."""
    dtype = torch.int64 if is_language_shape(input_shape) else torch.float32
    return torch.zeros(batch, *input_shape, dtype=dtype, device=device)
