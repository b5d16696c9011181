"""`PoolLayout`: where the experts of a pack's candidates lie in the pool of one layer.

Legend: P candidates, E slots (the widest candidate of the study), G = sum of the candidates' experts in this layer. All
of it is known to the host, so that nobody has to ask a device how many experts there are.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

MOST_GROUPS = 1023
"""Matrices that one grouped product of torch takes on a CUDA device."""


class Places(NamedTuple):
    """A layout as tensors on one device."""

    start: Tensor  # (P + 1,) where each candidate's experts begin
    exists: Tensor  # (P, E) bool, which slots are experts
    owner: Tensor  # (G,) candidate of each expert
    slot: Tensor  # (G,) its slot


class Walk(NamedTuple):
    """What of the pairs (candidate, slot, token), counted in this order, depends on candidate and slot alone."""

    ahead: Tensor  # (P * E,) how much further the pairs are than the tokens (candidate, token)
    slot: Tensor  # (P * E,) slot
    expert: Tensor  # (P * E,) expert in the pool; of a slot without one any number
    ends: Tensor  # (G,) where the pairs of each expert would end if every token chose it


class PoolLayout:
    """How many experts every candidate of a pack has in a layer, and what follows from it.

    Attributes:
        counts: Experts of each candidate, (P,).
        start: Where each candidate's experts begin in the pool, (P + 1,).
        most: Largest number of experts that a token of each candidate can choose, (P,).
        rows: Rows of the buffer of each part, see `runs`, if they are fewer than the pairs that there can be; then
            whoever set them looks at `needed`.
        limits: The pairs that there can be in each part, in the largest batch so far.
        needed: The most pairs () that a part had in training since `forget`, as far as there was training.

    Args:
        counts: Experts of each candidate.
        most: Largest number of experts that a token can choose, as far as it is bounded; all by default.
    """

    def __init__(self, counts: Sequence[int], most: Sequence[int | None] | None = None) -> None:
        self.counts = tuple(counts)
        self.start = (0, *accumulate(self.counts))
        bounds = [None] * len(self.counts) if most is None else most
        self.most = tuple(
            own if bound is None else min(own, bound)
            for own, bound in zip(self.counts, bounds, strict=True)
        )
        self.rows: dict[int, int] = {}
        self.limits: dict[int, int] = {}
        self.needed: dict[int, Tensor] = {}
        self._places: dict[tuple[int, torch.device], Places] = {}
        self._walks: dict[tuple[int, int, torch.device], Walk] = {}

    def places(self, num_slots: int, device: torch.device) -> Places:
        """Returns the layout as tensors; they are made once."""
        key = (num_slots, device)
        if key not in self._places:
            counts = torch.tensor(self.counts)
            exists = torch.arange(num_slots) < counts[:, None]
            owner, slot = exists.nonzero(as_tuple=True)
            places = Places(torch.tensor(self.start), exists, owner, slot)
            self._places[key] = Places(*(tensor.to(device) for tensor in places))
        return self._places[key]

    def is_full(self, num_slots: int) -> bool:
        """Tells whether every candidate has an expert in each of so many slots."""
        return self.start[-1] == len(self.counts) * num_slots

    def walk(self, num_slots: int, num_tokens: int, device: torch.device) -> Walk:
        """Returns what turns places among all pairs into tokens and experts; it is made once for a number of tokens."""
        key = (num_slots, num_tokens, device)
        if key not in self._walks:
            places = self.places(num_slots, device)
            number = torch.arange(len(self.counts) * num_slots, device=device)
            candidate = number.div(num_slots, rounding_mode="floor")
            slot = number - candidate * num_slots
            self._walks[key] = Walk(
                ahead=(number - candidate) * num_tokens,
                slot=slot,
                expert=places.start[candidate] + slot,
                ends=(self.slots(num_slots, device) + 1) * num_tokens,
            )
        return self._walks[key]

    def slots(self, num_slots: int, device: torch.device) -> Tensor:
        """Returns the place (G,) of each expert among the slots of all candidates."""
        places = self.places(num_slots, device)
        return places.owner * num_slots + places.slot

    def note(self, part: int, limit: int, pairs: Tensor) -> None:
        """Notes how many pairs a part can have, and on the device how many () it had."""
        self.limits[part] = max(limit, self.limits.get(part, 0))
        if part in self.needed:
            torch.maximum(self.needed[part], pairs, out=self.needed[part])
        else:
            self.needed[part] = pairs.clone()

    def forget(self) -> None:
        """Begins anew with what is needed."""
        for pairs in self.needed.values():
            pairs.zero_()

    def kept(self, positions: Sequence[int]) -> "PoolLayout":
        """Returns the layout of the candidates at these positions, in this order."""
        counts, most = (
            [own[position] for position in positions] for own in (self.counts, self.most)
        )
        return PoolLayout(counts, most)

    def runs(self, most_groups: int = MOST_GROUPS) -> list[tuple[int, int]]:
        """Cuts the candidates into runs [begin, end) with at most `most_groups` experts, or of one candidate."""
        runs = [(0, 0)]
        for candidate, count in enumerate(self.counts):
            begin, end = runs[-1]
            if begin < end and self.start[candidate] + count - self.start[begin] > most_groups:
                runs.append((candidate, candidate + 1))
            else:
                runs[-1] = (begin, candidate + 1)
        return runs
