"""How long is a training step: a pack of candidates, against what users run today, one candidate at a time?

    python -m benchmarks.speed.step --out benchmarks/speed/results/step_2-cores.md

Images of the size of Fashion-MNIST (random numbers, so that no data are needed), a residual MLP of 4 MoE layers with 8
experts, batch 256, AdamW. Everybody runs in turn, round after round, with the same number of threads; the median of the
rounds is shown, and as ratio the median of the ratios within a round.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import torch

from benchmarks.pages import Page
from benchmarks.speed.contestants import LOOP, Contestant, others, ours
from benchmarks.speed.machine import conditions, run_as_users_do


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def measure(
    contestants: list[Contestant], *, steps: int, rounds: int, device: str
) -> list[list[float]]:
    """Returns seconds per candidate-step, round by round for every contestant; an extra round warms up."""
    times: list[list[float]] = [[] for _ in contestants]
    for number in range(rounds + 1):
        for own, contestant in zip(times, contestants, strict=True):
            _synchronize(device)
            begin = time.perf_counter()
            contestant.steps(steps)
            _synchronize(device)
            if number:
                own.append((time.perf_counter() - begin) / steps / contestant.candidates)
    return times


def table(width: int, contestants: list[Contestant], times: list[list[float]]) -> list[str]:
    """Returns the rows of one width and number of active experts."""
    base = times[[one.name for one in contestants].index(LOOP)]
    lines = []
    for contestant, own in zip(contestants, times, strict=True):
        ratio = statistics.median(b / a for a, b in zip(own, base, strict=True))
        middle = statistics.median(own)
        lines.append(
            f"| {width} | {contestant.mean_k():.2f} | {contestant.name}{contestant.note()} | {middle * 1e3:.1f} "
            f"| {min(own) * 1e3:.1f} | {1 / middle:.0f} | {ratio:.1f}x |"
        )
    return lines


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--widths", type=int, nargs="+", default=[128])
    parser.add_argument("--active", type=float, nargs="+", default=[4.0, 1.5], choices=[4.0, 1.5])
    parser.add_argument("--backends", nargs="+", default=["grouped"])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--without-transformers", action="store_true")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measures and writes a table."""
    run_as_users_do("benchmarks.speed.step")
    options = _options()
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    page = Page(options.out)
    head = [
        "# The training step against what users run today",
        "",
        conditions("benchmarks.speed.step", device),
        f"Medians of {options.rounds} rounds of {options.steps} steps; all contestants in turn.",
        "",
        "| width | experts per token | who | ms per candidate-step | fastest | steps per second | against the loop |",
        "| --: | --: | :-- | --: | --: | --: | --: |",
    ]
    page.add(head)
    for width in options.widths:
        for active in options.active:
            contestants = others(
                width, active, device, with_transformers=not options.without_transformers
            )
            contestants += [
                ours(num, width, active, device, backend)
                for backend in options.backends
                for num in options.packs
            ]
            times = measure(contestants, steps=options.steps, rounds=options.rounds, device=device)
            page.add(table(width, contestants, times))


if __name__ == "__main__":
    main()
