"""Grouped or dense experts? Timed on this machine, remembered there, and a fixed setting of the study from then on.

`grouped` computes the chosen experts only, `dense` all of them with less to prepare, see `moe.experts`. Which one is
faster depends on the machine, on the widths, and on the share of the experts that tokens choose. It is asked once, when
a study is created; what runs the study reads the answer and never asks again.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
import torch
import torch.nn.functional as F

from dynamoe_search.data import DataInfo, SearchData
from dynamoe_search.moe.backbones import BACKBONES
from dynamoe_search.moe.experts import Backend
from dynamoe_search.moe.formulas import num_tokens
from dynamoe_search.moe.routers import build_router
from dynamoe_search.records import Candidate
from dynamoe_search.search.backend_timing import LayerShape, seconds_of
from dynamoe_search.search.designs import candidate_from
from dynamoe_search.search.space import Space, suggest
from dynamoe_search.store import quiet_optuna
from dynamoe_search.training.evaluation import EVALUATION_BATCH, EVALUATION_TOKENS

_DESIGNS = 16  # drawn at random to learn what the space is like
_ROUTED = 256  # tokens that a router of each of them is shown
_MOST_WIDTHS = 4  # that are timed
_MOST_DOUBLED = 5  # packs of 32 candidates are timed at most
_STEPS = 8  # the share of chosen experts is rounded to an eighth, so that spaces alike share what was measured
_LEAST_SHARE = 0.25  # below it grouped experts are taken without a measurement
_CLEARLY = 0.9  # of grouped's time: less than this is no chance of a busy machine


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendChoice:
    """Which backend was chosen, and why."""

    backend: Backend
    basis: str = ""  # in words; empty if the study file names the backend


def choose_backend(
    space: Space,
    data: DataInfo,
    *,
    device: str,
    num_threads: int,
) -> BackendChoice:
    """Returns the backend that a study file names, or with `auto` the faster one on this machine.

    Grouped experts are taken unless dense ones are at least 10 % faster in a whole epoch, training and evaluation, in
    total over the widths of the space, or if tokens choose less than a quarter of the experts. What is measured is kept
    in the user's cache folder.

    Args:
        space: The designs of the study.
        data: What they are trained on.
        device: Where the study trains: `cpu`, `cuda:0`; grouped experts are taken if it is not here.
        num_threads: CPU threads of torch.
    """
    named = space.spec.search.expert_backend
    if named != "auto":
        return BackendChoice(backend=named)
    if device.startswith("cuda") and not torch.cuda.is_available():  # workers elsewhere have it
        return BackendChoice(
            backend="grouped", basis=f"not measured, since this machine has no {device}"
        )
    designs = _some_designs(space)
    chosen, there = _num_chosen(designs)
    share = chosen / there
    if share < _LEAST_SHARE:
        return BackendChoice(
            backend="grouped",
            basis=f"not measured, since a token chooses about {share:.0%} of the experts",
        )
    total = dict.fromkeys(("grouped", "dense"), 0.0)
    passes = _passes(space, data, designs, share, device)
    for number, shape in passes:
        for backend, seconds in seconds_of(shape, device, num_threads, len(passes)).items():
            total[backend] += number * seconds
    ratio = total["dense"] / total["grouped"]
    return BackendChoice(
        backend="dense" if ratio < _CLEARLY else "grouped",
        basis=f"measured: dense experts take {ratio:.2f} times as long as grouped ones, where a token chooses about "
        f"{share:.0%} of the experts",
    )


def size_of(data: SearchData) -> DataInfo:
    """Returns the size of data that are loaded."""
    return DataInfo(
        input_shape=data.input_shape,
        num_classes=data.num_classes,
        num_train=len(data.train.y),
        num_validation=len(data.validation.y),
        epoch_size=data.epoch_size,
    )


def _some_designs(space: Space) -> list[Candidate]:
    """Returns designs drawn at random from a space, the same for every study of this space."""
    with quiet_optuna():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        return [
            candidate_from(suggest(study.ask(), space.spec), space.spec, ordinal)
            for ordinal in range(_DESIGNS)
        ]


def _num_chosen(designs: Sequence[Candidate]) -> tuple[float, float]:
    """Returns how many experts a token chooses before any training, and how many are there, over designs and layers."""
    chosen = there = 0.0
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for design in designs:
            width = design.model.d_model
            layers = zip(design.slots_per_layer, design.experts_per_layer, strict=True)
            for (slots, num_open), num in Counter(layers).items():
                router = build_router(design.router, slots, width)
                tokens = F.layer_norm(torch.randn(_ROUTED, width), (width,))
                mask = router(tokens, torch.arange(slots) < num_open).mask
                chosen += num * float(mask.sum()) / _ROUTED
                there += num * slots
    return chosen, there


def _passes(
    space: Space, data: DataInfo, designs: Sequence[Candidate], share: float, device: str
) -> list[tuple[float, LayerShape]]:
    """Returns layers like those of the study, each with the number of its passes in an epoch of all designs."""
    spec, first = space.spec, designs[0]
    widths = Counter((one.model.d_model, one.model.d_expert) for one in designs)
    most_common = widths.most_common(_MOST_WIDTHS)
    layers = [slots for one in designs for slots in one.slots_per_layer]
    together = min(spec.search.cohort_size, spec.study.trials) / len(widths)
    is_language = len(data.input_shape) == 1
    length = num_tokens(first, data.input_shape) if first.model.backbone in BACKBONES else 1
    looked_at = EVALUATION_TOKENS // length if is_language else EVALUATION_BATCH
    batches = {True: first.train.batch_size, False: max(1, looked_at)}
    precision = first.train.precision
    is_low = precision == "bf16" or (precision == "auto" and device != "cpu")
    passes = []
    for (d_model, d_expert), num in most_common:
        for is_training, batch in batches.items():
            examples = data.num_train if is_training else data.num_validation
            shape = LayerShape(
                candidates=2 ** max(1, min(_MOST_DOUBLED, round(math.log2(together)))),
                tokens=min(batch, examples) * length,
                experts=round(sum(layers) / len(layers)),
                d_model=d_model,
                d_expert=d_expert,
                expert=first.model.expert,
                dtype="bfloat16" if is_low and is_training else "float32",
                share=max(1, round(share * _STEPS)) / _STEPS,
                is_training=is_training,
            )
            passes.append((num * examples / min(batch, examples), shape))
    return passes
