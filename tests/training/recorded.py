"""What a CUDA graph does, on the CPU: operations recorded with the tensors they worked on, and made again on these."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recorded(TorchDispatchMode):
    """A list of operations; `replay` knows the tensors of the recording, and nothing of Python around them.

    Unlike a CUDA graph it computes while it records; whoever records restores what has changed.
    """

    def __init__(self, run: Callable[[], None]) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Sequence[Any], Any, list[Any]]] = []
        with self:
            run()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, tree_leaves(result)))
        return result

    def replay(self) -> None:
        with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
            for func, args, kwargs, places in self._calls:
                found = tree_leaves(func(*args, **kwargs))
                if any(returned.alias_info is not None for returned in func._schema.returns):
                    continue  # a view, or what was changed in place
                for place, value in zip(places, found, strict=True):
                    if isinstance(place, Tensor) and place.data_ptr() != value.data_ptr():
                        place.copy_(value)
