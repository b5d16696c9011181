"""Searches Mixture-of-Experts architectures: accuracy against activated parameters.

The public names are loaded when they are first used, so that `import dynamoe_search` stays fast:

    StudySpec, read_study                               study files
    Store, create_study, run_study, Limits, estimate    searching
    confirm_study, ConfirmRequest                       a front again, with fresh seeds
    train_one, export_candidate                         one model
    load_model, load_validation                         an exported one, and what it was compared on
    build_model, MoELayer                               modules to build on
    Candidate, Progress, Outcome, FrontMember           records
    DynamoeError, InputError, SpecError, UsageError, DataError, StorageError, DeviceError,
    CandidateError                                      errors
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "dynamoe_search.errors": (
        "CandidateError",
        "DataError",
        "DeviceError",
        "DynamoeError",
        "InputError",
        "SpecError",
        "StorageError",
        "UsageError",
    ),
    "dynamoe_search.moe.backbones": ("build_model",),
    "dynamoe_search.moe.layer": ("MoELayer",),
    "dynamoe_search.presets": ("read_study",),
    "dynamoe_search.records": ("Candidate", "FrontMember", "Outcome", "Progress"),
    "dynamoe_search.search": (
        "ConfirmRequest",
        "Limits",
        "confirm_study",
        "create_study",
        "estimate",
        "export_candidate",
        "run_study",
        "train_one",
    ),
    "dynamoe_search.specs": ("StudySpec",),
    "dynamoe_search.store": ("Store",),
    "dynamoe_search.training.export": ("load_model", "load_validation"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME_OF]  # noqa: PLE0604 - all of them are strings


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
