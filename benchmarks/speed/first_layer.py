"""One wide product for the first layer of a pack, or one for each candidate? Left out, and this says why.

    python -m benchmarks.speed.first_layer --out benchmarks/speed/results/first-layer_2-cores.md

All candidates see the same batch, so their first layers could be one product with all their weights side by side. It
is timed forwards and backwards in turn with what a cohort does, beside a whole training step of as many candidates.
Then the output of smaller packs is compared with that of the whole one: a candidate's numbers must not depend on who
shares its pack.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.pages import tell
from benchmarks.speed.contestants import ours, random_examples
from benchmarks.speed.machine import conditions
from benchmarks.speed.rivals import BATCH, PIXELS

_ROUNDS, _AT_ONCE, _STEPS = 15, 4, 4

Layer = Callable[[Tensor, Tensor, Tensor], Tensor]


def one_each(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns (candidates, batch, width) of x (batch, pixels), as `training.cohort` computes it."""
    shared = x.expand(len(weight), *x.shape)
    return torch.vmap(F.linear)(shared, weight, bias)


def wide(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns the same from one product with the weights of all candidates side by side."""
    together = F.linear(x, weight.flatten(0, 1), bias.flatten())
    return together.view(len(x), *bias.shape).transpose(0, 1)


def _lap(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor, upstream: Tensor) -> float:
    begin = time.perf_counter()
    for _ in range(_AT_ONCE):
        torch.autograd.grad(layer(x, weight, bias), (weight, bias), upstream)
    return (time.perf_counter() - begin) / _AT_ONCE


def measure(width: int, num: int) -> tuple[float, float, float]:
    """Returns the median seconds of both ways, and of a whole step of a pack."""
    x, weight, bias = drawn(width, num)
    upstream = torch.randn(num, BATCH, width)
    laps: dict[Layer, list[float]] = {one_each: [], wide: []}
    for _ in range(_ROUNDS + 1):
        for layer, own in laps.items():
            own.append(_lap(layer, x, weight, bias, upstream))
    pack = ours(num, width, 4.0, "cpu", "grouped")
    pack.steps(_STEPS)
    steps = []
    for _ in range(3):
        begin = time.perf_counter()
        pack.steps(_STEPS)
        steps.append((time.perf_counter() - begin) / _STEPS)
    first, second = (statistics.median(own[1:]) for own in laps.values())
    return first, second, statistics.median(steps)


def drawn(width: int, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns a batch, and weights and biases of so many first layers."""
    x = random_examples(BATCH)[0].flatten(1)
    weight = torch.randn(num, width, PIXELS) / PIXELS**0.5
    return x, weight.requires_grad_(), torch.randn(num, width).requires_grad_()


def alike(layer: Layer, width: int, num: int, smaller: Sequence[int]) -> int:
    """Returns how many smaller packs have the bits that their members have in the whole one."""
    with torch.no_grad():
        x, weight, bias = drawn(width, num)
        whole = layer(x, weight, bias)
        return sum(torch.equal(layer(x, weight[:n], bias[:n]), whole[:n]) for n in smaller)


def main() -> None:
    """Measures and writes a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--candidates", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    num = options.candidates
    smaller = range(2, num)
    words = (
        f"{num} candidates on {BATCH} images of 28x28; medians of {_ROUNDS} laps in turn, forwards and backwards; four "
        f"layers of eight experts in the whole step. Same bits: of {len(smaller)} smaller packs."
    )
    lines = [
        "# One wide product for the first layer",
        "",
        conditions("benchmarks.speed.first_layer", "cpu"),
        words,
        "",
        "| width | one product each, ms | one wide, ms | whole step, ms | same bits, one each | same bits, one wide |",
        "| --: | --: | --: | --: | --: | --: |",
    ]
    for width in options.widths:
        times = " | ".join(f"{1e3 * own:.1f}" for own in measure(width, num))
        same = " | ".join(str(alike(layer, width, num, smaller)) for layer in (one_each, wide))
        lines.append(f"| {width} | {times} | {same} |")
    tell("\n".join(lines) + "\n", options.out)


if __name__ == "__main__":
    main()
