"""Finds what would make the host wait for a CUDA device, on a machine without one.

Two layers are watched: what Python asks of a tensor (`tolist`, `item`, `if tensor`, blocking copies), and what arrives
at the kernels (operations whose result has as many rows as the values say).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.populations import NUM_SLOTS

_READS = {
    f"torch.Tensor.{name}"
    for name in (
        *("item", "tolist", "cpu", "numpy", "nonzero", "unique"),
        *("__bool__", "__int__", "__float__", "__index__", "__contains__", "__iter__"),
    )
}
_COPIES = {"torch.tensor", "torch.as_tensor", "torch.Tensor.to", "torch.Tensor.cuda"}
_ITERATES = {"torch.Tensor.__iter__"}
_SIZED_BY_VALUES = (
    *("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"),
    *("unique_consecutive", "repeat_interleave.Tensor", "bincount", "is_nonzero"),
)


class _Functions(TorchFunctionMode):
    """Watches what Python calls."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = resolve_name(func) or ""
        if name in _READS - _ITERATES:
            raise AssertionError(f"{name} waits for the device")
        if name in _COPIES and _is_blocking_copy(args, kwargs):
            raise AssertionError(f"{name} to a device waits for it")
        return func(*args, **kwargs)


class _Kernels(TorchDispatchMode):
    """Watches what is computed."""

    def __init__(self, note: Callable[[str, Sequence[Any]], object]) -> None:
        super().__init__()
        self._note = note

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = str(func).removeprefix("aten.").removesuffix(".default")
        if name in _SIZED_BY_VALUES:
            raise AssertionError(f"{func} waits for the device")
        if name.startswith("index") and any(
            isinstance(own, Tensor) and own.dtype in (torch.bool, torch.uint8)
            for own in (args[1] if isinstance(args[1], list | tuple) else ())
        ):
            raise AssertionError(f"{func} with a mask waits for the device")
        self._note(name, args)
        return func(*args, **(kwargs or {}))


class Product(NamedTuple):
    """A matrix product: the operation, the dtypes of what enters, and all sides of the matrices."""

    name: str
    dtypes: set[torch.dtype]
    sides: set[int]


class NoWaiting:
    """Fails at everything within that would wait for a device.

    Attributes:
        products: Every matrix product.

    Args:
        calls: Whether what Python asks of a tensor is watched, too.
    """

    def __init__(self, *, calls: bool = True) -> None:
        self.products: list[Product] = []
        kernels = _Kernels(self._note)
        self._modes = (_Functions(), kernels) if calls else (kernels,)

    def _note(self, name: str, args: Sequence[Any]) -> None:
        if name.partition(".")[0] in ("mm", "bmm", "addmm", "baddbmm", "_grouped_mm", "mv", "dot"):
            factors = [own for own in args if isinstance(own, Tensor) and own.is_floating_point()]
            dtypes = {own.dtype for own in factors}
            # the last two: what `baddbmm` adds to the product may have sides of 1
            sides = {side for own in factors[-2:] for side in own.shape[own.dim() > 2 :]}
            self.products.append(Product(name, dtypes, sides))

    def __enter__(self) -> "NoWaiting":
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


def assert_dtypes(products: Sequence[Product], low: torch.dtype, num_grouped: int) -> None:
    """Checks the dtypes of all products of a step, so many of them grouped: routers are float32, all else `low`."""
    grouped = [one for one in products if one.name == "_grouped_mm"]
    assert len(grouped) == num_grouped
    for one in products:  # whatever has a side of slots is routing
        is_routing = one not in grouped and bool(one.sides & {1, 2, NUM_SLOTS, NUM_SLOTS + 2})
        assert one.dtypes == ({torch.float32} if is_routing else {low}), one


def _is_blocking_copy(args: Sequence[Any], kwargs: Any) -> bool:
    if kwargs.get("non_blocking"):
        return False
    source = args[0]
    named = [*args[1:], kwargs.get("device")]
    to = [own for own in named if isinstance(own, str | torch.device)]
    return bool(to) and not (isinstance(source, Tensor) and source.device == torch.device(to[0]))
