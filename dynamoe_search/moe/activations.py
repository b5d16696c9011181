"""What stands between the two layers of an expert: GELU, or the gated SwiGLU of language models.

Which one it is shows in the widths: the first layer of a SwiGLU expert has twice the width that its second layer
reads, the gate's half first.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamoe_search.moe.routers.selection import sigmoid

Activation = Literal["gelu", "swiglu"]


def inner_width(d_expert: int, expert: Activation) -> int:
    """Returns the width of what the first layer of an expert gives."""
    return 2 * d_expert if expert == "swiglu" else d_expert


def activate(u: Tensor, d_expert: int) -> Tensor:
    """Returns gelu(u), or silu(first half of u) * (second half of u) where `u` is wider than the expert.

    Args:
        u: (..., inner) what the first layer gives.
        d_expert: Width that the second layer reads.

    Source: Hendrycks and Gimpel, 2016, arXiv:1606.08415; Shazeer, 2020, arXiv:2002.05202, eq. 6, here with biases.
    """
    if u.shape[-1] == d_expert:
        return F.gelu(u)
    gate, value = u.chunk(2, -1)
    return gate * sigmoid(gate) * value  # torch's own silu depends on the place in a tensor


def activation_gradient(upstream: Tensor, u: Tensor) -> Tensor:
    """Returns the gradient for `u` (..., inner) of `activate`, given that of its result (..., d_expert)."""
    if u.shape == upstream.shape:
        return torch.ops.aten.gelu_backward(upstream, u)  # type: ignore[no-any-return]
    gate, value = u.chunk(2, -1)
    share = sigmoid(gate)
    silu = gate * share
    slope = share + silu * (1 - share)
    return torch.cat([upstream * value * slope, upstream * silu], -1)
