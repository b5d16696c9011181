"""What an audit looks at in trained weights: whether hard examples get more experts, and how noisy gradients are.

Both run a whole pack at once and, on the CPU in float32, give a candidate the same numbers in any company.

Legend: P = candidates, N = examples, M = minibatches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from dynamoe_search.auditing import Hardness, Noise
from dynamoe_search.training.batches import epoch_order
from dynamoe_search.training.candidate_slices import sum_of_squares
from dynamoe_search.training.evaluation import batch_size, told
from dynamoe_search.training.failures import ShouldStop
from dynamoe_search.training.population import Population
from dynamoe_search.training.settings import Interrupted

MOST_BATCHES = 64
"""Minibatches that gradient noise is estimated from, at most."""
MOST_TOKENS = 1 << 20
"""Validation labels that hardness is estimated from, at most."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Examples:
    """The validation examples as every candidate saw them; of text, its tokens.

    Attributes:
        loss: (P, N) cross-entropy in nats, float32.
        k: (layers, P, N) experts per token, mean over an example's tokens, float32.
    """

    loss: Tensor
    k: Tensor


@torch.no_grad()
def see_examples(population: Population) -> Examples:
    """Runs all candidates of a population over the validation part, in evaluation mode and its order.

    Of text, no more sequences than have `MOST_TOKENS`.
    """
    split = population.data.validation
    cohort = population.cohort
    num = len(population.candidates)
    population.set_evaluation_streams()
    cohort.train(False)
    losses, used = [], []
    size, labels = batch_size(split), split.y[0].numel()
    for begin in range(0, min(len(split.y), max(1, MOST_TOKENS // labels)), size):
        y = split.y[begin : begin + size]
        loss, _, routings = told(cohort, split.x[begin : begin + size], y)
        losses.append(loss[:num].cpu())
        k = torch.stack([routing.mask.sum(-1)[:num] for routing in routings])  # (layers, P, tokens)
        used.append(k.view(*k.shape[:2], y.numel(), -1).float().mean(-1).cpu())
    return Examples(loss=torch.cat(losses, 1), k=torch.cat(used, 2))


def hardness(examples: Examples) -> list[Hardness]:
    """Returns for every candidate Spearman's correlation of an example's loss with its K, ties at their mean rank."""
    return [
        Hardness(
            overall=_rank_correlation(own.sum(0), loss),
            per_layer=tuple(_rank_correlation(layer, loss) for layer in own),
        )
        for own, loss in zip(examples.k.unbind(1), examples.loss, strict=True)
    ]


def _rank_correlation(k: Tensor, loss: Tensor) -> float | None:
    """None if either is constant or not finite."""
    if bool((k == k[0]).all()) or bool((loss == loss[0]).all()) or not bool(loss.isfinite().all()):
        return None
    return float(stats.spearmanr(k.numpy(), loss.numpy()).statistic)


def gradient_noise(
    population: Population,
    should_stop: ShouldStop | None = None,
    most_batches: int = MOST_BATCHES,
) -> list[Noise]:
    """Returns for every candidate how much the gradients of minibatches differ at its present weights.

    With g_i the gradient of minibatch i of M and m their mean, the noise is sum |g_i - m|^2 / ((M - 1) |m|^2): the
    total variance of a minibatch gradient relative to the squared length of the mean gradient. Times the batch size,
    this is the "simple noise scale" of the paper below. The minibatches are those of one epoch, without an incomplete
    last one, and at most `most_batches`; if they are a whole epoch, m is the gradient of the training part. Gradients
    are those of training: in training mode, with auxiliary losses, before clipping. Nothing is learned: weights and
    running state stay as they are.

    Args:
        population: Its candidates need at least two minibatches.
        should_stop: Asked after every minibatch.
        most_batches: Limits the time that it takes.

    Raises:
        Interrupted: if `should_stop` returned true.

    Source: McCandlish, Kaplan, Amodei, 2018, arXiv:1812.06162, section 2.2.
    """
    rows = _minibatches(population, most_batches)
    names = _names(population)
    squares = _Squares(population, names)
    sums, used = _add_up(population, rows, squares, should_stop)
    means = _Squares(population, names)
    means.add(lambda name: sums[name] / len(rows))
    total, shared = (
        (every - len(rows) * mean) / (len(rows) - 1) / mean
        for every, mean in zip(squares.sums, means.sums, strict=True)
    )
    return [
        Noise(
            total=max(0.0, float(total[position])),
            shared=max(0.0, float(shared[position])),
            mean_k=float(used[position]) / len(rows),
            batches=len(rows),
        )
        for position in range(len(population.candidates))
    ]


def _add_up(
    population: Population,
    rows: Sequence[Tensor],
    squares: "_Squares",
    should_stop: ShouldStop | None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Adds up the gradients of minibatches by name, their squares, and the mean K of every candidate (P,)."""
    cohort, train = population.cohort, population.data.train
    cohort.train(True)
    sums = {name: torch.zeros_like(tensor) for name, tensor in cohort.parameters.items()}
    used = torch.zeros(cohort.num_candidates, dtype=torch.float64)
    for own in rows:
        _clear(population)
        _, chosen = population.gradients(train.x[own], train.y[own])
        squares.add(lambda name: cohort.parameters[name].grad)
        for name in sums:
            gradient = cohort.parameters[name].grad
            if gradient is not None:
                sums[name] += gradient
        k = [layer.mask.sum(-1).double().mean(-1).cpu() for layer in chosen]  # (P,) each
        used += torch.stack(k).mean(0)
        if should_stop is not None and should_stop():
            raise Interrupted("stopped while gradients were compared")
    _clear(population)
    return sums, used


def _minibatches(population: Population, most: int) -> list[Tensor]:
    """Rows of the training part, one tensor per minibatch, in the order of the first epoch."""
    first = population.candidates[0]
    num = len(population.data.train.y)
    size = min(first.train.batch_size, num // 2)
    order = epoch_order(num, first.study_seed, 0).to(population.device)
    return [order[begin : begin + size] for begin in range(0, num - size + 1, size)][:most]


def _names(population: Population) -> tuple[list[str], list[str]]:
    """Names of all parameters, and of those that are no expert's."""
    experts = {name for layer in population.cohort.layers for name in layer.pools}
    names = list(population.cohort.parameters)
    return names, [name for name in names if name not in experts]


class _Squares:
    """Sums of squares per candidate in float64: over all parameters, and over those that are no expert's."""

    def __init__(self, population: Population, names: Sequence[Sequence[str]]) -> None:
        self.cohort = population.cohort
        self.names = names
        num = population.cohort.num_candidates
        self.sums = [torch.zeros(num, dtype=torch.float64) for _ in names]

    def add(self, tensor_of: Callable[[str], Tensor | None]) -> None:
        """Adds the squares of tensors by name; None counts as 0."""
        for total, names in zip(self.sums, self.names, strict=True):
            for name in names:
                tensor = tensor_of(name)
                if tensor is not None:
                    own = sum_of_squares(tensor.detach()).double().cpu()
                    total.index_add_(0, self.cohort.owner[name].cpu(), own)


def _clear(population: Population) -> None:
    for tensor in population.cohort.parameters.values():
        tensor.grad = None
