"""`RMSNorm`, the norm of the language models."""

import torch
from torch import Tensor, nn

_EPSILON = 1e-6


class RMSNorm(nn.Module):
    """Divides each token by its root mean square and multiplies it by learned weights.

    torch's own raises to a power, which on the CPU rounds by the place in a tensor (see `routers.selection.sigmoid`).

    Args:
        d_model: Width of the tokens.

    Source: Zhang and Sennrich, 2019, arXiv:1910.07467, eq. 4.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Returns tokens shaped like `x` (..., d_model), in its dtype; the mean is taken in float32."""
        wide = x.float()
        scale = (wide.square().mean(-1, keepdim=True) + _EPSILON).rsqrt()
        return (wide * scale).to(x.dtype) * self.weight
