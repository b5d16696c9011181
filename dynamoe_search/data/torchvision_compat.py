"""Imports torchvision beside any build of torch.

torchvision's wheel for CUDA brings a compiled extension that does not load beside torch's wheel for the CPU. Most of
torchvision (data sets, transforms) does without it, but two registrations at import time name operations of the
extension and end the import. Declaring these two operations first, without an implementation, is enough.
"""

import functools
import importlib
import sys
from types import ModuleType

import torch

from dynamoe_search.errors import DataError

_MISSING_OPERATIONS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@functools.cache
def import_torchvision() -> ModuleType:
    """Gives the module `torchvision` with its `datasets` and `transforms`.

    The import takes about a second, which is why it happens in a function. Where torchvision imports by itself,
    nothing is declared.

    Raises:
        DataError: torchvision is not installed, or does not fit the installed torch.
    """
    try:
        return importlib.import_module("torchvision")
    except ImportError as error:
        raise _does_not_fit(error) from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise _does_not_fit(error) from error
    _forget_failed_import()
    _declare_operations()
    try:
        return importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        raise _does_not_fit(error) from error


def _forget_failed_import() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


@functools.cache
def _declare_operations() -> torch.library.Library:
    """Declares the operations; the cache keeps the library alive, and with it the declarations."""
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _MISSING_OPERATIONS:
        library.define(schema)  # type: ignore[no-untyped-call]
    return library


def _does_not_fit(error: Exception) -> DataError:
    return DataError(
        f"torchvision cannot be imported beside torch {torch.__version__} ({error}); "
        "install the versions of torch and torchvision that belong together"
    )


__all__ = ["import_torchvision"]
