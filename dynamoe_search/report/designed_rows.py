"""Rows about confirmations and audits: of the tables on disk, and of those on the page."""

import math
from collections.abc import Iterator
from typing import Any

from dynamoe_search.confirmation import interval_words
from dynamoe_search.report.designed import Audited, Confirmed
from dynamoe_search.report.words import NONE

Row = dict[str, Any]


def confirmed_rows(one: Confirmed) -> Iterator[Row]:
    """Yields one row per design of a confirmation."""
    gains = {gain.design: gain for gain in one.found.gains}
    places = {place.design: place for place in one.found.places}
    for design in one.found.designs:
        gain, place = gains.get(design.design), places.get(design.design)
        difference = gain.difference if gain is not None else None
        yield {
            "study": one.study,
            "factor": one.factor,
            "scale_by": one.by,
            "design": design.design,
            "kind": design.kind,
            "activated_params": design.activated_params,
            "accuracy": design.accuracy.mean,
            "accuracy_low": design.accuracy.low,
            "accuracy_high": design.accuracy.high,
            "validation_accuracy": design.validation_accuracy,
            "seeds": design.accuracy.number,
            "best_plain": gain.baseline if gain is not None else None,
            "gain": difference.mean if difference is not None else math.nan,
            "gain_low": difference.low if difference is not None else math.nan,
            "gain_high": difference.high if difference is not None else math.nan,
            "gain_words": interval_words(difference, signed=True) if difference else NONE,
            "verdict": place.verdict if place is not None else None,
            "beaten_by": place.by if place is not None else None,
        }


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
