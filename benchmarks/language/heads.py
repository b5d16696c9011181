"""How long a language model's head takes in training on the CPU, by its vocabulary: ours, and by autograd.

    python -m benchmarks.language.heads > benchmarks/language/results/heads_2-cores.md

Both compute the mean loss of 1,024 tokens and its gradients, in parts of equal size. They take turns, one thread each.
Processor time is counted, so that other work delays nobody; it takes memory bandwidth from both all the same.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.machine import conditions
from dynamoe_search.training import heads_on_cpu
from dynamoe_search.training.token_losses import PART_LOGITS

TOKENS, WIDTH = 1024, 32
ROUNDS = 5


def main() -> None:
    """Measures the vocabularies one after the other and prints the page."""
    torch.set_num_threads(1)
    print("# Heads of language models on the CPU\n")
    print(conditions("benchmarks.language.heads", "cpu"))
    print(
        f"Microseconds of processor time per token in training, width {WIDTH}; medians of {ROUNDS} turns.\n"
    )
    print("| vocabulary | in one buffer | autograd | ratio |\n|--:|--:|--:|--:|")
    for vocabulary in (257, 1024, 8192, 50_257):
        ours, theirs = measured(vocabulary)
        print(f"| {vocabulary:,} | {ours:.1f} | {theirs:.1f} | {theirs / ours:.1f} |", flush=True)


def measured(vocabulary: int) -> tuple[float, float]:
    """Returns the microseconds of a token, of ours and of autograd."""
    generator = torch.Generator().manual_seed(0)
    tables = torch.randn(1, vocabulary, WIDTH, generator=generator) / 8
    hidden = torch.randn(1, TOKENS, WIDTH, generator=generator)
    y = torch.randint(vocabulary, (TOKENS,), generator=generator)
    size = PART_LOGITS // vocabulary
    contestants: list[Callable[[], object]] = [
        lambda: heads_on_cpu.gradients(tables, hidden, y, size=size),
        lambda: by_autograd(tables[0], hidden[0], y, size),
    ]
    times: list[list[float]] = [[], []]
    for turn in range(1 + ROUNDS):
        for contestant, own in zip(contestants, times, strict=True):
            begin = time.process_time()
            contestant()
            if turn:  # the first warms up
                own.append((time.process_time() - begin) / TOKENS * 1e6)
    return median(times[0]), median(times[1])


def by_autograd(table: Tensor, hidden: Tensor, y: Tensor, size: int) -> None:
    """Adds the gradients of one candidate's head up, part by part."""
    weight = table.clone().requires_grad_()
    for begin in range(0, len(y), size):
        part = hidden[begin : begin + size].clone().requires_grad_()
        losses = F.cross_entropy(part @ weight.T, y[begin : begin + size], reduction="sum")
        (losses / len(y)).backward()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
