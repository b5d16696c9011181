"""AdamW on stacked tensors: learning rate, weight decay and gradient clipping are vectors over candidates."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


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
        self.powers = {  # (rows, 2): each beta to the number of the row's steps; `pow` would round by position
            name: torch.ones(len(owner[name]), 2, device=tensor.device)
            for name, tensor in parameters.items()
        }

    def gradient_norms(
        self, parameters: Mapping[str, Tensor], owner: Mapping[str, Tensor]
    ) -> Tensor:
        """Returns the gradient norm of every candidate, (candidates,)."""
        total = torch.zeros_like(self.learning_rate)
        for name, tensor in parameters.items():
            if tensor.grad is not None:
                total.index_add_(0, owner[name], _sum_of_squares(tensor.grad))
        return total.sqrt()

    @torch.no_grad()
    def step(
        self, parameters: Mapping[str, Tensor], owner: Mapping[str, Tensor], factor: Tensor
    ) -> None:
        """Makes one step and clears the gradients.

        Args:
            parameters: The same names as at construction (or those left by `keep`).
            owner: The candidate of each row.
            factor: (candidates,) share of the peak learning rate in force at this step.
        """
        norms = self.gradient_norms(parameters, owner)
        scale = (self.clip_norm / (norms + 1e-6)).clamp(max=1.0)
        scale = torch.where(self.clip_norm.isinf(), 1.0, scale)  # whatever the norm is
        rate = self.learning_rate * factor
        keep = 1 - rate * self.weight_decay
        first, second = self.betas
        betas = torch.tensor(self.betas, device=rate.device)
        for name, tensor in parameters.items():
            own = owner[name]
            shape = (-1, *(1,) * (tensor.dim() - 1))
            gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            gradient = gradient * scale[own].view(shape)
            mean, square, powers = self.mean[name], self.square[name], self.powers[name]
            powers *= betas
            mean.lerp_(gradient, 1 - first)
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            mean_rate = (rate[own] / (1 - powers[:, 0])).view(shape)
            root = (square / (1 - powers[:, 1]).view(shape)).sqrt_().add_(self.eps)
            if tensor.dim() > 2:
                tensor.mul_(keep[own].view(shape))
            tensor.sub_((mean / root).mul_(mean_rate))
            tensor.grad = None

    def keep(self, rows: Mapping[str, Tensor], candidates: Sequence[int]) -> None:
        """Selects the rows that `Cohort.keep` selected, and the candidates at those positions."""
        for state in (self.mean, self.square, self.powers):
            for name in list(state):
                if name in rows:
                    state[name] = state[name].index_select(0, rows[name])
                else:
                    del state[name]
        index = torch.tensor(list(candidates), device=self.learning_rate.device)
        self.learning_rate = self.learning_rate[index]
        self.weight_decay = self.weight_decay[index]
        self.clip_norm = self.clip_norm[index]

    def restart_row(self, name: str, row: int) -> None:
        """Forgets moments and step count of one row."""
        self.mean[name][row] = 0
        self.square[name][row] = 0
        self.powers[name][row] = 1


def _sum_of_squares(gradient: Tensor) -> Tensor:
    """Sum of squares of every row; a lone row gets a zero companion: a sum to one number is split over threads."""
    flat = gradient.flatten(1) if gradient.dim() > 1 else gradient[:, None]
    if len(flat) == 1:
        flat = torch.cat([flat, torch.zeros_like(flat)])
        return flat.square().sum(1)[:1]
    return flat.square().sum(1)


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
