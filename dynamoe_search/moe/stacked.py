"""Layers of a whole pack, for backbones that run on it as they are, without `torch.func.vmap`.

Under vmap every operation, and most of all one with a rule of its own, takes some Python. So where a backbone's
`forward` means the same with a leading candidates axis on everything, only its linear layers and norms are exchanged
for those below. Legend: P candidates.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamoe_search.moe.asynchrony import runs_ahead
from dynamoe_search.moe.backbones.mlp import MLPMoE
from dynamoe_search.moe.experts import Experts
from dynamoe_search.moe.layer import MoELayer
from dynamoe_search.moe.randomness import Dropout


class StackedLinear(nn.Module):
    """`nn.Linear` with weight (P, out, in) and bias (P, out)."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: Tensor) -> Tensor:
        """Returns (P, rows, out) of `x` (P, rows, in), or of rows (rows, in) that all candidates see."""
        weight, bias = self.weight, self.bias
        device = x.device.type
        if torch.is_autocast_enabled(device):  # it does not know our own product
            low = torch.get_autocast_dtype(device)
            x, weight, bias = x.to(low), weight.to(low), bias.to(low)  # type: ignore[assignment]
        return _Linear.apply(x.expand(len(weight), *x.shape[-2:]), weight, bias)  # type: ignore[no-any-return, no-untyped-call]


class _Linear(torch.autograd.Function):
    """The gradient of the weights is laid out as they are; torch's own would be turned round by a copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.bmm(x, weight.mT).add_(bias[:, None])  # `baddbmm` copies the bias first

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        (upstream,) = gradients
        of_x = torch.bmm(upstream, weight) if ctx.needs_input_grad[0] else None
        return of_x, torch.bmm(upstream.mT, x), upstream.sum(1)


class StackedLayerNorm(nn.Module):
    """`nn.LayerNorm` with weight and bias (P, width)."""

    def __init__(self, plain: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias
        self.eps = plain.eps

    def forward(self, x: Tensor) -> Tensor:
        """Returns tokens shaped like `x` (P, tokens, width)."""
        if runs_ahead(x.device):
            normed = F.layer_norm(x, x.shape[-1:], eps=self.eps)
            return normed * self.weight[:, None] + self.bias[:, None]
        return _LayerNorm.apply(x.float(), self.weight, self.bias, self.eps)  # type: ignore[no-any-return, no-untyped-call]


class _LayerNorm(torch.autograd.Function):
    """For the CPU: torch's own, one candidate after the other, since it has one weight and one bias for all rows.

    A norm of all rows that is scaled afterwards reads and writes the tokens of the pack five times more, which takes
    longer than all of the norm.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        own = zip(x.unbind(0), weight.unbind(0), bias.unbind(0), strict=True)
        parts = [torch.native_layer_norm(a, a.shape[-1:], w, b, eps) for a, w, b in own]
        y, mean, rstd = (torch.stack(part) for part in zip(*parts, strict=True))
        ctx.save_for_backward(x, mean, rstd, weight, bias)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,) = gradients
        x = ctx.saved_tensors[0]
        own = zip(*(tensor.unbind(0) for tensor in (upstream, *ctx.saved_tensors)), strict=True)
        parts = [
            torch.ops.aten.native_layer_norm_backward(up, x, x.shape[-1:], *rest, [True] * 3)
            for up, x, *rest in own
        ]
        dx, dweight, dbias = (torch.stack(part) for part in zip(*parts, strict=True))
        return dx.view_as(x), dweight, dbias, None


_TWINS = {nn.Linear: StackedLinear, nn.LayerNorm: StackedLayerNorm}
_AS_THEY_ARE = {MLPMoE, MoELayer, Experts, Dropout, nn.ModuleList}


def stack(model: nn.Module) -> bool:
    """Exchanges the layers of a backbone for those of a pack, if that is known to be the same, and tells whether it is.

    Args:
        model: As it was written, but for its routers; none of its tensors changes.
    """
    if type(model) is not MLPMoE:  # who inherits from it may do something else
        return False
    routers = tuple(
        f"{path}.router" for path, module in model.named_modules() if isinstance(module, MoELayer)
    )
    own = {path: one for path, one in model.named_modules() if not path.startswith(routers)}
    kinds = {type(module) for module in own.values()}
    if not kinds <= _TWINS.keys() | _AS_THEY_ARE or any(
        isinstance(one, nn.Linear | nn.LayerNorm) and one.bias is None for one in own.values()
    ):
        return False
    for path, module in own.items():
        if (twin := _TWINS.get(type(module))) is not None:
            model.set_submodule(path, twin(module))
    return True
