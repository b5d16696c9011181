"""How much memory does a candidate in training take? Peak of resident memory, each contestant in a process of its own.

    python -m benchmarks.speed.memory --out benchmarks/speed/results/memory_2-cores.md

Measured is what the process holds at its peak after a few steps, less what it held before the networks were built
(torch, the program, the data), divided by the candidates trained at once.
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
from benchmarks.speed.contestants import LOOP, others, ours
from benchmarks.speed.machine import conditions

_STEPS = 3
_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def inside(pack: int, width: int, active: float) -> float:
    """Trains in this process and returns bytes per candidate; a pack of 0 is the expert loop."""
    torch.set_num_threads(2)
    warm = ours(1, 8, active, "cpu", "grouped")  # everything that is loaded on first use
    warm.steps(1)
    before = _resident()
    if pack:
        contestant = ours(pack, width, active, "cpu", "grouped")
    else:
        contestant = next(
            one for one in others(width, active, "cpu", with_transformers=False) if one.name == LOOP
        )
    contestant.steps(_STEPS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
    return (peak - before) / contestant.candidates


def measure(pack: int, width: int, active: float) -> float:
    """Returns bytes per candidate, found in a new process."""
    words = ["--inside", str(pack), "--width", str(width), "--active", str(active)]
    done = subprocess.run(  # noqa: S603 - this program
        [sys.executable, "-m", "benchmarks.speed.memory", *words],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(json.loads(done.stdout))


def main() -> None:
    """Measures and writes a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--active", type=float, default=4.0)
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.inside is not None:
        sys.stdout.write(json.dumps(inside(options.inside, options.width, options.active)))
        return
    rows = [(LOOP, measure(0, options.width, options.active))]
    for pack in options.packs:
        name = f"dynamoe_search, {pack} together"
        rows.append((name, measure(pack, options.width, options.active)))
    lines = [
        "# Memory of a candidate in training",
        "",
        conditions("benchmarks.speed.memory", "cpu"),
        "Four layers of 8 experts, batch 256. A pack of 1 runs with a ghost beside it.",
        "",
        "| who | MB per candidate |",
        "| :-- | --: |",
        *(f"| {name} | {own / 1e6:.0f} |" for name, own in rows),
    ]
    tell("\n".join(lines) + "\n", options.out)


if __name__ == "__main__":
    main()
