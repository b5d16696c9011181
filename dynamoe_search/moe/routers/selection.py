"""Selecting experts in ways that vmap accepts: no top-k, no boolean indexing, no branches.

Legend: scores are (tokens, experts), `is_open` is (experts,) bool. A closed slot is never selected
and changes no result. All but `rank_of` along another axis, `pooled_quantile` and `add_noise` take the tensors of
stacked routers too, see `Router.runs_stacked`.
"""

import math

import torch
from torch import Tensor

from dynamoe_search.moe.randomness import normal

# In float32 a product such as 100 * 0.29 may fall short of the whole number that is meant.
_INDEX_SLACK = 1e-4


def sigmoid(x: Tensor) -> Tensor:
    """Returns the logistic function by way of tanh, any shape.

    On the CPU torch's own `sigmoid` (like `softplus`, `silu` and `pow`) computes the last few entries of a tensor by
    other code than the rest, so a candidate's numbers would depend on its place in a pack.
    """
    return (1 + torch.tanh(x / 2)) / 2


def masked_softmax(logits: Tensor, keep: Tensor) -> Tensor:
    """Returns the softmax over the kept entries of each row; 0 elsewhere and where none is kept.

    Args:
        logits: (tokens, experts).
        keep: (tokens, experts) or (experts,) bool.
    """
    keeps_none = ~keep.any(-1, keepdim=True)
    kept = torch.where(keep | keeps_none, logits, -math.inf)
    if logits.device.type != "cpu":
        return kept.softmax(-1) * keep
    # on the CPU torch works along an axis as short as this a number at a time, but across many such axes at once
    return kept.mT.contiguous().softmax(-2).mT.contiguous() * keep


def rank_of(scores: Tensor, dim: int = -1) -> Tensor:
    """Returns each score's place along `dim`, 0 for the highest; of equals the earlier is first."""
    return place_of(scores.argsort(dim=dim, descending=True, stable=True), dim)


def place_of(order: Tensor, dim: int = -1) -> Tensor:
    """Returns where each number stands in `order`, which holds 0 to n - 1 once each along `dim`."""
    places = torch.arange(order.shape[dim], device=order.device)
    places = places[:, None].expand_as(order) if dim == 0 else places.expand_as(order)
    return torch.zeros_like(order).scatter(dim, order, places)


def highest(scores: Tensor, is_open: Tensor, k: Tensor) -> Tensor:
    """Returns which open experts are among their token's k highest, (tokens, experts) bool."""
    rank = rank_of(scores.masked_fill(~is_open, -math.inf))
    return (rank < k) & is_open


def or_best(keep: Tensor, scores: Tensor, is_open: Tensor) -> Tensor:
    """Returns `keep` (tokens, experts), with the best open expert where a token keeps none."""
    best = scores.masked_fill(~is_open, -math.inf).argmax(-1, keepdim=True)
    is_best = torch.arange(scores.shape[-1], device=scores.device) == best
    return torch.where(keep.any(-1, keepdim=True), keep, is_best) & is_open


def lower_quantile(scores: Tensor, is_open: Tensor, tau: Tensor) -> Tensor:
    """Returns each token's open score at the sorted place floor((n - 1) * tau), (tokens, 1).

    n is the number of open experts.
    No score lies between this one and the interpolated quantile at tau, so "greater than" selects
    the same experts with either, and this one is free of the rounding of an interpolation.
    """
    ascending = scores.masked_fill(~is_open, math.inf).sort(-1).values
    last = is_open.sum(-1, keepdim=True) - 1
    place = torch.floor(last * tau + _INDEX_SLACK).clamp(min=0)
    return ascending.gather(-1, place.long().expand(*scores.shape[:-1], 1))


def pooled_quantile(scores: Tensor, is_open: Tensor, tau: Tensor) -> Tensor:
    """Returns the linearly interpolated quantile at tau of all tokens' open scores together, ()."""
    ascending = scores.masked_fill(~is_open, math.inf).flatten().sort().values
    last = (is_open.sum() * scores.shape[0] - 1).clamp(min=0)
    place = last * tau
    below = place.floor().long()
    above = (below + 1).minimum(last)
    low = ascending.gather(0, below.reshape(1))[0]
    high = ascending.gather(0, above.reshape(1))[0]
    return torch.where(above > below, low + (high - low) * (place - below), low)


def add_noise(scores: Tensor, noise: Tensor, stream: Tensor) -> Tensor:
    """Returns `scores` plus Gaussian noise of standard deviation `noise` (), drawn from `stream`.

    The draw has the experts in front, so that the experts that exist draw the same numbers, up to
    the generator's blocks, whatever the number of padded slots behind them.
    """
    drawn = normal(stream, (scores.shape[-1], scores.shape[0]), scores.device)
    return scores + noise * drawn.t()


def balancing_bias(bias: Tensor, mask: Tensor, is_open: Tensor, rate: Tensor) -> Tensor:
    """Returns the next loss-free balancing bias, (experts,): up where the load is below the mean.

    Args:
        bias: (experts,) present bias.
        mask: (tokens, experts) bool, what was selected with it.
        is_open: (experts,) bool.
        rate: () step; 0 leaves the bias as it is.

    Source: Wang et al., 2024, arXiv:2408.15664, algorithm 1.
    """
    load = mask.float().mean(-2).view_as(bias)
    mean = load.sum(-1, keepdim=True) / is_open.sum(-1, keepdim=True).clamp(min=1)
    return (bias + rate * torch.sign(mean - load) * is_open).detach()


def running_mean(old: Tensor, new: Tensor, momentum: Tensor) -> Tensor:
    """Returns momentum * old + (1 - momentum) * new, or `new` where `old` is -inf, unset."""
    return torch.where(old.isneginf(), new, momentum * old + (1 - momentum) * new).detach()
