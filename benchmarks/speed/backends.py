"""Grouped or dense experts: the time of one layer, trained and evaluated, over widths and shares of chosen experts.

python -m benchmarks.speed.backends [--threads 2] [--out FILE]
"""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.speed.machine import conditions
from dynamoe_search.search.backend_timing import LayerShape, measure

_SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)
_WIDTHS = ((4, 8), (8, 8), (16, 8), (16, 32), (64, 32), (64, 64), (128, 128))
_EXPERTS, _CANDIDATES = 8, 16
_TOKENS = {True: 256, False: 1024}
_SECONDS = 0.5
_WHAT = (
    f"Time of `dense` as a share of that of `grouped`, medians of laps in turn; {_CANDIDATES} candidates with "
    f"{_EXPERTS} experts a layer, fp32. Training is forwards and backwards with 256 tokens, evaluation forwards with "
    "1,024."
)


def main() -> None:
    """Times every layer and writes a table of dense against grouped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [
        "# Grouped or dense experts",
        "",
        conditions("benchmarks.speed.backends", "cpu"),
        _WHAT,
        "",
        "| d_model | d_expert | pass | " + " | ".join(f"{share:.0%}" for share in _SHARES) + " |",
        "|---|---|---|" + "---|" * len(_SHARES),
    ]
    for d_model, d_expert in _WIDTHS:
        for is_training, tokens in _TOKENS.items():
            cells = [_cell(d_model, d_expert, tokens, share, is_training) for share in _SHARES]
            name = "training" if is_training else "evaluation"
            lines.append(f"| {d_model} | {d_expert} | {name} | " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def _cell(d_model: int, d_expert: int, tokens: int, share: float, is_training: bool) -> str:
    shape = LayerShape(
        candidates=_CANDIDATES,
        tokens=tokens,
        experts=_EXPERTS,
        d_model=d_model,
        d_expert=d_expert,
        expert="gelu",
        dtype="float32",
        share=share,
        is_training=is_training,
    )
    found = measure(shape, "cpu", _SECONDS)
    return f"{found['dense'] / found['grouped']:.2f}"


if __name__ == "__main__":
    main()
