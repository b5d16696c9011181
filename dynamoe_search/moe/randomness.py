"""Random numbers inside models, without a global generator.

A module that needs randomness owns a buffer `stream`, a 0-d int64 tensor on the CPU whose value seeds a generator for
one draw. The trainer replaces it before every step by a number derived from (study seed, ordinal, module, step), so a
draw depends neither on order nor on company. Under `torch.func.vmap` each candidate draws from its own stream.
"""

from typing import Any

import torch
from torch import Tensor, nn


def new_stream() -> Tensor:
    """Returns the first value of a `stream` buffer, drawn from torch's global generator: 0-d int64 on the CPU.

    The trainer evaluates with it, so a module that is built again from the same seed draws the same in evaluation.
    """
    return torch.randint(2**62, ())


def normal(stream: Tensor, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """Returns standard normal numbers of `shape`, float32, determined by the value of `stream` and the device type."""
    return _Draw.apply(stream, shape, "normal", torch.device(device))  # type: ignore[no-any-return, no-untyped-call]


def uniform(stream: Tensor, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """Returns numbers of `shape` from [0, 1), float32, determined by the value of `stream` and the device type."""
    return _Draw.apply(stream, shape, "uniform", torch.device(device))  # type: ignore[no-any-return, no-untyped-call]


def _draw(stream: Tensor, shape: tuple[int, ...], law: str, device: torch.device) -> Tensor:
    generator = torch.Generator(device).manual_seed(int(stream.item()))
    draw = torch.randn if law == "normal" else torch.rand
    return draw(shape, generator=generator, device=device)


class _Draw(torch.autograd.Function):
    """One draw; its vmap rule gives each candidate its own generator."""

    @staticmethod
    def forward(stream: Tensor, shape: tuple[int, ...], law: str, device: torch.device) -> Tensor:
        return _draw(stream, shape, law, device)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, None, None, None]:
        return None, None, None, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        stream: Tensor,
        shape: tuple[int, ...],
        law: str,
        device: torch.device,
    ) -> tuple[Tensor, int | None]:
        if in_dims[0] is None:
            return _draw(stream, shape, law, device), None
        draws = [_Draw.apply(own, shape, law, device) for own in stream.unbind(in_dims[0])]  # type: ignore[no-untyped-call]
        return torch.stack(draws), 0


class Dropout(nn.Module):
    """Dropout whose rate is a tensor and whose mask comes from a stream, so that candidates of one pack may differ.

    Args:
        rate: Share of the activations set to 0 in training; the others are divided by 1 - rate.
    """

    rate: Tensor
    stream: Tensor

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("rate", torch.tensor(float(rate)), persistent=False)
        self.register_buffer("stream", new_stream(), persistent=False)
        self.is_active = rate > 0  # a pack sets it if any of its candidates drops anything

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` (any shape) with some entries dropped in training, unchanged in evaluation."""
        if not (self.training and self.is_active):
            return x
        keep = uniform(self.stream, tuple(x.shape), x.device) >= self.rate
        return torch.where(keep, x / (1 - self.rate), torch.zeros_like(x))
