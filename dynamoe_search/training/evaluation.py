"""Held-out metrics and routing statistics of a whole cohort, as records."""

import math
import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamoe_search.data import Split, TextSplit
from dynamoe_search.moe.routing import Routing
from dynamoe_search.records import LayerRouting
from dynamoe_search.training.cohort import Cohort
from dynamoe_search.training.token_losses import cross_entropy, head_losses

EVALUATION_BATCH = 1024  # images; fixed, so that results do not depend on free memory
EVALUATION_TOKENS = 4096  # of sequences; fixed, too


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What one candidate did on held-out examples."""

    accuracy: float
    loss: float  # mean cross-entropy in nats, without label smoothing
    routing: tuple[LayerRouting, ...]

    @property
    def mean_k(self) -> tuple[float, ...]:
        """Mean number of experts per token, one number per layer."""
        return tuple(layer.mean_k for layer in self.routing)


@torch.no_grad()
def evaluate(cohort: Cohort, split: Split | TextSplit) -> list[Evaluation]:
    """Returns the evaluation of every candidate of a cohort on the same examples, in evaluation mode.

    Args:
        cohort: Its mode (training or evaluation) is left at evaluation.
        split: Examples on the cohort's device.
    """
    cohort.train(False)
    num = cohort.num_candidates
    # counted in integers: fp32 stops counting at 2**24 tokens
    correct = torch.zeros(num, dtype=torch.int64, device=cohort.device)
    loss = torch.zeros(num, dtype=torch.float64, device=cohort.device)
    slots = cohort.num_slots
    histogram = torch.zeros(
        len(cohort.layers), num, slots + 1, dtype=torch.int64, device=cohort.device
    )
    load = torch.zeros_like(histogram[..., :slots])
    loss_by_k = torch.zeros_like(histogram, dtype=torch.float64)
    is_text = split.y.ndim == 2
    size = batch_size(split)
    for begin in range(0, len(split.y), size):
        x = split.x[begin : begin + size]
        y = split.y[begin : begin + size]
        losses, is_right, routings = told(cohort, x, y)
        correct += is_right.sum(-1)
        loss += losses.double().sum(-1)
        for layer, routing in enumerate(routings):
            used = routing.mask.sum(-1)  # (P, tokens)
            histogram[layer].scatter_add_(1, used, torch.ones_like(used))
            load[layer] += routing.mask.sum(1)
            if is_text and used.shape == losses.shape:
                loss_by_k[layer].scatter_add_(1, used, losses.double())
    accuracy = (correct.double() / split.y.numel()).tolist()
    mean_loss = (loss / split.y.numel()).tolist()
    summaries = _routing(
        cohort,
        histogram.tolist(),
        load.tolist(),
        (loss_by_k / histogram).tolist() if is_text else None,  # NaN where no token is
    )
    return [
        Evaluation(
            accuracy=accuracy[position], loss=mean_loss[position], routing=summaries[position]
        )
        for position in range(num)
    ]


def batch_size(split: Split | TextSplit) -> int:
    """Returns how many examples, or sequences, are evaluated at a time."""
    is_text = split.y.ndim == 2
    return max(1, EVALUATION_TOKENS // split.y.shape[1]) if is_text else EVALUATION_BATCH


def told(cohort: Cohort, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[Routing]]:
    """Returns loss and whether the guess is right, (candidates, labels) each, and the routings.

    Args:
        cohort: As it is to be asked, in training or in evaluation mode.
        x: Examples (batch, ...), or tokens (batch, tokens).
        y: Their labels (batch,), or the tokens that follow (batch, tokens).
    """
    if cohort.head is not None:
        hidden, routings = cohort.hidden(x)
        return *head_losses(cohort, hidden, y), routings
    logits, routings = cohort.forward(x)
    is_right = logits.argmax(-1) == y
    return cross_entropy(logits, y), is_right.flatten(1), routings


def _routing(
    cohort: Cohort,
    histogram: list[list[list[int]]],
    load: list[list[list[int]]],
    loss_by_k: list[list[list[float]]] | None,
) -> list[tuple[LayerRouting, ...]]:
    """Summarises the routing of every candidate, layer by layer.

    Args:
        cohort: The candidates.
        histogram: (layers, candidates, slots + 1) tokens by K.
        load: (layers, candidates, slots) tokens.
        loss_by_k: (layers, candidates, slots + 1) mean loss of the tokens by K, NaN where there is none; None for
            images.
    """
    opened = [cohort.buffers[layer.path + "is_open"].tolist() for layer in cohort.layers]
    slots = [cohort.slots[layer.path].tolist() for layer in cohort.layers]
    return [
        tuple(
            _layer_routing(
                layer,
                histogram[layer][position],
                load[layer][position][: slots[layer][position]],
                opened[layer][position][: slots[layer][position]],
                None if loss_by_k is None else loss_by_k[layer][position],
            )
            for layer in range(len(cohort.layers))
        )
        for position in range(cohort.num_candidates)
    ]


def _layer_routing(
    layer: int,
    histogram: list[int],
    load: list[int],
    is_open: list[bool],
    loss_by_k: list[float] | None,
) -> LayerRouting:
    """Summarises one layer of one candidate, in plain numbers: tensors this short cost more to call than to compute.

    Args:
        layer: Its number.
        histogram: Tokens by K, of all slots of the study.
        load: Tokens of each of the candidate's own slots.
        is_open: Of its own slots.
        loss_by_k: Mean loss of the tokens by K, NaN where there is none; None for images.
    """
    tokens = sum(histogram)
    mean_k = sum(k * count for k, count in enumerate(histogram)) / tokens
    variance = math.fsum((k - mean_k) ** 2 * count for k, count in enumerate(histogram)) / tokens
    open_load = [own for own, opens in zip(load, is_open, strict=True) if opens]
    calls = sum(open_load)
    return LayerRouting(
        layer=layer,
        num_experts=len(open_load),
        mean_k=mean_k,
        std_k=math.sqrt(variance),
        k_histogram=tuple(histogram[: len(load) + 1]),
        load=tuple(own / tokens for own in load),
        load_cv=statistics.pstdev(open_load) * len(open_load) / calls if calls else 0.0,
        max_share=max(open_load) / calls if calls else 0.0,
        loss_by_k=() if loss_by_k is None else _without_nan(loss_by_k[: len(load) + 1]),
    )


def _without_nan(values: list[float]) -> tuple[float | None, ...]:
    return tuple(value if math.isfinite(value) else None for value in values)
