"""Random numbers inside models, without a global generator.

A module that needs randomness owns a buffer `stream`, a 0-d int64 tensor whose value seeds one draw. The trainer
replaces it before every step by a number derived from (study seed, ordinal, module, step), so a draw depends neither on
order nor on company. Under `torch.func.vmap` each candidate draws from its own stream.

On the CPU a stream seeds torch's generator. On a device that the host runs ahead of, streams stay there and a draw is a
hash of stream and place (`hashed`): nobody reads a seed, and all candidates draw at once.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from dynamoe_search.moe.asynchrony import runs_ahead

_STEP = -0x61C8864680B583EB  # 2**64 / golden ratio, as a signed number
_FIRST, _SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
_FRACTION = 2.0**-24  # as many bits as a float32 between 0.5 and 1 has


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


def hashed(seeds: Tensor, numbers: Tensor | int) -> Tensor:
    """Returns 64 random bits, int64, for every pair of a seed and a number (int64, broadcast).

    Source: SplitMix64, Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators", with the mixer of
    Stafford's variant 13; a seed is where its sequence begins and the number the place in it.
    """
    steps = numbers * _STEP
    if isinstance(steps, int):
        steps = (steps + 2**63) % 2**64 - 2**63  # as int64 overflows
    bits = seeds + steps
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, places: int) -> Tensor:
    """Shifts to the right and fills up with zeros, which torch does not do with signed numbers."""
    mask: int = 2 ** (64 - places) - 1
    return (bits >> places) & mask


def _draw_ahead(streams: Tensor, shape: tuple[int, ...], law: str) -> Tensor:
    """Draws on the device where the streams (...) are, (..., *shape)."""
    numbers = torch.arange(1, math.prod(shape) + 1, device=streams.device)
    bits = hashed(streams[..., None], numbers)
    high = _shifted(bits, 40).float() * _FRACTION  # [0, 1)
    if law == "normal":  # Box and Muller, 1958
        low = (bits & (2**24 - 1)).float() * _FRACTION
        high = (-2 * torch.log(1 - high)).sqrt() * torch.cos(2 * math.pi * low)
    return high.view(*streams.shape, *shape)


def _draw(stream: Tensor, shape: tuple[int, ...], law: str, device: torch.device) -> Tensor:
    if runs_ahead(device):
        return _draw_ahead(stream.to(device, non_blocking=True), shape, law)
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
        if runs_ahead(device):
            return _draw(stream.movedim(in_dims[0], 0), shape, law, device), 0
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
        drop = torch.func.vmap(_drop) if self.stream.dim() else _drop  # of a pack, or of one
        return drop(x, self.rate, self.stream)


def _drop(x: Tensor, rate: Tensor, stream: Tensor) -> Tensor:
    keep = uniform(stream, tuple(x.shape), x.device) >= rate
    return torch.where(keep, x / (1 - rate), torch.zeros_like(x))
