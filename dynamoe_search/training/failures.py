"""What can go wrong with candidates in training, and what becomes of it."""

import traceback
from collections.abc import Callable, Sequence

import torch
from torch import nn

from dynamoe_search.errors import CandidateError
from dynamoe_search.moe.layer import MoELayer
from dynamoe_search.moe.randomness import Dropout
from dynamoe_search.records import Candidate, ModelConfig, Outcome, Progress
from dynamoe_search.training.settings import Trained
from dynamoe_search.training.states import CandidateState

_NO_MEMORY = ("can't allocate", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""How torch says so where it raises a plain error: on the CPU, in CUDA itself and in its libraries."""

_LOST = frozenset({214, 220, 226, 700, 702, 709, *range(714, 720), 710, 721, 810, 911, 999})
"""Error codes of CUDA after which, as its documentation says, the process must end and begin anew: illegal addresses,
instructions and launches, asserts, kernels that took too long, memory and links that failed, and what is unknown."""
_LOST_WORDS = (
    "device-side assert triggered",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "unspecified launch failure",
    "launch timed out",
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "hardware stack error",
)
"""The same where it is told as a plain error, as by Triton."""

OnProgress = Callable[[list[Progress]], object]
OnMemory = Callable[[int], object]
ShouldStop = Callable[[], bool]


class Caller:
    """The caller's functions.

    Attributes:
        error: What one of them raised, which is no candidate's fault.
        wants_sizes: Whether memory has forced a pack to be split, so that `on_memory` is to be called.
    """

    def __init__(
        self,
        on_progress: OnProgress | None,
        should_stop: ShouldStop | None,
        on_restore: OnProgress | None,
        on_memory: OnMemory | None,
        listen: Callable[[], None] | None = None,
    ) -> None:
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._on_restore = on_restore
        self._on_memory = on_memory
        self._listen = listen
        self._largest = 0
        self.error: Exception | None = None
        self.wants_sizes = False

    def on_epoch(self, reports: list[Progress], size: int) -> None:
        """Passes on the reports of an epoch, and how many candidates got through it together."""
        if self.wants_sizes and size > self._largest:
            self._largest = size
            self._call(self._on_memory, size)
        if reports:
            self._call(self._on_progress, reports)

    def on_restore(self, reports: list[Progress]) -> None:
        """Passes on the reports of the epochs that a checkpoint saves from being trained again."""
        if reports:
            self._call(self._on_restore, reports)

    def should_stop(self) -> bool:
        """Asks whether training is to stop at once."""
        answer = bool(self._call(self._should_stop))
        if not answer:  # else it is over, whatever others have to say
            self._call(self._listen)
        return answer

    def listening(self, listen: Callable[[], None]) -> "Caller":
        """Returns one with the same functions, which also calls `listen` whenever it asks whether to stop."""
        functions = (self._on_progress, self._should_stop, self._on_restore, self._on_memory)
        return Caller(*functions, listen)

    def told(self, name: str, value: object) -> None:
        """Passes on what another process reports: `on_progress` or `on_restore` with a value."""
        self._call(getattr(self, f"_{name}"), value)

    def _call(self, function: Callable[..., object] | None, *arguments: object) -> object:
        if function is None:
            return None
        try:
            return function(*arguments)
        except Exception as error:
            self.error = error
            raise


class MixedModulesError(Exception):
    """Modules that cannot be stacked, since they differ in more than tensors; `groups` can, group by group."""

    def __init__(self, groups: list[list[int]]) -> None:
        super().__init__(f"modules of {len(groups)} sorts")
        self.groups = groups


def check_alike(models: Sequence[nn.Module]) -> None:
    """Raises `MixedModulesError` if no single module can stand for all models, outside their MoE layers."""
    groups: dict[str, list[int]] = {}
    for position, model in enumerate(models):
        groups.setdefault(repr(_plain_values(model)), []).append(position)
    if len(groups) > 1:
        raise MixedModulesError(list(groups.values()))


def _plain_values(module: nn.Module) -> list[object]:
    """The numbers and texts that a module and its parts keep outside tensors, in a fixed order."""
    if isinstance(module, MoELayer | Dropout):
        return []  # a pack knows how these differ
    own = sorted(item for item in vars(module).items() if _is_plain(item[1]))
    return [own, *((name, _plain_values(child)) for name, child in module.named_children())]


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, bool | int | float | str | ModelConfig)


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether an error means that there was not enough memory, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in _NO_MEMORY)


def is_device_lost(error: Exception, device: str) -> bool:
    """Tells whether a device computes nothing more for this process after an error.

    Errors of a CUDA device come late, and libraries say so in words of their own; so it is asked as well.
    """
    if _is_lost(error):
        return True
    if not device.startswith("cuda") or is_out_of_memory(error):
        return False
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as later:
        return _is_lost(later)
    return False


def _is_lost(error: Exception) -> bool:
    code = getattr(error, "error_code", None)
    if isinstance(error, torch.AcceleratorError) and code is not None:
        return code in _LOST
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _LOST_WORDS)


def failed(
    candidate: Candidate, error: Exception, device: str, state: CandidateState | None
) -> Trained:
    """Returns the end of a candidate that raised; `state` is where it stood, none for a new one."""
    if isinstance(error, CandidateError):
        reason, message = error.reason, str(error)
    elif is_out_of_memory(error):
        reason, message = "out-of-memory", str(error)
    else:
        reason = "exception"
        message = "".join(traceback.format_exception(error))
    outcome = Outcome(
        ordinal=candidate.ordinal,
        status="failed",
        epochs=0 if state is None else state.epoch,
        seconds=0.0 if state is None else state.seconds,
        expert_events=() if state is None else state.events,
        reason=reason,
        message=message,
        device=device,
    )
    return Trained(outcome=outcome)
