"""The tables of the page about confirmations and audits."""

import math

from dynamoe_search.auditing import CLAIMS, POINTS_OF_TEXT
from dynamoe_search.confirmation import Measure
from dynamoe_search.report.cells import Cell, Grid, grid, number
from dynamoe_search.report.designed import Audited, Confirmed
from dynamoe_search.report.designed_rows import confirmed_rows
from dynamoe_search.report.words import NONE, count


def scale_words(one: Confirmed) -> str:
    """Returns at which scale the designs of a confirmation were trained."""
    return "as in the study" if one.by is None else f"{one.factor} times the {one.by}"


def confirmed(one: Confirmed) -> Grid:
    """Returns what the designs of a confirmation reach on the test part, the smallest first."""
    rows = [
        [
            Cell(text=row["design"]),
            number(row["activated_params"], count(row["activated_params"])),
            number(row["test"], row["test_words"]),
            Cell(text=row["interval_words"]),
            Cell(text=row["best_plain"] or NONE),
            number(row["gain"], row["gain_words"]),
            Cell(text=row["verdict"] or NONE),
        ]
        for row in confirmed_rows(one)
    ]
    measure = one.found.measure
    return grid(
        f"{_what(measure)}, {scale_words(one)}, over {one.seeds} fresh seeds",
        (
            "design_",
            "#activated",
            f"#test {measure.words}",
            "95 % interval_",
            "best plain design_",
            "gain on it_",
            "front_",
        ),
        rows,
        "Activated parameters are those of a test token; the best plain design is that of at most 1.05 times as many. "
        f"{_about_gains(measure)}The runs are the study {one.study}, which has a report of its own.",
    )


def _what(measure: Measure) -> str:
    words = f"{measure.words[0].upper()}{measure.words[1:]} on the test part"
    return f"{words} in points" if measure.is_maximised else f"{words} (lower is better)"


def _about_gains(measure: Measure) -> str:
    """Says what is not plain about the gains of a measure that is better if it is low."""
    if measure.is_maximised:
        return ""
    words = "A gain is above 0 where the design is better than the plain one. "
    if measure.name != "perplexity":
        return words
    return words + (
        "One of 3 % is a perplexity that is 3 % lower; means and intervals are taken of its logarithm. "
    )


def audited(one: Audited) -> Grid:
    """Returns the answers of an audit, in its order."""
    rows = [
        [
            Cell(text=CLAIMS[line.claim].words, more=_about(line.claim)),
            Cell(text=line.subject),
            Cell(text=line.verdict),
            number(line.effect, _signed(line.effect)),
            Cell(text=_between(line.low, line.high)),
            number(line.n, f"{line.n:,}"),
            Cell(text=line.sentence),
        ]
        for line in one.findings
    ]
    return grid(
        "What the papers claim, asked of designed runs on the data of this study",
        ("claim+", "about_", "answer_", "#effect", "95 % interval_", "#runs", "in words+"),
        rows,
        f"The runs are the study {one.study}. Measured on the validation part."
        + (f" Of text, {POINTS_OF_TEXT}." if one.is_text else ""),
    )


def _about(key: str) -> str:
    claim = CLAIMS[key]
    return f"{claim.source}\nEffect: {claim.effect}."


def _signed(value: float) -> str:
    return NONE if math.isnan(value) else f"{value:+.2f}"


def _between(low: float, high: float) -> str:
    return NONE if math.isnan(low) or math.isnan(high) else f"{low:.2f} to {high:.2f}"
