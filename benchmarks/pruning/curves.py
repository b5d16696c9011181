"""Recorded learning curves as arrays: what `benchmarks.pruning.record` writes and the other scripts read. No torch.

    from benchmarks.pruning.curves import load
    curves = load("benchmarks/pruning/curves/digits_constant.npz")
    curves.error[0, :, 11]  # validation error of the current weights after epoch 12, one number per candidate

Legend: W = which weights were evaluated (`WEIGHTS`), N candidates, E epochs, L layers. What was not measured, and what
came after a loss that was not finite, is NaN.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

WEIGHTS = ("raw", "ema-half", "ema-one")
"""The current weights, and their moving averages with a time constant of half an epoch and of one."""

HIDDEN = ("test_error",)
"""What a pruner never sees."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """The curves of a set of candidates that were trained to the end.

    Attributes:
        meta: `data`, `decay`, `spec` (the study as JSON data), `num_train`, `num_validation`, `num_test`,
            `num_classes`, `largest_params` (bound on the activated parameters of the space), versions, command.
        ordinal: (N,) number of the proposal.
        seed: (N,) seed of initial weights and batches; candidates of one ordinal are the same design.
        params: N sampled values by dotted path, as Optuna knows them.
        router: (N,) router kind.
        shape: (N,) shape of the schedule.
        reference: (N,) name of the reference design, "" for a sampled one.
        experts: (N, L) experts per layer.
        total_params: (N,).
        seconds: (N, E) this candidate's share of training and evaluation.
        train_loss: (N, E) mean over the steps of the epoch.
        error: (W, N, E) validation error.
        loss: (W, N, E) validation cross-entropy in nats.
        activated: (W, N, E) activated parameters per validation example.
        mean_k: (W, N, E, L) mean experts per example on the validation part.
        test_error: (W, N, E) for the report alone.
    """

    meta: dict[str, Any]
    ordinal: Array
    seed: Array
    params: tuple[dict[str, Any], ...]
    router: Array
    shape: Array
    reference: Array
    experts: Array
    total_params: Array
    seconds: Array
    train_loss: Array
    error: Array
    loss: Array
    activated: Array
    mean_k: Array
    test_error: Array

    @property
    def num_candidates(self) -> int:
        """Returns N."""
        return len(self.ordinal)

    @property
    def num_epochs(self) -> int:
        """Returns E."""
        return int(self.error.shape[2])

    def select(self, rows: Sequence[int] | Array) -> "Curves":
        """Returns some of the candidates, by position."""
        index = np.asarray(rows, dtype=np.int64)
        chosen: dict[str, Any] = {"params": tuple(self.params[row] for row in index)}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                axis = 1 if field.name in _BY_WEIGHTS else 0
                chosen[field.name] = value.take(index, axis=axis)
        return replace(self, **chosen)

    def blind(self) -> "Curves":
        """Returns the same without what a pruner must not see."""
        return replace(self, **{name: np.full_like(getattr(self, name), np.nan) for name in HIDDEN})


_BY_WEIGHTS = ("error", "loss", "activated", "mean_k", "test_error")


def save(path: Path, curves: Curves) -> None:
    """Writes curves to a compressed file of NumPy arrays that needs no pickle."""
    arrays = {field.name: getattr(curves, field.name) for field in fields(curves)}
    arrays["meta"] = np.array(json.dumps(curves.meta, sort_keys=True))
    arrays["params"] = np.array([json.dumps(one, sort_keys=True) for one in curves.params])
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    temporary.replace(path)


def load(path: str | Path) -> Curves:
    """Returns the curves of a file that `save` wrote."""
    with np.load(path) as file:
        arrays: dict[str, Any] = {name: file[name] for name in file.files}
    arrays["meta"] = json.loads(str(arrays["meta"]))
    arrays["params"] = tuple(json.loads(str(one)) for one in arrays["params"])
    return Curves(**arrays)


def join(parts: Sequence[Curves]) -> Curves:
    """Returns the candidates of all parts, by seed and ordinal; `meta` is that of the first."""
    joined: dict[str, Any] = {
        "meta": parts[0].meta,
        "params": tuple(params for part in parts for params in part.params),
    }
    for field in fields(Curves):
        if field.name not in joined:
            axis = 1 if field.name in _BY_WEIGHTS else 0
            joined[field.name] = np.concatenate([getattr(one, field.name) for one in parts], axis)
    whole = Curves(**joined)
    return whole.select(np.lexsort((whole.ordinal, whole.seed)))
