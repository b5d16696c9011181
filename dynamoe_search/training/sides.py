"""A pack in two halves that two threads compute side by side.

Most operations of a small network are too short to be shared by two threads, and between them is Python, which one of
two threads would wait for. So on two threads each takes one half of the candidates through the whole pass, alone. What
a half has are views of the pack's tensors, so the optimiser, checkpoints and adaptive experts know nothing of halves.
No sum crosses from one candidate to another, so no number depends on how a pack is divided.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dynamoe_search.moe.asynchrony import runs_ahead
from dynamoe_search.moe.routing import Chosen
from dynamoe_search.training.cohort import Cohort

_THREADS = 2
"""With more, Python, which runs in one thread at a time, would hold up the others."""
FEWEST_TOKENS = 256
"""In a batch; with fewer, Python takes most of the time, and dividing a pack doubles it."""
_FEWEST = 2  # a batched product of one matrix may round differently from one of many
_OF_MEMBER, _OF_KIND = 1, 3
"""What a candidate, and another kind of router, take in a layer beside the experts, counted in experts of a token."""


class Side:
    """Neighbouring candidates of a pack, or all of it.

    Attributes:
        cohort: With views of the pack's tensors; the parameters are leaves of their own.
        loss_weights: (members,) each, by the name of the loss.
        normalize: (members,) bool, see `moe.losses.load_balance`.
    """

    def __init__(
        self, cohort: Cohort, loss_weights: Mapping[str, Tensor], normalize: Tensor
    ) -> None:
        self.cohort, self.loss_weights, self.normalize = cohort, loss_weights, normalize
        self._rows: dict[str, slice] = {}
        self._known: dict[str, Tensor] = {}

    def cut(self, begin: int, end: int) -> "Side":
        """Returns the members [begin, end) of a whole pack."""
        weights = {name: own[begin:end] for name, own in self.loss_weights.items()}
        side = Side(self.cohort.part(begin, end), weights, self.normalize[begin:end])
        side._rows, side._known = self.cohort.rows(begin, end), dict(self.cohort.buffers)
        return side

    def look(self, whole: Cohort) -> None:
        """Sees those buffers of the whole pack that are others than at the last look."""
        for name, tensor in whole.buffers.items():
            if self._known.get(name) is not tensor and name in self._rows:
                self._known[name] = tensor
                self.cohort.buffers[name] = tensor[self._rows[name]]


def sides_of(whole: Side, num_tokens: int) -> list[Side]:
    """Returns the halves of a pack; none where it is better computed as a whole.

    A pack that has too few members to be divided is its own only part: one thread computes it too, since some products
    round differently where two threads share them, and a candidate's numbers must not depend on its company.

    Args:
        whole: The pack.
        num_tokens: In a batch; the same for whoever may share the pack, so that nobody is divided in one company alone.
    """
    cohort = whole.cohort
    num = cohort.num_candidates
    if torch.get_num_threads() != _THREADS or num_tokens < FEWEST_TOKENS:
        return []
    if cohort.device.type != "cpu" or runs_ahead(cohort.device):
        return []
    if cohort.mode != "vmap" or cohort.head is not None:  # heads have threads of their own
        return []
    if num < _THREADS * _FEWEST:
        return [whole.cut(0, num)]
    middle = _middle(cohort)
    return [whole.cut(0, middle), whole.cut(middle, num)]


def _middle(cohort: Cohort) -> int:
    """Returns where to divide a pack so that both halves take about as long."""
    num = cohort.num_candidates
    kinds, work = [0] * num, [0] * num
    for layer in cohort.layers:
        router: Any = cohort.template.get_submodule(f"{layer.path}router")
        for index, group in router.groups.items():
            for member in group.members:
                kinds[member] = index
        for member, most in enumerate(cohort.layout(layer).most):
            work[member] += _OF_MEMBER + most
    of_kind = _OF_KIND * len(cohort.layers)

    def slower(middle: int) -> int:
        return max(
            sum(work[half]) + of_kind * len(set(kinds[half]))
            for half in (slice(middle), slice(middle, num))
        )

    return min(range(_FEWEST, num - _FEWEST + 1), key=slower)


def gradients_of(sides: Sequence[Side], names: Sequence[str]) -> dict[str, list[Tensor]]:
    """Returns the gradients of the pack's parameters in pieces along the leading axis, and clears them."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for side in sides:
        for name, tensor in side.cohort.parameters.items():
            found[name].append(torch.zeros_like(tensor) if tensor.grad is None else tensor.grad)
            tensor.grad = None
    return found


def joined(halves: Sequence[Chosen]) -> Chosen:
    """Returns what a layer of the whole pack chose from what its halves chose."""
    states: dict[str, list[Tensor]] = {}
    for one in halves:
        for name, value in one.state.items():
            states.setdefault(name, []).append(value)
    return Chosen(
        mask=torch.cat([one.mask for one in halves]),
        unrouted=torch.cat([one.unrouted for one in halves]),
        state={name: torch.cat(values) for name, values in states.items()},
    )
