"""How often does an audit err, and what does it find? Audits whose truth is known, drawn by the thousand.

    python -m benchmarks.auditing.error_rates > benchmarks/auditing/results/error_rates.md

Every audit has four shapes, two dynamic routers and three values of k; a run of a design differs from seed to seed by
half a point of accuracy beyond what the replicate shares, gradient noise by 10 %, a rank correlation by 0.05. No torch.
"""

import platform
from collections import Counter
from dataclasses import replace

import numpy as np
import scipy

from benchmarks.auditing.synthetic import PLAN, Truth, observations
from dynamoe_search.auditing import CLAIMS, Margins, judge_claims

AUDITS = 200
CLAIMS_WITH_NOISE = tuple(key for key in CLAIMS if key != "variation")
NO_MARGIN = Margins(score=1e-9, spread=1e-9, correlation=1e-9, noise=1e-9, changes=1e-9)
CASES = (
    ("nothing is so; no margin", Truth(), NO_MARGIN),
    ("nothing is so", Truth(), Margins()),
    (
        "at the margins",
        Truth(shape=0.5, correlation=0.1, noise=0.1, above=0.5, settles=0.1),
        Margins(),
    ),
    (
        "twice the margins",
        Truth(shape=1.0, correlation=0.2, noise=0.2, above=1.0, settles=0.2),
        Margins(),
    ),
    (
        "four times the margins",
        Truth(shape=2.0, correlation=0.4, noise=0.4, above=2.0, settles=0.4),
        Margins(),
    ),
)


def main() -> None:
    """Prints a table: share of the audits in which some line of a claim holds, and share of lines that are denied."""
    print("# How often an audit errs, and what it finds\n")
    print(
        f"Command: `python -m benchmarks.auditing.error_rates`. {AUDITS} simulated audits per row; "
        f"numpy {np.__version__}, scipy {scipy.__version__}, Python {platform.python_version()}.\n"
    )
    print("First number: per cent of the audits in which at least one line of the claim *holds*.")
    print("Second: per cent of its lines that *do not hold*.\n")
    print("| truth | seeds |", " | ".join(CLAIMS_WITH_NOISE), "|")
    print("| --- | --: |", " | ".join("--:" for _ in CLAIMS_WITH_NOISE), "|")
    for words, truth, margins in CASES:
        for seeds in (3, 5, 10):
            print(f"| {words} | {seeds} |", " | ".join(rates(truth, margins, seeds)), "|")


def rates(truth: Truth, margins: Margins, seeds: int) -> list[str]:
    """Returns both numbers of every claim."""
    plan = replace(PLAN, claims=CLAIMS_WITH_NOISE)
    believed: Counter[str] = Counter()
    denied: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for seed in range(AUDITS):
        found = judge_claims(plan, observations(truth, seeds, seed), margins)
        believed.update({one.claim for one in found if one.verdict == "holds"})
        denied.update(one.claim for one in found if one.verdict == "does not hold")
        lines.update(one.claim for one in found)
    return [
        f"{100 * believed[key] / AUDITS:.0f}, {100 * denied[key] / lines[key]:.0f}"
        for key in CLAIMS_WITH_NOISE
    ]


if __name__ == "__main__":
    main()
