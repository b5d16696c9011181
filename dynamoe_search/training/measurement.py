"""Latency and memory of a finished model on the device it was trained on; only on request, since it takes time."""

import copy
import statistics
import time

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from dynamoe_search.data import ImageData

MEASURED_BATCH = 256  # examples per forward pass
REPEATS = 10


@torch.no_grad()
def measure_module(module: nn.Module, data: ImageData) -> dict[str, float]:
    """Returns `latency_ms` and `peak_memory_mb` of one forward pass of 256 validation examples (or all, if fewer).

    Latency is the median of 10 passes after two more. Memory is that of the weights plus the largest sum of tensors
    that were alive during the pass, in MB of 10^6 bytes.
    """
    x = data.validation.x[:MEASURED_BATCH]
    module = copy.deepcopy(module).to(x.device).eval()
    module(x)
    module(x)
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        module(x)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        times.append((time.perf_counter() - begin) * 1e3)
    weights = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    activations = _peak_cuda(module, x) if x.is_cuda else _peak_cpu(module, x)
    return {
        "latency_ms": statistics.median(times),
        "peak_memory_mb": (weights + activations) / 1e6,
    }


def _peak_cuda(module: nn.Module, x: Tensor) -> int:
    torch.cuda.reset_peak_memory_stats(x.device)
    before = torch.cuda.memory_allocated(x.device)
    module(x)
    return int(torch.cuda.max_memory_allocated(x.device) - before)


def _peak_cpu(module: nn.Module, x: Tensor) -> int:
    """The largest running sum of what the CPU allocator gave out and took back during a pass, in bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        module(x)
    alive = peak = 0
    events = [event for event in profiler.events() or [] if event.name == "[memory]"]
    for event in sorted(events, key=lambda event: event.time_range.start):
        alive += event.cpu_memory_usage
        peak = max(peak, alive)
    return peak
