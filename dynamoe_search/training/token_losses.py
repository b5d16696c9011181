"""Cross-entropy, of whole logits or of a language model's head that is run on part of the tokens at a time.

Legend: P candidates, n tokens of a batch, V entries of the vocabulary. The logits of all tokens would be P * n * V
numbers, often more than all else together; here only those of one part are there at a time. How large a part is depends
on V alone: on neither memory nor company, which would change how sums are rounded.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamoe_search.moe.asynchrony import runs_ahead
from dynamoe_search.training import heads_on_cpu
from dynamoe_search.training.cohort import Cohort

PART_LOGITS = 2**21
"""Logits of one candidate that are in memory at a time, at least one token's."""
_FEW = 32  # classes


def cross_entropy(logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Returns the cross-entropy of every example or token, (candidates, labels), in fp32.

    Args:
        logits: (candidates, batch, classes), or (candidates, batch, tokens, vocabulary).
        y: (batch,) class numbers or (batch, tokens) next tokens, the same for all candidates.
        label_smoothing: Probability mass spread over all classes.
    """
    logits, y = logits.flatten(1, -2), y.flatten()
    num, batch, num_classes = logits.shape
    if logits.device.type == "cpu" and num_classes <= _FEW:
        # along an axis this short torch works a number at a time, but across many such axes at once
        own = y.expand(num, -1)
        return F.cross_entropy(
            logits.float().mT, own, reduction="none", label_smoothing=label_smoothing
        )
    losses = F.cross_entropy(
        logits.float().flatten(0, 1),
        y.repeat(num),
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return losses.view(num, batch)


def head_gradients(
    cohort: Cohort, hidden: Tensor, y: Tensor, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Adds the gradients of the mean loss to the heads, and returns what else is needed to go on backwards.

    Args:
        cohort: Language models of ours.
        hidden: (P, batch, tokens, d_model), see `Cohort.hidden`.
        y: (batch, tokens) next tokens.
        label_smoothing: Probability mass spread over the vocabulary.

    Returns:
        The mean loss (P,), detached, and its gradient for `hidden`.
    """
    if not runs_ahead(hidden.device):
        return _by_hand(cohort, hidden, y, label_smoothing)
    total = torch.zeros(len(hidden), device=hidden.device)
    upstream = []
    for part, rows in _parts(cohort, hidden.detach().flatten(1, 2), y.flatten()):
        part.requires_grad_()
        losses = cross_entropy(_logits(cohort, part), rows, label_smoothing).sum(1)
        (losses.sum() / y.numel()).backward()  # type: ignore[no-untyped-call]
        assert part.grad is not None
        upstream.append(part.grad)
        total += losses.detach()
    return total / y.numel(), torch.cat(upstream, 1).view(hidden.shape)


def head_losses(cohort: Cohort, hidden: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the loss of every token and whether the most probable one is right, (P, n) each.

    Args:
        cohort: Language models of ours.
        hidden: (P, batch, tokens, d_model), see `Cohort.hidden`.
        y: (batch, tokens) next tokens.
    """
    if not runs_ahead(hidden.device):
        own = _without_ghost(cohort)
        told = heads_on_cpu.losses(
            _table(cohort)[:own], hidden[:own].flatten(1, 2), y.flatten(), size=_size(cohort)
        )
        first, second = (some.expand(len(hidden), *some.shape[1:]) for some in told)
        return first, second
    losses, is_right = [], []
    for part, rows in _parts(cohort, hidden.flatten(1, 2), y.flatten()):
        logits = _logits(cohort, part)
        losses.append(cross_entropy(logits, rows))
        is_right.append(logits.argmax(-1) == rows)
    return torch.cat(losses, 1), torch.cat(is_right, 1)


def _by_hand(
    cohort: Cohort, hidden: Tensor, y: Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """`head_gradients` on the CPU."""
    own, table = _without_ghost(cohort), _table(cohort)
    loss, of_table, of_hidden = heads_on_cpu.gradients(
        table[:own],
        hidden[:own].flatten(1, 2),
        y.flatten(),
        size=_size(cohort),
        label_smoothing=label_smoothing,
        is_low=torch.is_autocast_enabled("cpu"),
    )
    of_table = of_table.expand(table.shape)
    table.grad = of_table.clone() if table.grad is None else table.grad + of_table
    return loss.expand(len(hidden)), of_hidden.expand(len(hidden), -1, -1).reshape(hidden.shape)


def _without_ghost(cohort: Cohort) -> int:
    """Returns how many candidates there are to compute: one where a lone one is accompanied by its copy."""
    is_alone = all(model is cohort.models[0] for model in cohort.models)
    return 1 if is_alone else cohort.num_candidates


def _size(cohort: Cohort) -> int:
    """Returns how many tokens make a part."""
    return max(1, PART_LOGITS // _table(cohort).shape[1])


def _parts(cohort: Cohort, hidden: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields one part after the other of `hidden` (P, n, d_model) and of `y` (n,)."""
    size = _size(cohort)
    for begin in range(0, len(y), size):
        yield hidden[:, begin : begin + size], y[begin : begin + size]


def _logits(cohort: Cohort, hidden: Tensor) -> Tensor:
    """Returns the logits (P, n, V) of `hidden` (P, n, d_model)."""
    return hidden @ _table(cohort).mT


def _table(cohort: Cohort) -> Tensor:
    """Returns the rows (P, V, d_model) with which the heads write."""
    assert cohort.head is not None
    return cohort.parameters[cohort.head]
