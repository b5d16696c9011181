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

OnProgress = Callable[[list[Progress]], set[int]]
OnRestore = Callable[[list[Progress]], None]
ShouldStop = Callable[[], bool]


class Caller:
    """The caller's functions; `error` is what one of them raised, which is no candidate's fault."""

    def __init__(
        self,
        on_progress: OnProgress | None,
        should_stop: ShouldStop | None,
        on_restore: OnRestore | None = None,
    ) -> None:
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._on_restore = on_restore
        self.error: Exception | None = None

    def on_progress(self, reports: list[Progress]) -> set[int]:
        """Passes on the reports of an epoch; returns the ordinals of candidates to stop."""
        if self._on_progress is None or not reports:
            return set()
        try:
            return self._on_progress(reports)
        except Exception as error:
            self.error = error
            raise

    def on_restore(self, reports: list[Progress]) -> None:
        """Passes on the reports of the epochs that a checkpoint saves from being trained again."""
        if self._on_restore is None or not reports:
            return
        try:
            self._on_restore(reports)
        except Exception as error:
            self.error = error
            raise

    def should_stop(self) -> bool:
        """Asks whether training is to stop at once."""
        if self._should_stop is None:
            return False
        try:
            return self._should_stop()
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
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate" in str(error)


def failed(candidate: Candidate, error: Exception, device: str) -> Trained:
    """Returns the end of a candidate that raised."""
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
        epochs=0,
        seconds=0.0,
        reason=reason,
        message=message,
        device=device,
    )
    return Trained(outcome=outcome)
