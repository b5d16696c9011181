"""Auxiliary losses: each turns the `Routing` of one layer into one number per candidate.

Legend: tokens = all tokens of the batch, experts = expert slots of the layer, `...` = nothing for
one candidate, or a leading candidates axis on every tensor. Everything is float32. Closed slots
change no loss.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from dynamoe_search.moe.routing import Routing


def load_balance(routing: Routing, normalize: Tensor | bool = True) -> Tensor:
    """Returns n * sum over experts of f_e * Q_e, (...), for n open experts.

    f_e is the share of the tokens that selected e (no gradient), divided by the mean number of
    experts per token if `normalize`; then perfect balance gives 1 whatever that number is, else it
    gives that number, and using few experts is rewarded. A mean below 1 counts as 1. Q_e is the
    mean of `Routing.probs`, each token's divided by their sum where that exceeds 1 (no gradient
    through the sum): for softmax kinds the mean probability, for `top-any` the mean of g / k.
    Tokens whose scores are all 0 are left out of both means. The null experts of `null-experts`
    enter as one group with their average load and the probability that the real experts leave.

    Args:
        routing: A layer's decision.
        normalize: Whether to divide by the mean number of experts, bool or (...) bool.

    Source: Fedus et al., 2021, arXiv:2101.03961, eq. 4 to 6, and Huang et al., 2024,
    arXiv:2403.07652, for softmax; the code of Guo et al., 2024, arXiv:2405.14297, for top-any; Zeng
    et al., 2024, arXiv:2406.13233, for null experts, where our factor n counts the real experts
    only. Dividing by the mean number of experts is ours.
    """
    total = routing.probs.detach().sum(-1, keepdim=True)  # (..., tokens, 1)
    counts = (total > 0).float()
    num_counted = counts.sum((-2, -1)).clamp(min=1)[..., None]  # (..., 1)
    share = (routing.probs / total.clamp(min=1)).sum(-2) / num_counted  # (..., experts)
    load = (routing.mask * counts).sum(-2) / num_counted  # (..., experts)
    inner = (load * share).sum(-1)
    if routing.null_load is not None:
        inner = inner + routing.null_load * (1 - share.sum(-1))
    normalize = torch.as_tensor(normalize, device=inner.device)
    mean_k = torch.where(normalize, load.sum(-1).clamp(min=1), 1.0)
    return routing.is_open.sum(-1) * inner / mean_k


def diversity(routing: Routing) -> Tensor:
    """Returns the Frobenius norm of the cosines between rows of different open experts, (...).

    Cosines up to 1e-6 count as 0. The norm has a kink where all are 0, which is where orthonormal
    rows start: its slope there would be the direction of the rounding errors.

    Source: Guo et al., 2024, arXiv:2405.14297, as in the authors' code (the norm is not squared,
    rows are normalised).
    """
    rows = routing.weight * routing.is_open[..., None]
    rows = rows / _norm(rows).clamp(min=1e-12)[..., None]
    cosines = rows @ rows.transpose(-1, -2)  # (..., experts, experts)
    counts = 1 - torch.eye(rows.shape[-2], device=rows.device)
    counts = counts * (cosines.abs() > 1e-6)
    return _norm((cosines * counts).flatten(-2))


def simplicity(routing: Routing) -> Tensor:
    """Returns the mean length of the router rows, (...), of open and of closed experts.

    Rows of zeros are padding or belong to kinds without rows, and do not count.

    Source: Guo et al., 2024, arXiv:2405.14297, as in the authors' code (which counts closed experts
    too).
    """
    length = _norm(routing.weight)  # (..., experts)
    return length.sum(-1) / (length > 0).sum(-1).clamp(min=1)


def efficiency(routing: Routing) -> Tensor:
    """Returns the mean share of the open experts that is active, (...).

    The gradient is that of the scores: for `top-any` the straight-through gradient of the gates,
    for `relu` that of the rectified logits.

    Source: the code of Guo et al., 2024, arXiv:2405.14297 (which divides by all experts, open or
    not).
    """
    active = routing.mask + (routing.probs - routing.probs.detach())
    return active.sum(-1).mean(-1) / routing.is_open.sum(-1).clamp(min=1)


def dynamic(routing: Routing) -> Tensor:
    """Returns the mean over tokens of the entropy of the router's probabilities, (...), in nats.

    For `null-experts` the sum runs over real experts.

    Source: Huang et al., 2024, arXiv:2403.07652; the mean over tokens is our reading.
    """
    probs = routing.probs
    terms = probs * torch.where(probs > 0, probs, 1.0).log()  # (..., tokens, experts)
    return -terms.sum(-1).mean(-1)


def z(routing: Routing) -> Tensor:
    """Returns the mean over tokens of the squared log-sum-exp of the open experts' logits, (...).

    Source: Zoph et al., 2022, arXiv:2202.08906, eq. 5.
    """
    is_open = routing.is_open[..., None, :]
    has_open = is_open.any(-1, keepdim=True)
    logits = torch.where(is_open | ~has_open, routing.logits, -math.inf)
    return (logits.logsumexp(-1).square() * has_open[..., 0]).mean(-1)


def sparsity_penalty(probs: Tensor, sparsity: Tensor) -> Tensor:
    """Returns sparsity * sum over experts of f_e * Q_e, (...), which steers `relu` routers.

    Q_e is the mean of the rectified logits and f_e the share of all expert calls that expert e has
    (no gradient), so that busy experts are pushed down more. With an even load this is the mean sum
    of gates divided by the experts.

    Args:
        probs: (..., tokens, experts) rectified logits, `Routing.probs`.
        sparsity: (...) coefficient, `Routing.state["sparsity"]`, which has this batch's correction
            in it already.

    Source: Wang et al., 2024, arXiv:2412.14711, L1 term with load balancing, as in the authors'
    code, which multiplies by experts / target where we divide by the measured number of experts per
    token: a factor that is nearly constant once on target, and that the steered coefficient
    absorbs. There the correction takes effect one step later.
    """
    load = (probs > 0).float().mean(-2)  # (..., experts)
    load = load / load.sum(-1, keepdim=True).clamp(min=1e-12)
    return sparsity.detach() * (load * probs.mean(-2)).sum(-1)


_LOSSES: dict[str, Callable[[Routing], Tensor]] = {
    "diversity": diversity,
    "simplicity": simplicity,
    "efficiency": efficiency,
    "dynamic": dynamic,
    "z": z,
}


def auxiliary_losses(
    routing: Routing, names: Iterable[str], normalize_load_balance: Tensor | bool = True
) -> dict[str, Tensor]:
    """Returns the named losses of one layer, each (...) and unweighted.

    Args:
        routing: A layer's decision.
        names: Which losses, by their name in `[losses]` of a study file.
        normalize_load_balance: Bool or (...) bool, see `load_balance`.

    Raises:
        KeyError: A name is not one of a loss.
    """
    return {
        name: load_balance(routing, normalize_load_balance)
        if name == "load_balance"
        else _LOSSES[name](routing)
        for name in names
    }


def _norm(x: Tensor) -> Tensor:
    """Returns the Euclidean norm over the last axis, with gradient 0 where it is 0."""
    squared = x.square().sum(-1)
    is_zero = squared == 0
    return torch.where(is_zero, 0.0, torch.where(is_zero, 1.0, squared).sqrt())
