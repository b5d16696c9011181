"""What a confirmation found: from plain rows to claims, and the claims in words. No torch, no SQL."""

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
from dynamoe_search.confirmation.words import findings, interval_words, points

__all__ = [
    "Carrying",
    "Confirmation",
    "DesignResult",
    "Gain",
    "Measured",
    "Place",
    "carrying",
    "confirmation",
    "findings",
    "interval_words",
    "measured",
    "planned",
    "points",
]
