"""Held-out metrics and routing statistics of a whole cohort, as records."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamoe_search.data import Split
from dynamoe_search.records import LayerRouting
from dynamoe_search.training.cohort import Cohort

EVALUATION_BATCH = 1024  # examples; fixed, so that results do not depend on free memory


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
def evaluate(cohort: Cohort, split: Split) -> list[Evaluation]:
    """Returns the evaluation of every candidate of a cohort on the same examples, in evaluation mode.

    Args:
        cohort: Its mode (training or evaluation) is left at evaluation.
        split: Examples on the cohort's device.
    """
    cohort.train(False)
    num = cohort.num_candidates
    correct = torch.zeros(num, device=cohort.device)
    loss = torch.zeros(num, dtype=torch.float64, device=cohort.device)
    slots = cohort.num_slots
    histogram = torch.zeros(len(cohort.layers), num, slots + 1, device=cohort.device)
    load = torch.zeros(len(cohort.layers), num, slots, device=cohort.device)
    for begin in range(0, len(split.y), EVALUATION_BATCH):
        x = split.x[begin : begin + EVALUATION_BATCH]
        y = split.y[begin : begin + EVALUATION_BATCH]
        logits, routings = cohort.forward(x)
        losses = cross_entropy(logits, y)
        correct += (logits.argmax(-1) == y).sum(-1)
        loss += losses.double().sum(-1)
        for layer, routing in enumerate(routings):
            used = routing.mask.sum(-1)  # (P, tokens)
            histogram[layer].scatter_add_(1, used, torch.ones_like(used, dtype=histogram.dtype))
            load[layer] += routing.mask.sum(1)
    accuracy = (correct.double() / len(split.y)).tolist()
    mean_loss = (loss / len(split.y)).tolist()
    opened = torch.stack([cohort.buffers[layer.path + "is_open"] for layer in cohort.layers]).cpu()
    histogram, load = histogram.cpu(), load.cpu()
    return [
        Evaluation(
            accuracy=accuracy[position],
            loss=mean_loss[position],
            routing=tuple(
                _layer_routing(
                    layer,
                    histogram[layer, position],
                    load[layer, position, : int(cohort.slots[info.path][position])],
                    opened[layer, position, : int(cohort.slots[info.path][position])],
                )
                for layer, info in enumerate(cohort.layers)
            ),
        )
        for position in range(num)
    ]


def cross_entropy(logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Returns the cross-entropy of every example, (candidates, batch), in fp32.

    Args:
        logits: (candidates, batch, classes).
        y: (batch,) class numbers, the same for all candidates.
        label_smoothing: Probability mass spread over all classes.
    """
    num, batch, _ = logits.shape
    losses = F.cross_entropy(
        logits.float().flatten(0, 1),
        y.repeat(num),
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return losses.view(num, batch)


def _layer_routing(layer: int, histogram: Tensor, load: Tensor, is_open: Tensor) -> LayerRouting:
    """Summarises one layer of one candidate: histogram (slots + 1,) of K, load (own slots,) in tokens."""
    tokens = histogram.sum()
    k = torch.arange(len(histogram), dtype=torch.float64)
    share = histogram.double() / tokens
    mean_k = float((k * share).sum())
    variance = float(((k - mean_k).square() * share).sum())
    open_load = load[is_open].double()
    calls = float(open_load.sum())
    mean = open_load.mean() if len(open_load) else torch.tensor(0.0)
    return LayerRouting(
        layer=layer,
        num_experts=int(is_open.sum()),
        mean_k=mean_k,
        std_k=variance**0.5,
        k_histogram=tuple(int(count) for count in histogram[: len(load) + 1].tolist()),
        load=tuple((load.double() / tokens).tolist()),
        load_cv=float(open_load.std(correction=0) / mean) if calls else 0.0,
        max_share=float(open_load.max()) / calls if calls else 0.0,
    )
