"""What of the machine goes into a study: its device, its threads, its library versions."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from dynamoe_search import __version__
from dynamoe_search.errors import DeviceError
from dynamoe_search.records import StudySettings
from dynamoe_search.specs import StudySpec
from dynamoe_search.training import TrainSettings
from dynamoe_search.wording import counted

_LIBRARIES = ("dynamoe-search", "torch", "torchvision", "numpy", "optuna")


def resolve_device(name: str) -> str:
    """Returns the device that a name stands for, such as `cpu` or `cuda:0`.

    Args:
        name: `auto` (a CUDA device if there is one, else the CPU), `cpu`, `cuda` or `cuda:1`.

    Raises:
        DeviceError: This machine has no such device, or the program cannot use it.
    """
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cpu":
        return "cpu"
    if device.type != "cuda":
        raise DeviceError(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:N")
    index = device.index or 0
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        has = counted(count, "CUDA device") if count else "no CUDA device"
        raise DeviceError(f"device {name!r} is not here: this machine has {has}")
    return f"cuda:{index}"


def library_versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that compute."""
    found = {"python": platform.python_version(), _LIBRARIES[0]: __version__}
    for name in _LIBRARIES[1:]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def numeric_versions() -> dict[str, str]:
    """Returns those versions that could change a number, so that all workers of a study must have the same."""
    return {name: own for name, own in library_versions().items() if name in _LIBRARIES}


def default_threads() -> int:
    """Returns how many CPU threads torch uses in this process."""
    return torch.get_num_threads()


def measured_objectives(spec: StudySpec) -> frozenset[str]:
    """Returns those of a study's objectives and constraints that take a measurement."""
    constrained = {name.partition("_")[2] for name in spec.study.constraints}
    wanted = constrained | set(spec.study.objectives)
    return frozenset(wanted & {"latency_ms", "peak_memory_mb"})


def train_settings(
    spec: StudySpec,
    settings: StudySettings,
    *,
    trust_code: bool = False,
    has_own_device: bool = False,
) -> TrainSettings:
    """Returns what the trainer is told for a study with these frozen settings.

    Args:
        spec: The study.
        settings: What was chosen when it was made.
        trust_code: Whether a backbone named as `package.module:Class` may be imported.
        has_own_device: Whether the only CUDA device that this process sees is meant, whatever number is stored.

    Raises:
        DeviceError: The study's device is not here.
    """
    is_first = has_own_device and settings.device.startswith("cuda")
    return TrainSettings(
        num_slots=settings.num_slots,
        device=resolve_device("cuda:0" if is_first else settings.device),
        expert_backend=settings.expert_backend,
        num_threads=settings.num_threads,
        measure=measured_objectives(spec),
        trust_code=trust_code,
    )
