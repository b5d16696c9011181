"""Rows about confirmations and audits: of the tables on disk, and of those on the page."""

import math
from collections.abc import Iterator
from typing import Any

from dynamoe_search.confirmation import Measure
from dynamoe_search.intervals import Interval
from dynamoe_search.report.designed import Audited, Confirmed
from dynamoe_search.report.words import NONE

Row = dict[str, Any]


def confirmed_rows(one: Confirmed) -> Iterator[Row]:
    """Yields one row per design of a confirmation."""
    measure = one.found.measure
    gains = {gain.design: gain for gain in one.found.gains}
    places = {place.design: place for place in one.found.places}
    for design in one.found.designs:
        gain, place = gains.get(design.design), places.get(design.design)
        test = measure.possible(design.test)
        difference = None
        if gain is not None and gain.difference is not None:
            difference = measure.possible_gain(gain.difference)
        yield {
            "study": one.study,
            "factor": one.factor,
            "scale_by": one.by,
            "design": design.design,
            "kind": design.kind,
            "activated_params": design.activated_params,
            "measure": measure.name,
            "test": measure.shown(test.mean),
            "test_low": measure.shown(test.low),
            "test_high": measure.shown(test.high),
            "test_words": measure.text(design.test.mean),
            "interval_words": _between(measure, test),
            "validation": measure.shown(design.validation),
            "seeds": design.test.number,
            "best_plain": gain.baseline if gain is not None else None,
            "gain": measure.shown_gain(difference.mean) if difference else math.nan,
            "gain_low": measure.shown_gain(difference.low) if difference else math.nan,
            "gain_high": measure.shown_gain(difference.high) if difference else math.nan,
            "gain_words": measure.gains_text(difference) if difference else NONE,
            "verdict": place.verdict if place is not None else None,
            "beaten_by": place.by if place is not None else None,
        }


def _between(measure: Measure, found: Interval) -> str:
    if math.isnan(found.low):
        return NONE
    return f"{measure.text(found.low)} to {measure.text(found.high)}"


def audited_rows(one: Audited) -> Iterator[Row]:
    """Yields one row per answer of an audit."""
    for line in one.findings:
        yield {
            "study": one.study,
            "claim": line.claim,
            "subject": line.subject,
            "verdict": line.verdict,
            "effect": line.effect,
            "low": line.low,
            "high": line.high,
            "runs": line.n,
            "margin": line.margin,
            "p": line.p,
            "sentence": line.sentence,
        }
