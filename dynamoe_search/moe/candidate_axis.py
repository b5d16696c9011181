"""The one place that asks whether a tensor stands for many candidates under `torch.func.vmap`.

`is_batchedtensor` is private in torch (checked with 2.11 to 2.13); everything else here is public API.
"""

import torch
from torch import Tensor


def has_candidate_axis(x: Tensor) -> bool:
    """Tells whether `x` is one candidate's view of a tensor with a hidden leading candidates axis."""
    return bool(torch._C._functorch.is_batchedtensor(x))


def with_candidate_axis(x: Tensor, dim: int | None, num_candidates: int) -> Tensor:
    """Returns `x` with its candidates axis in front, repeated (without copying) if all candidates share it.

    For use inside the vmap rule of a `torch.autograd.Function`.
    """
    return x.expand(num_candidates, *x.shape) if dim is None else x.movedim(dim, 0)
