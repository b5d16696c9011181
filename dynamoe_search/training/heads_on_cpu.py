"""Heads of language models on the CPU: logits that turn into probabilities and then into gradients in one buffer.

Autograd keeps logits, their logarithms and the gradients of both, and makes a table of gradients anew for every part
of the tokens. With a vocabulary of tens of thousands that is most of the time of a training step. Here a part has one
buffer, and gradients of the table are added up in place. Candidates come one after the other, each on copies of its own
numbers, so that nothing depends on where they lie in a pack.

Legend: P candidates, n tokens of a batch, V entries of the vocabulary.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_MOST = 60.0  # nats: a loss above it is computed from logits


@torch.no_grad()
def gradients(
    tables: Tensor,
    hidden: Tensor,
    y: Tensor,
    *,
    size: int,
    label_smoothing: float = 0.0,
    is_low: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the mean losses (P,) and their gradients for the tables (P, V, d_model) and for `hidden`.

    Args:
        tables: (P, V, d_model) the rows with which the heads write.
        hidden: (P, n, d_model) what they read.
        y: (n,) next tokens.
        size: Tokens whose logits are in memory at a time.
        label_smoothing: Probability mass spread over the vocabulary.
        is_low: Whether to multiply in bf16.
    """
    kind = torch.bfloat16 if is_low else tables.dtype
    own = [
        _of_one(table.to(kind, copy=True), rows.to(kind, copy=True), y, size, label_smoothing)
        for table, rows in zip(tables, hidden, strict=True)
    ]
    losses, of_tables, of_hidden = (torch.stack(some) for some in zip(*own, strict=True))
    return losses, of_tables, of_hidden.to(hidden.dtype)


@torch.no_grad()
def losses(tables: Tensor, hidden: Tensor, y: Tensor, *, size: int) -> tuple[Tensor, Tensor]:
    """Returns the loss of every token and whether the most probable one is right, (P, n) each; see `gradients`."""
    everyones = []
    for one in zip(tables, hidden, strict=True):
        table, rows = (some.clone() for some in one)
        is_right, own = torch.zeros(len(y), dtype=torch.bool), torch.empty(len(y))
        for part, logits in _parts(table, rows, size):
            is_right[part] = _is_first(logits, y[part])
            own[part] = _to_probabilities(logits, y[part], table, rows[part])
        everyones.append((own, is_right))
    first, second = zip(*everyones, strict=True)
    return torch.stack(first), torch.stack(second)


def _of_one(
    table: Tensor, rows: Tensor, y: Tensor, size: int, label_smoothing: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the mean loss of one candidate, and its gradients in fp32 for `table` (V, d_model) and `rows`.

    The gradient for logits z of a token whose next is y, with smoothing s: softmax(z) - (1 - s) [y] - s / V.
    """
    total = torch.zeros(())
    of_table = torch.zeros(table.shape)
    of_rows = torch.empty(rows.shape)
    average = table.float().mean(0)
    for part, logits in _parts(table, rows, size):
        own = _to_probabilities(logits, y[part], table, rows[part])
        if label_smoothing:
            spread = own + rows[part].float().mul(table[y[part]] - average).sum(1)
            own = (1 - label_smoothing) * own + label_smoothing * spread
            logits.sub_(label_smoothing / len(table))
        total += own.sum()
        logits[torch.arange(len(own)), y[part]] -= 1 - label_smoothing
        of_rows[part] = logits @ table
        if table.dtype == of_table.dtype:
            of_table.addmm_(logits.T, rows[part])
        else:
            of_table += logits.T @ rows[part]
    return total / len(y), of_table.div_(len(y)), of_rows.div_(len(y))


def _parts(table: Tensor, rows: Tensor, size: int) -> Iterator[tuple[slice, Tensor]]:
    """Yields parts of the tokens and their logits (tokens, V), always in the same memory."""
    buffer = torch.empty(min(size, len(rows)), len(table), dtype=table.dtype)
    for begin in range(0, len(rows), size):
        part = slice(begin, min(begin + size, len(rows)))
        logits = buffer[: part.stop - begin]
        torch.mm(rows[part], table.T, out=logits)
        yield part, logits


def _to_probabilities(logits: Tensor, y: Tensor, table: Tensor, rows: Tensor) -> Tensor:
    """Turns the logits (n, V) of `rows` into probabilities in place and returns the loss of every token, (n,) in fp32.

    A probability that fp32 cannot tell from 0 has no logarithm. The loss then is the logit of the most probable token,
    minus the logarithm of its probability, minus the logit of `y`.
    """
    torch.softmax(logits, 1, out=logits)
    losses = -logits.gather(1, y[:, None]).squeeze(1).float().log()
    lost = (losses > _MOST).nonzero().squeeze(1)
    if len(lost):
        highest, first = logits[lost].float().max(1)
        apart = rows[lost].float() * (table[first] - table[y[lost]]).float()
        losses[lost] = apart.sum(1) - highest.log()
    return losses


def _is_first(logits: Tensor, y: Tensor) -> Tensor:
    """Tells where `logits.argmax(1) == y`, (n,); only rows whose highest logit is that of y are sought through."""
    found = logits.gather(1, y[:, None]).squeeze(1) == logits.amax(1)
    found[found.clone()] = logits[found].argmax(1) == y[found]
    return found
