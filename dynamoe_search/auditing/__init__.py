"""What an audit asks, and how the answers follow from numbers. No torch, no SQL."""

from dynamoe_search.auditing.claims import LEAST_UPDATES, judge_claims
from dynamoe_search.auditing.findings import CLAIMS, FINDINGS, POINTS_OF_TEXT, Finding, Margins
from dynamoe_search.auditing.observations import (
    AuditPlan,
    Curve,
    Hardness,
    Noise,
    Observation,
    PlannedDesign,
)

__all__ = [
    "CLAIMS",
    "FINDINGS",
    "LEAST_UPDATES",
    "POINTS_OF_TEXT",
    "AuditPlan",
    "Curve",
    "Finding",
    "Hardness",
    "Margins",
    "Noise",
    "Observation",
    "PlannedDesign",
    "judge_claims",
]
