"""Training examples: where they are, their order and augmentation; the same for every candidate of a study."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamoe_search.data import SearchData, Split, TextData
from dynamoe_search.moe.asynchrony import sent
from dynamoe_search.seeding import derive_seed


def epoch_order(num_examples: int, study_seed: int, epoch: int, size: int | None = None) -> Tensor:
    """Returns the training examples (size,) that an epoch, counted from 0, visits, in their order.

    All examples come in random order, then all in another one, and so on; every epoch takes the next `size` of them.

    Args:
        num_examples: Of the training part.
        study_seed: Seed of the study.
        epoch: Its number.
        size: Examples of an epoch, at most `num_examples`; none means all.
    """
    size = size or num_examples
    begin = epoch * size
    passes = range(begin // num_examples, (begin + size - 1) // num_examples + 1)
    orders = torch.cat([_pass_order(num_examples, study_seed, number) for number in passes])
    return orders[begin - passes[0] * num_examples :][:size]


def _pass_order(num_examples: int, study_seed: int, number: int) -> Tensor:
    """Returns the order (num_examples,) of a pass over the training part, counted from 0."""
    generator = torch.Generator().manual_seed(derive_seed(study_seed, 0, "batches", number))
    return torch.randperm(num_examples, generator=generator)


def augment(x: Tensor, study_seed: int, step: int) -> Tensor:
    """Returns images shifted at random by up to an eighth of their side, colour images also mirrored at random.

    Args:
        x: (batch, channels, height, width); borders are filled with zeros, the mean of standardised data.
        study_seed: Seed of the study.
        step: Training step; every step draws anew.
    """
    batch, channels, height, width = x.shape
    generator = torch.Generator().manual_seed(derive_seed(study_seed, 0, "augment", step))
    pad_h, pad_w = height // 8, width // 8
    down = torch.randint(2 * pad_h + 1, (batch, 1), generator=generator)
    right = torch.randint(2 * pad_w + 1, (batch, 1), generator=generator)
    mirrored = torch.zeros(batch, 1, dtype=torch.int64)
    if channels > 1:
        mirrored = (torch.rand(batch, 1, generator=generator) < 0.5).long()
    down, right, mirrored = sent(torch.stack([down, right, mirrored]), x.device)
    rows = down + torch.arange(height, device=x.device)  # (batch, height)
    columns = right + torch.arange(width, device=x.device)  # (batch, width)
    columns = torch.where(mirrored > 0, columns.flip(1), columns)
    padded = F.pad(x, (pad_w, pad_w, pad_h, pad_h))
    index = torch.arange(batch, device=x.device)[:, None, None]
    shifted = padded.movedim(1, -1)[index, rows[:, :, None], columns[:, None, :]]
    return shifted.movedim(-1, 1).contiguous()


def data_on(data: SearchData, device: torch.device | str) -> SearchData:
    """Returns the data on a device; what is there already is not copied."""
    if isinstance(data, TextData):
        return replace(data, train=data.train.to(device), validation=data.validation.to(device))

    def moved(part: Split) -> Split:
        return Split(x=part.x.to(device), y=part.y.to(device))

    return replace(data, train=moved(data.train), validation=moved(data.validation))
