"""`Routing`: what a router decided for the tokens of one layer.

It is a return value and never kept as an attribute, so that vmap works.

Legend: tokens = all tokens of the batch, experts = expert slots of the layer, open, closed or
padding.
"""

from typing import NamedTuple

from torch import Tensor


class Routing(NamedTuple):
    """Decision of a router; every tensor except `mask` and `is_open` is float32."""

    gate: Tensor
    """(tokens, experts): mixing weights, 0 where an expert is not selected; carries gradient."""
    mask: Tensor
    """(tokens, experts) bool: which experts compute for which token."""
    probs: Tensor
    """(tokens, experts): scores of the router, 0 in closed slots; carries gradient.

    Softmax probabilities; for `relu` the rectified logits; for `top-any` the gates before division,
    0 or 1, with their straight-through gradient; for `null-experts` the real experts' part of the
    softmax, which sums to less than 1."""
    logits: Tensor
    """(tokens, experts): input of softmax, sigmoid or relu, 0 in closed slots; carries gradient."""
    weight: Tensor
    """(experts, d_model): one row of the router per expert, zeros for kinds that have none."""
    is_open: Tensor
    """(experts,) bool."""
    unrouted: Tensor
    """(d_model,): sum of the router's inputs over tokens that selected nobody; set by the layer."""
    state: dict[str, Tensor]
    """New values of the router's running buffers by name, without gradient; empty in evaluation."""
    null_load: Tensor | None = None
    """(): tokens that chose a null expert, as a share, mean over the null experts; else 0.

    The load-balance loss reads it. None, which counts as 0, if it was left out."""


class Chosen(NamedTuple):
    """What of a layer's routing is read after a training step, of a whole pack and without the way back.

    Nodes of the way back would keep a pass in memory, and a CUDA graph of the next from being recorded.
    """

    mask: Tensor
    """(candidates, tokens, experts) bool."""
    unrouted: Tensor
    """(candidates, d_model)."""
    state: dict[str, Tensor]

    @classmethod
    def of(cls, routing: Routing) -> "Chosen":
        """Returns it of a pack's routing."""
        state = {name: value.detach() for name, value in (routing.state or {}).items()}
        return cls(routing.mask, routing.unrouted.detach(), state)
