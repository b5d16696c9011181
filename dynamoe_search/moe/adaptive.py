"""Adaptive experts: when and how the number of open experts of a layer changes while training.

Legend: candidates, the leading axis of a pack (1 for a candidate alone); slots, the experts that
exist or are padding in one layer; all functions are plain tensor arithmetic for one layer, without
`torch.func.vmap`, without a Python branch on a value and without synchronising the device.

What an update does, in this order:

1. remove: close every open slot that no token was routed to while recording. Its tensors stay.
2. add: if some token was routed to nobody while recording and a slot is closed, open the closed
   slot of lowest index, which may be one that step 1 has just closed. Its router row becomes the
   unit vector along the sum of those tokens and its threshold 0. At most one per update. The
   expert itself keeps its weights, and the optimizer its moments.

Nothing keeps a layer from losing all its experts, as in the published code. Then every token is
routed to nobody, the layer passes its input on, and the next update opens slot 0. In an update that
removes and adds this can only happen if the unrouted sum is exactly zero.

Where we differ from the published code: it skips step 2 if the components of the unrouted
sum add up to 0, which they also do for a centred vector; we skip it if all of them are 0. It
records one step more and updates within that step, see `is_recording`.

Source: Guo et al., 2025, arXiv:2405.14297 (DynMoE), adaptive process; details from the authors'
code.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dynamoe_search.records import AdaptiveConfig


class SlotUpdate(NamedTuple):
    """What an update of one layer decided, for every candidate of a pack."""

    is_open: Tensor  # (candidates, slots) bool, after the update
    opened: Tensor  # (candidates,) int64, the slot that was opened, or -1
    router_row: Tensor  # (candidates, d_model) for that slot; zeros where none was opened
    threshold: Tensor  # (candidates,) for that slot: 0


def is_recording(step: int, config: AdaptiveConfig) -> bool:
    """Returns whether routing is recorded in a training step.

    Steps are those of the candidate and count from 1. Within every period they are recorded after
    the first `record_from` ones up to and including number `update_at`. With the published period
    of 900, 300 and 600 these are steps 301 to 600, 1201 to 1500, 2101 to 2400, ...: always
    `update_at - record_from` steps. The published code, which tests its counter before it counts,
    records steps 301 to 601, and so on.

    Args:
        step: Number of the step, counting itself: 1 is the first.
        config: The settings.
    """
    return config.record_from < _step_of_period(step, config) <= config.update_at


def is_update_due(step: int, config: AdaptiveConfig) -> bool:
    """Returns whether experts are removed and added once a training step is over.

    After the update the records start again from zero. With the published settings it is due after
    steps 600, 1500, 2400, ...

    Args:
        step: Number of the step that is over: 1 is the first.
        config: The settings.
    """
    return _step_of_period(step, config) == config.update_at


def update_slots(
    is_open: Tensor,
    exists: Tensor,
    routed: Tensor,
    unrouted: Tensor,
    *,
    add: Tensor,
    remove: Tensor,
    due: Tensor,
) -> SlotUpdate:
    """Returns which slots of one layer are open after an update, and how the opened one starts.

    A candidate whose update is not due, or that neither adds nor removes, keeps its slots.

    Args:
        is_open: (candidates, slots) bool, before the update; open slots exist.
        exists: (candidates, slots) bool; false for padding, which is never opened.
        routed: (candidates, slots) tokens routed to each slot while recording, at least 0.
        unrouted: (candidates, d_model) sum of the router's inputs over the tokens that were routed
            to nobody while recording.
        add: (candidates,) bool, whether the candidate opens experts.
        remove: (candidates,) bool, whether the candidate closes experts.
        due: (candidates,) bool, whether the candidate's update is due.
    """
    is_open = is_open & ~((due & remove)[:, None] & (routed == 0))
    closed = exists & ~is_open
    largest = unrouted.abs().amax(1)  # (candidates,)
    can_open = due & add & closed.any(1) & (largest != 0)
    lowest = closed.to(torch.uint8).argmax(1)  # argmax gives the first of equals
    opened = torch.where(can_open, lowest, -1)
    slots = torch.arange(is_open.shape[1], device=is_open.device)
    # scaled before it is squared, so that tiny and huge sums have a direction too
    scaled = unrouted / torch.where(can_open, largest, 1)[:, None]
    scaled = torch.where(can_open[:, None], scaled, 0)
    norm = torch.linalg.vector_norm(scaled, dim=1)
    return SlotUpdate(
        is_open=is_open | (slots == opened[:, None]),
        opened=opened,
        router_row=scaled / torch.where(can_open, norm, 1)[:, None],
        threshold=torch.zeros_like(norm),
    )


def _step_of_period(step: int, config: AdaptiveConfig) -> int:
    """1 for the first step of a period, `period` for its last."""
    return (step - 1) % config.period + 1
