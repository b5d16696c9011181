"""What a confirmation found: from plain rows to claims, and the claims in words. No torch, no SQL."""

from dynamoe_search.confirmation.measures import ACCURACY, MEASURES, Measure, measure_of
from dynamoe_search.confirmation.plain import as_plain
from dynamoe_search.confirmation.results import (
    Carrying,
    Confirmation,
    DesignResult,
    Gain,
    Measured,
    Place,
    carrying,
    confirmation,
    measured,
    planned,
)
from dynamoe_search.confirmation.words import findings

__all__ = [
    "ACCURACY",
    "MEASURES",
    "Carrying",
    "Confirmation",
    "DesignResult",
    "Gain",
    "Measure",
    "Measured",
    "Place",
    "as_plain",
    "carrying",
    "confirmation",
    "findings",
    "measure_of",
    "measured",
    "planned",
]
