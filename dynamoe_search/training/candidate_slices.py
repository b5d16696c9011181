"""AdamW on the CPU, candidate by candidate: torch's fused kernel on each candidate's slices of the stacked tensors.

A slice holds rows of one candidate only, and torch rounds by place within a tensor, not within the pack. So a
candidate's numbers do not depend on its company.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dynamoe_search.moe.threads import in_threads

_ENDLESS = torch.tensor(math.inf)  # steps, for a kernel that shall not correct the moments


@dataclass(kw_only=True, slots=True)
class _Group:
    """Slices of one candidate whose rows have made the same number of steps, and that decay or do not.

    Attributes:
        row: Of the stacked powers of the betas, one that holds for all of them.
        places: Name and number of the slice among those of its tensor.
    """

    row: int
    decays: bool
    places: list[tuple[str, int]] = field(default_factory=list)
    parameters: list[Tensor] = field(default_factory=list)
    means: list[Tensor] = field(default_factory=list)
    squares: list[Tensor] = field(default_factory=list)


class CandidateSlices:
    """The stacked tensors, cut into slices of one candidate each.

    Args:
        parameters: Tensors by name, whose memory is written.
        moments: First and second moments by name, whose memory is written.
        owner: For every name, the candidate of each row.
        powers: (all rows, 2) the betas to the number of steps, in the order of the names.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        moments: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
        owner: Mapping[str, Tensor],
        powers: Tensor,
    ) -> None:
        self._tensors = dict(parameters)
        self._sizes: dict[str, list[int]] = {}
        groups: dict[int, dict[tuple[float, float, bool], _Group]] = defaultdict(dict)
        first = 0
        for name, tensor in parameters.items():
            own = powers[first : first + len(tensor)].tolist()
            keys = [(member, *row) for member, row in zip(owner[name].tolist(), own, strict=True)]
            begins = [i for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]]
            self._sizes[name] = [
                b - a for a, b in zip(begins, [*begins[1:], len(keys)], strict=True)
            ]
            parts = (self._split(name, x[name].detach()) for x in (parameters, *moments))
            for number, (begin, *slices) in enumerate(zip(begins, *parts, strict=True)):
                member, *row = keys[begin]
                key = (*row, tensor.dim() > 2)
                group = groups[member].setdefault(
                    key, _Group(row=first + begin, decays=tensor.dim() > 2)
                )
                group.places.append((name, number))
                group.parameters.append(slices[0])
                group.means.append(slices[1])
                group.squares.append(slices[2])
            first += len(tensor)
        self._owner = torch.cat([owner[name] for name in parameters])
        self._groups = [(member, list(own.values())) for member, own in sorted(groups.items())]
        self._rows = torch.tensor([group.row for _, own in self._groups for group in own])

    def are_of(self, parameters: Mapping[str, Tensor]) -> bool:
        """Tells whether the slices are of exactly these tensors."""
        return self._tensors.keys() == parameters.keys() and all(
            tensor is parameters[name] for name, tensor in self._tensors.items()
        )

    def _split(self, name: str, tensor: Tensor) -> Sequence[Tensor]:
        return tensor.split_with_sizes(self._sizes[name])

    def update(
        self,
        gradients: Mapping[str, Tensor],
        powers: Tensor,
        *,
        rates: Sequence[float],
        decays: Sequence[float],
        clips: Tensor,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        """Makes one step of every candidate, in place; gradients are overwritten.

        Args:
            gradients: By name, like the parameters.
            powers: (all rows, 2) the betas to the number of steps, this one included.
            rates: Learning rate of every candidate.
            decays: Its weight decay.
            clips: Its largest gradient norm (candidates,); infinity switches clipping off.
            betas: Of both moments.
            eps: Added to the root of the second moment.

        Source: Loshchilov and Hutter, 2019, arXiv:1711.05101, algorithm 2. The correction of the moments is folded into
        the rate and eps, since rows of one candidate may have made different numbers of steps.
        """
        parts = {name: self._split(name, gradient) for name, gradient in gradients.items()}
        rests = iter((1 - powers[self._rows].double()).tolist())  # one row after the other
        divisors = self._divisors(gradients, clips)
        work = [(member, own, [next(rests) for _ in own]) for member, own in self._groups]

        def step(part: tuple[int, list[_Group], list[list[float]]]) -> None:
            member, groups, rests = part
            own = [[parts[name][number] for name, number in group.places] for group in groups]
            for group, some, (first, second) in zip(groups, own, rests, strict=True):
                root = math.sqrt(second)
                torch._fused_adamw_(
                    group.parameters,
                    some,
                    group.means,
                    group.squares,
                    [],
                    [_ENDLESS] * len(some),
                    lr=rates[member] * root / first,
                    beta1=betas[0],
                    beta2=betas[1],
                    weight_decay=decays[member] * first / root if group.decays else 0.0,
                    eps=eps * root,
                    amsgrad=False,
                    maximize=False,
                    grad_scale=divisors[member],
                )

        in_threads(step, work)

    def _divisors(self, gradients: Mapping[str, Tensor], clips: Tensor) -> list[Tensor | None]:
        """Returns what the gradients of every candidate are divided by, as the kernel reads them; None for nothing."""
        if bool(clips.isinf().all()):
            return [None] * len(clips)
        squares = [sum_of_squares(gradients[name]) for name in self._tensors]
        norms = torch.zeros_like(clips).index_add_(0, self._owner, torch.cat(squares)).sqrt()
        divisors = torch.where(clips.isinf(), 1.0, (norms + 1e-6) / clips)
        # a norm that is not a number spoils the candidate, as it should
        return [
            None if value <= 1 else own
            for own, value in zip(divisors.unbind(), divisors.tolist(), strict=True)
        ]


def sum_of_squares(gradient: Tensor) -> Tensor:
    """Sum of squares of every row; a lone row gets a zero companion: a sum to one number is split over threads."""
    flat = gradient.flatten(1) if gradient.dim() > 1 else gradient[:, None]
    if len(flat) == 1:
        flat = torch.cat([flat, torch.zeros_like(flat)])
    norms: Tensor = torch.linalg.vector_norm(flat, dim=1)[: len(gradient)]
    return norms.square()
