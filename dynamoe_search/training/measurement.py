"""Latency and memory of a finished model on the device it was trained on; only on request, since it takes time."""

import copy
import statistics
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dynamoe_search.data import SearchData

MEASURED_BATCH = 256  # examples per forward pass
REPEATS = 10


@torch.no_grad()
def measure_module(module: nn.Module, data: SearchData) -> dict[str, float]:
    """Returns `latency_ms` and `peak_memory_mb` of one forward pass of 256 validation examples (or all, if fewer).

    Of sequences there are as many as 256 tokens fill, at least one.

    Latency is the median of 10 passes after two more. Memory is that of the weights plus the largest sum of tensors
    that were alive during the pass, in MB of 10^6 bytes.
    """
    x = data.validation.x[: _num_measured(data)]
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


def _num_measured(data: SearchData) -> int:
    """Returns how many examples make 256 tokens, of which an image counts as one."""
    is_text = data.validation.y.ndim == 2
    return max(1, MEASURED_BATCH // data.validation.y.shape[1]) if is_text else MEASURED_BATCH


def _peak_cuda(module: nn.Module, x: Tensor) -> int:
    torch.cuda.reset_peak_memory_stats(x.device)
    before = torch.cuda.memory_allocated(x.device)
    module(x)
    return int(torch.cuda.max_memory_allocated(x.device) - before)


def _peak_cpu(module: nn.Module, x: Tensor) -> int:
    live = _LiveTensors((x, *module.parameters(), *module.buffers()))
    with live:
        module(x)
    return live.peak


class _LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches every operation; `peak` is the largest sum in bytes of the results that were alive at a time.

    Args:
        known: Tensors that were there before, and do not count.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._known = {_storage_of(tensor) for tensor in known}
        self._alive: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs one operation and counts what is alive after it."""
        out = func(*args, **(kwargs or {}))
        self._alive = {
            storage: size
            for storage, size in self._alive.items()
            if not storage.expired()  # type: ignore[no-untyped-call]
        }
        for result in tree_leaves(out):
            if isinstance(result, Tensor):
                storage = _storage_of(result)
                if storage not in self._known:
                    self._alive[storage] = result.untyped_storage().nbytes()
        self.peak = max(self.peak, sum(self._alive.values()))
        return out


def _storage_of(tensor: Tensor) -> StorageWeakRef:
    """The memory behind a tensor and its views, without keeping it alive."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
