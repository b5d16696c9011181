"""AdamW on stacked tensors: learning rate, weight decay and gradient clipping are vectors over candidates."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from dynamoe_search.moe.asynchrony import runs_ahead
from dynamoe_search.training.candidate_slices import CandidateSlices, sum_of_squares

_BLOCK = 2**17  # numbers of each tensor that are updated at a time


class StackedAdamW:
    """AdamW whose rows (along each tensor's leading axis) belong to candidates.

    Each row has its own step count, so that a row can start again (a fresh expert) or belong to a candidate that
    joined later. Weight decay is decoupled and acts on matrices only: rows with two or more axes. A tensor without a
    gradient counts as one with gradient 0, since whether there is one may depend on the other candidates.

    Args:
        parameters: Tensors by name; `step` reads their `.grad`.
        owner: For every name, the candidate of each row.
        learning_rate: (candidates,) peak learning rates.
        weight_decay: (candidates,).
        clip_norm: (candidates,) largest gradient norm over all tensors of a candidate; infinity switches it off.

    Source: Loshchilov and Hutter, 2019, arXiv:1711.05101, algorithm 2.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        owner: Mapping[str, Tensor],
        *,
        learning_rate: Tensor,
        weight_decay: Tensor,
        clip_norm: Tensor,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.betas = betas
        self.eps = eps
        self.mean = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
        self.square = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
        self._betas = torch.tensor(betas, device=learning_rate.device)
        self._slices: CandidateSlices | None = None
        self._set_powers(
            {
                name: torch.ones(len(owner[name]), 2, device=self._betas.device)
                for name in parameters
            }
        )

    def _set_powers(self, powers: Mapping[str, Tensor]) -> None:
        """Lays every row's betas to the number of its steps, (rows, 2) each, into one tensor.

        They are multiplied on from step to step: `pow` would round by position.
        """
        self._powers = torch.cat([*powers.values()])
        self._slices = None
        parts = torch.split(self._powers, [len(own) for own in powers.values()])
        self.powers = dict(zip(powers, parts, strict=True))  # views

    def gradient_norms(
        self, parameters: Mapping[str, Tensor], owner: Mapping[str, Tensor]
    ) -> Tensor:
        """Returns the gradient norm of every candidate, (candidates,)."""
        total = torch.zeros_like(self.learning_rate)
        for name, tensor in parameters.items():
            if tensor.grad is not None:
                total.index_add_(0, owner[name], sum_of_squares(tensor.grad))
        return total.sqrt()

    @torch.no_grad()
    def step(
        self,
        parameters: Mapping[str, Tensor],
        owner: Mapping[str, Tensor],
        factor: Tensor,
    ) -> None:
        """Makes one step and clears the gradients.

        Args:
            parameters: The same names as at construction (or those left by `keep`).
            owner: The candidate of each row.
            factor: (candidates,) share of the peak learning rate in force at this step.
        """
        if not runs_ahead(self.learning_rate.device):
            self._step_by_candidate(parameters, owner, factor)
            return
        norms = self.gradient_norms(parameters, owner)
        scale = (self.clip_norm / (norms + 1e-6)).clamp(max=1.0)
        scale = torch.where(self.clip_norm.isinf(), 1.0, scale)  # whatever the norm is
        rate = self.learning_rate * factor
        own = torch.cat([owner[name] for name in parameters])  # (all rows,)
        self._powers *= self._betas
        rest = 1 - self._powers
        vectors = (  # (all rows,) each
            scale.index_select(0, own),
            rate.index_select(0, own) / rest[:, 0],
            rest[:, 1],
            (1 - rate * self.weight_decay).index_select(0, own),
        )
        for batch in self._batches(parameters, vectors):
            self._update(*(list(tensors) for tensors in zip(*batch, strict=True)))
        for tensor in parameters.values():
            tensor.grad = None

    def _step_by_candidate(
        self, parameters: Mapping[str, Tensor], owner: Mapping[str, Tensor], factor: Tensor
    ) -> None:
        """Makes the step on the CPU, where every candidate is one part of the work."""
        self._powers *= self._betas
        if self._slices is None or not self._slices.are_of(parameters):
            moments = (self.mean, self.square)
            self._slices = CandidateSlices(parameters, moments, owner, self._powers)
        self._slices.update(
            {name: _gradient(tensor) for name, tensor in parameters.items()},
            self._powers,
            rates=(self.learning_rate * factor).tolist(),
            decays=self.weight_decay.tolist(),
            clips=self.clip_norm,
            betas=self.betas,
            eps=self.eps,
        )
        for tensor in parameters.values():
            tensor.grad = None

    def _batches(
        self, parameters: Mapping[str, Tensor], vectors: Sequence[Tensor]
    ) -> Iterator[list[tuple[Tensor, ...]]]:
        """Yields what is updated together: blocks of rows, of tensor, gradient, both moments and vectors.

        On the CPU a batch is small enough to stay in the cache; elsewhere it may be one whole large tensor.
        """
        batch: list[tuple[Tensor, ...]] = []
        num_elements = begin = 0
        for name, tensor in parameters.items():
            gradient = _gradient(tensor)
            end = begin + len(tensor)
            shape = (-1, *(1,) * (tensor.dim() - 1))
            own = (vector[begin:end].view(shape) for vector in vectors)
            whole = (tensor, gradient, self.mean[name], self.square[name], *own)
            begin = end
            rows = _rows(tensor)
            split = rows < len(tensor)
            parts = zip(*(torch.split(x, rows) for x in whole), strict=True) if split else [whole]
            for part in parts:
                is_full = num_elements + part[0].numel() > _BLOCK
                if batch and is_full:
                    yield batch
                    batch, num_elements = [], 0
                batch.append(part)
                num_elements += part[0].numel()
        yield batch

    def _update(
        self,
        tensors: list[Tensor],
        gradients: list[Tensor],
        means: list[Tensor],
        squares: list[Tensor],
        scales: list[Tensor],
        rates: list[Tensor],
        rests: list[Tensor],
        keeps: list[Tensor],
    ) -> None:
        """Updates moments and parameters in place."""
        first, second = self.betas
        gradients = list(torch._foreach_mul(gradients, scales))
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - second)
        roots = torch._foreach_div(squares, rests)
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, self.eps)
        decayed = [i for i, tensor in enumerate(tensors) if tensor.dim() > 2]
        if decayed:
            torch._foreach_mul_([tensors[i] for i in decayed], [keeps[i] for i in decayed])
        steps = torch._foreach_div(means, roots)
        torch._foreach_mul_(steps, rates)
        torch._foreach_sub_(tensors, steps)

    def keep(self, rows: Mapping[str, Tensor], candidates: Sequence[int]) -> None:
        """Selects the rows that `Cohort.keep` selected, and the candidates at those positions."""
        for state in (self.mean, self.square, self.powers):
            for name in list(state):
                if name in rows:
                    state[name] = state[name].index_select(0, rows[name])
                else:
                    del state[name]
        self._set_powers(self.powers)
        index = torch.tensor(list(candidates), device=self.learning_rate.device)
        self.learning_rate = self.learning_rate[index]
        self.weight_decay = self.weight_decay[index]
        self.clip_norm = self.clip_norm[index]

    def restart_rows(self, name: str, rows: Tensor, where: Tensor) -> None:
        """Forgets moments and step counts of those of the rows (n,) for which `where` (n,) is true."""
        for tensor, start in ((self.mean, 0.0), (self.square, 0.0), (self.powers, 1.0)):
            own = tensor[name].index_select(0, rows)
            chosen = where.view(-1, *(1,) * (own.dim() - 1))
            tensor[name].index_copy_(0, rows, torch.where(chosen, start, own))
        self._slices = None


def _gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def _rows(tensor: Tensor) -> int:
    """How many rows of a tensor are updated at a time: on the CPU, what stays in the cache; two at least."""
    if tensor.device.type != "cpu":
        return len(tensor)
    return max(2, _BLOCK * len(tensor) // max(1, tensor.numel()))


def schedule_factor(
    step: int, total: int, *, warmup_fraction: float, decay: str, final_fraction: float
) -> float:
    """Returns the share of the peak learning rate at a step.

    Args:
        step: Steps made before this one, from 0 to total - 1.
        total: Steps of the whole training.
        warmup_fraction: Share of the steps with a linear rise; its first step has 1 / warm-up steps of the peak.
        decay: `constant`, `cosine` or `linear`.
        final_fraction: Share of the peak that decay ends with.
    """
    warmup = round(total * warmup_fraction)
    if step < warmup:
        return (step + 1) / warmup
    if decay == "constant":
        return 1.0
    progress = (step - warmup) / max(1, total - warmup)
    shape = (1 + math.cos(math.pi * progress)) / 2 if decay == "cosine" else 1 - progress
    return final_fraction + (1 - final_fraction) * shape
