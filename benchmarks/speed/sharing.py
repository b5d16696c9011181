"""Many processes that share a device, each with one candidate, against one process that trains a pack.

    python -m benchmarks.speed.sharing --processes 16 --out benchmarks/speed/results/sharing_DEVICE.md

A device that one small network leaves idle can be shared by processes, and that is what a user would try first. Every
process trains the tuned expert loop of `rivals.py` (no data loader, fused AdamW) for the same seconds, after all of
them are warm; their candidate-steps per second are summed. The packs run after them, alone. Networks as in
`benchmarks.speed.step`.
"""

import argparse
import statistics
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.pages import Page
from benchmarks.speed.contestants import Contestant, others, ours
from benchmarks.speed.machine import conditions

_ONE = "the same, tuned"  # the rival that a process trains
_AT_ONCE = 8  # steps between two looks at the clock
_PATIENCE_SECONDS = 300.0


def steps_per_second(contestant: Contestant, seconds: float, device: str) -> float:
    """Trains for about so many seconds and returns candidate-steps per second."""
    number, begin = 0, time.perf_counter()
    while number == 0 or time.perf_counter() - begin < seconds:
        contestant.steps(_AT_ONCE)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        number += _AT_ONCE
    return number * contestant.candidates / (time.perf_counter() - begin)


def _alone(
    width: int, active: float, seconds: float, device: str, barrier: Any, found: Any
) -> None:
    """One of the processes: says that it is warm, waits for the others, trains, and tells its rate."""
    torch.set_num_threads(1)
    everybody = others(width, active, device, with_transformers=False)
    contestant = next(one for one in everybody if one.name == _ONE)
    contestant.steps(_AT_ONCE)
    barrier.wait(_PATIENCE_SECONDS)
    found.put(steps_per_second(contestant, seconds, device))


def shared(num: int, width: int, active: float, seconds: float, device: str) -> list[float]:
    """Returns the rate of each of `num` processes that train at the same time."""
    context = get_context("spawn")
    barrier, found = context.Barrier(num), context.Queue()
    words = (width, active, seconds, device, barrier, found)
    processes = [context.Process(target=_alone, args=words, daemon=True) for _ in range(num)]
    for process in processes:
        process.start()
    rates = [found.get(timeout=_PATIENCE_SECONDS) for _ in processes]
    for process in processes:
        process.join()
    return rates


def packed(num: int, width: int, active: float, seconds: float, device: str) -> float:
    """Returns the rate of one process that trains a pack."""
    contestant = ours(num, width, active, device, "grouped")
    contestant.steps(_AT_ONCE)
    return steps_per_second(contestant, seconds, device)


def main() -> None:
    """Measures and writes a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--packs", type=int, nargs="+", default=[16, 64, 100])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--active", type=float, default=4.0, choices=[4.0, 1.5])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = (options.width, options.active, options.seconds, device)
    page = Page(options.out)
    head = [
        "# Processes that share a device against one packed process",
        "",
        conditions("benchmarks.speed.sharing", device),
        f"Width {options.width}, about {options.active} experts per token, {options.seconds} seconds each.",
        "",
        "| who | candidate-steps per second | of one candidate | against the most processes |",
        "| :-- | --: | --: | --: |",
    ]
    page.add(head)
    rates = {num: shared(num, *network) for num in options.processes}
    base = sum(rates[options.processes[-1]])
    for num, own in rates.items():
        name = f"expert loop, tuned, {num} processes with a candidate each"
        page.add([_row(name, sum(own), statistics.median(own), base)])
    for num in options.packs:
        rate = packed(num, *network)
        name = f"dynamoe_search, {num} together in one process"
        page.add([_row(name, rate, rate / num, base)])


def _row(name: str, rate: float, one: float, base: float) -> str:
    return f"| {name} | {rate:.0f} | {one:.1f} | {rate / base:.1f}x |"


if __name__ == "__main__":
    main()
