"""The one place that asks whether the host runs ahead of the device.

On a CUDA device a training step is queued, not computed, and whoever asks for a number waits for all that was queued
before. So nothing in a step reads a tensor or lets its values decide a shape; what the host knows is sent ahead.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_everywhere: ContextVar[bool] = ContextVar("everywhere", default=False)


def runs_ahead(device: torch.device) -> bool:
    """Tells whether a step on this device must not ask for a number that the device computes."""
    return _everywhere.get() or device.type == "cuda"


@contextmanager
def running_ahead() -> Iterator[None]:
    """Lets the CPU be treated like a CUDA device, so that what runs there can be tested without one."""
    before = _everywhere.set(True)
    try:
        yield
    finally:
        _everywhere.reset(before)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor of the host on the device, without waiting for what is queued there.

    Args:
        tensor: On the CPU, or on the device already.
        device: Where it is wanted.
    """
    if tensor.device.type == device.type:
        return tensor
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # a copy from other memory would be waited for
    return tensor.to(device, non_blocking=True)
