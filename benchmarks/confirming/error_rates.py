"""How often does `confirm` err, and how much does it see? On made-up runs, whose truth is known.

    python -m benchmarks.confirming.error_rates > benchmarks/confirming/results/error-rates.md

A member of a front and its rivals, all plain and of its size. Each run has an accuracy of its own around the design's
(standard deviation 1 point, as on digits), and is read off 431 validation and 359 test examples. About 2 minutes.
"""

import platform

import numpy as np
import scipy

from dynamoe_search.confirmation import Confirmation, Measured, confirmation

LEVEL, NOISE = 0.94, 0.01
VALIDATION, TEST = 431, 359
STUDIES = 500


def confirmed(
    rivals: int, seeds: int, ahead: float, generator: np.random.Generator
) -> Confirmation:
    """Returns what a confirmation says of a member that is better than its equal rivals by `ahead`."""
    runs = []
    for number in range(rivals + 1):
        level = LEVEL + (ahead if number == 0 else 0.0)
        for replicate in range(seeds):
            own = float(np.clip(generator.normal(level, NOISE), 0.01, 0.999))
            runs.append(
                Measured(
                    design=str(number),
                    kind="baseline" if number else "member",
                    is_plain=number > 0,
                    replicate=replicate,
                    accuracy=generator.binomial(TEST, own) / TEST,
                    validation_accuracy=generator.binomial(VALIDATION, own) / VALIDATION,
                    activated_params=100.0 - (number > 0),
                    examples=TEST,
                )
            )
    return confirmation(runs, seeds=seeds)


def rates(rivals: int, seeds: int, ahead: float) -> list[float]:
    """Returns how often the member is called better, worse and beaten."""
    generator = np.random.default_rng(0)
    found = [confirmed(rivals, seeds, ahead, generator) for _ in range(STUDIES)]
    answers = [one.gains[0].answer for one in found]
    beaten = sum(one.places[0].verdict == "beaten" for one in found)
    return [answers.count("yes") / STUDIES, answers.count("no") / STUDIES, beaten / STUDIES]


def main() -> None:
    """Prints the table."""
    print("# How often `confirm` errs, and how much it sees\n")
    print(
        f"Command: `python -m benchmarks.confirming.error_rates`. {STUDIES} made-up confirmations per row; "
        f"numpy {np.__version__}, scipy {scipy.__version__}, Python {platform.python_version()}.\n"
    )
    print(
        f"A member and so many plain rivals with true accuracies of {100 * LEVEL:.0f} points, the member's that much "
        f"higher or lower; runs scatter by {100 * NOISE:.0f} point, test examples: {TEST}. "
        "If all are equal, 2.5 % should be called better and 2.5 % worse.\n"
    )
    print("| true difference | rivals | seeds | called better | called worse | called beaten |")
    print("|---|---|---|---|---|---|")
    for ahead in (0.0, 0.02, -0.02):
        for rivals in (1, 5, 20):
            for seeds in (3, 5, 10):
                cells = " | ".join(f"{100 * rate:.1f} %" for rate in rates(rivals, seeds, ahead))
                print(
                    f"| {100 * ahead:+.0f} points | {rivals} | {seeds} | {cells} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
