"""How many candidates fit into a GPU's memory together, by an estimate; training corrects it downwards."""

import torch

from dynamoe_search.data import DataInfo
from dynamoe_search.moe.activations import inner_width
from dynamoe_search.search.estimate import (
    LargestDesign,
    candidate_bytes,
    data_bytes,
    pass_bytes,
)
from dynamoe_search.search.planner import most_in_leg
from dynamoe_search.specs import StudySpec, values_of

_USABLE = 0.8  # of the free memory; the rest is for the allocator's gaps and for the kernels
_PASSES = 2
"""A step that is recorded as a CUDA graph keeps its memory. Beside it others are made as usual: the one that its first
replay is compared with, and the last of an epoch, whose batch is smaller."""
_PASS_BYTES = 8  # of a parameter: weight and gradient in bf16, and gradient
_COPY_BYTES = 36
"""Of a parameter: weight and moments, to make steps again from, to compare a first replay from, and after it."""
_PAIR_NUMBERS = 3  # tensors of a token's share of an expert that the backward pass needs
_BYTES = 4


def fitting_cohort(
    spec: StudySpec, largest: LargestDesign, info: DataInfo, device: str
) -> tuple[int, str | None]:
    """Returns how many candidates are proposed and trained together, and a sentence if that is fewer than asked for.

    On the CPU, and for a device that is on another machine, it is `search.cohort_size`, the upper limit everywhere.

    Args:
        spec: The study.
        largest: The most that a design of its space can have.
        info: Its data.
        device: Where it is trained, such as `cpu` or `cuda:0`.
    """
    asked = spec.search.cohort_size
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return asked, None
    free, _ = torch.cuda.mem_get_info(device)
    size = most_that_fit(asked, free, cuda_bytes(spec, largest), data_bytes(info))
    if size == asked:
        return asked, None
    fits = "1 candidate fits" if size == 1 else f"{size} candidates fit"
    return size, (
        f"about {fits} into the {free / 2**30:.0f} GiB that are free on {device}, "
        f"so cohorts have {size} and not {asked} (search.cohort_size)"
    )


def most_that_fit(asked: int, free: int, each: int, shared: int) -> int:
    """Returns the largest cohort of at most `asked` candidates whose legs fit into the free memory; one at least.

    Args:
        asked: Candidates.
        free: Bytes.
        each: Bytes of a candidate.
        shared: Bytes that are needed whoever is trained.
    """
    fit = int(_USABLE * free - shared) // each
    sizes = range(asked, 1, -1)
    return next((size for size in sizes if most_in_leg(size) <= fit), 1)


def cuda_bytes(spec: StudySpec, largest: LargestDesign) -> int:
    """Returns the memory of one candidate in training on a GPU, where every token may at first choose every expert."""
    width: int = max(values_of(spec.model.d_model))
    hidden: int = inner_width(max(values_of(spec.model.d_expert)), spec.model.expert)
    tokens = spec.train.batch_size * largest.tokens
    pairs = tokens * largest.num_slots * _PAIR_NUMBERS * max(width, hidden) * _BYTES
    stored = largest.parameters + largest.embedding
    one_pass = pass_bytes(spec, largest) + pairs + _PASS_BYTES * stored
    own = candidate_bytes(spec, largest) - pass_bytes(spec, largest) - _BYTES * stored
    return own + _PASSES * one_pass + _COPY_BYTES * stored
