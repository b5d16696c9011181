"""How often does `confirm` err, and how much does it see? On made-up runs, whose truth is known.

    python -m benchmarks.confirming.error_rates > benchmarks/confirming/results/error-rates.md

A member of a front and its rivals, all plain and of its size. Each run has an accuracy of its own around the design's
(standard deviation 1 point, as on digits), and is read off 431 validation and 359 test examples. About 2 minutes.

Then: designs that are equally good at two scales, and how often their ranking is said to carry over, or not to.
"""

import platform

import numpy as np
import scipy

from dynamoe_search.confirmation import Confirmation, Measured, carrying, confirmation

LEVEL, NOISE = 0.94, 0.01
VALIDATION, TEST = 431, 359
STUDIES = 500
RANKINGS = 100


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
                    test=generator.binomial(TEST, own) / TEST,
                    validation=generator.binomial(VALIDATION, own) / VALIDATION,
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


def scaled(levels: np.ndarray, seeds: int, generator: np.random.Generator) -> list[Measured]:
    """Returns runs of designs with these true accuracies."""
    runs = []
    for number, level in enumerate(levels):
        for replicate, accuracy in enumerate(generator.normal(level, NOISE, seeds)):
            runs.append(
                Measured(
                    design=str(number),
                    kind="member",
                    is_plain=False,
                    replicate=replicate,
                    test=accuracy,
                    validation=accuracy,
                    activated_params=100.0 + number,
                    examples=TEST,
                )
            )
    return runs


def rankings(
    designs: int, seeds: int, spread: float, *, is_turned: bool
) -> tuple[list[float], float]:
    """Returns how often a ranking is said to carry over, and not to, and how often the interval lies below 0.5."""
    generator = np.random.default_rng(0)
    answers, low = [], 0
    for _ in range(RANKINGS):
        levels = LEVEL + generator.normal(0, spread * NOISE, designs)
        other = 2 * LEVEL - levels if is_turned else levels
        found = carrying(
            scaled(levels, seeds, generator),
            scaled(other, seeds, generator),
            factor=4,
            by="width",
            seeds=seeds,
        )
        answers.append(found.answer)
        low += found.agreement.high < 0.5
    return [answers.count("yes") / RANKINGS, answers.count("no") / RANKINGS], low / RANKINGS


def print_rankings() -> None:
    """Prints the table about rankings at two scales."""
    print(
        f"\n## Does the ranking carry over?\n\n{RANKINGS} made-up pairs of confirmations per row. True accuracies "
        "scatter by so many times what runs of one design do. Where the truth is the same at both scales, every *no* "
        "is an error; where it is turned round, every *yes* is.\n"
    )
    print("| truth | designs | scatter | seeds | yes | no | interval of tau below 0.5 |")
    print("|---|---|---|---|---|---|---|")
    for is_turned in (False, True):
        for designs in (6, 20):
            for spread in (0.0, 0.3, 1.0, 2.0):
                if is_turned and not spread:
                    continue
                said, low = rankings(designs, 5, spread, is_turned=is_turned)
                cells = " | ".join(f"{100 * rate:.0f} %" for rate in (*said, low))
                truth = "turned round" if is_turned else "the same"
                print(f"| {truth} | {designs} | {spread:g} | 5 | {cells} |", flush=True)


def main() -> None:
    """Prints the tables."""
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
    print_rankings()


if __name__ == "__main__":
    main()
