"""How much memory does a candidate in training take? The peak, each contestant in a process of its own.

    python -m benchmarks.speed.memory --out benchmarks/speed/results/memory_2-cores.md

Measured is what the process holds at its peak after a few steps, less what it held before the networks were built
(torch, the program, the data), divided by the candidates trained at once: on a CPU resident memory, on a GPU what torch
has allocated there, beside the estimate by which cohorts are made to fit.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.pages import tell
from benchmarks.speed.contestants import LOOP, candidates, image_data, others, ours, study
from benchmarks.speed.machine import conditions
from dynamoe_search.search.estimate import largest_of
from dynamoe_search.search.expert_backends import size_of
from dynamoe_search.search.fitting import cuda_bytes

_STEPS = {"cpu": 3, "cuda": 12}  # on a GPU some more, since some of them are recorded
_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


def _held(device: str) -> int:
    """Bytes that are held now; a new peak begins on a GPU."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


def inside(pack: int, width: int, active: float, device: str) -> float:
    """Trains in this process and returns bytes per candidate; a pack of 0 is the expert loop."""
    torch.set_num_threads(1)  # all of the pack in this process
    warm = ours(1, 8, active, device, "grouped")  # everything that is loaded on first use
    warm.steps(1)
    before = _held(device)
    if pack:
        contestant = ours(pack, width, active, device, "grouped")
    else:
        everybody = others(width, active, device, with_transformers=False)
        contestant = next(one for one in everybody if one.name == LOOP)
    contestant.steps(_STEPS[device])
    return (_peak(device) - before) / contestant.candidates


def measure(pack: int, width: int, active: float) -> float:
    """Returns bytes per candidate, found in a new process."""
    words = ["--inside", str(pack), "--width", str(width), "--active", str(active)]
    done = subprocess.run(  # noqa: S603 - this program
        [sys.executable, "-m", "benchmarks.speed.memory", *words],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return float(json.loads(done.stdout))


def estimated(width: int, active: float) -> int:
    """Returns the bytes per candidate by which a cohort is made to fit into a GPU."""
    info = size_of(image_data(1))
    return cuda_bytes(study(width, active), largest_of(candidates(1, width, active), info))


def main() -> None:
    """Measures and writes a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--active", type=float, default=4.0)
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = (options.width, options.active)
    if options.inside is not None:
        sys.stdout.write(json.dumps(inside(options.inside, *network, device)))
        return
    rows = [(LOOP, measure(0, *network))]
    for pack in options.packs:
        name = f"dynamoe_search, {pack} together"
        rows.append((name, measure(pack, *network)))
    if device == "cuda":
        rows.append(("the estimate that cohorts are lowered by", estimated(*network)))
    lines = [
        "# Memory of a candidate in training",
        "",
        conditions("benchmarks.speed.memory", device),
        f"Four layers of 8 experts of width {options.width}, batch 256. A pack of 1 runs with a ghost beside it.",
        "",
        "| who | MB per candidate |",
        "| :-- | --: |",
        *(f"| {name} | {own / 1e6:.0f} |" for name, own in rows),
    ]
    tell("\n".join(lines) + "\n", options.out)


if __name__ == "__main__":
    main()
