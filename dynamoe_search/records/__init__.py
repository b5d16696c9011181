"""Plain records that every part can speak of: what was chosen, what was measured. No torch, no SQL.

All are frozen dataclasses. `to_json` and `from_json` turn any of them into text and back, checking types on the way.
"""

from dynamoe_search.records.candidates import (
    CandidateRecord,
    Ended,
    FrontMember,
    RungDecision,
    Standing,
    Status,
    Stood,
)
from dynamoe_search.records.designs import (
    AdaptiveConfig,
    Candidate,
    LossWeights,
    ModelConfig,
    RouterConfig,
    ScheduleConfig,
    TrainConfig,
)
from dynamoe_search.records.json_text import from_json, to_json
from dynamoe_search.records.measurements import (
    Evidence,
    LayerRouting,
    Outcome,
    Progress,
    TestResult,
    bytes_per_token,
    language_metrics,
)
from dynamoe_search.records.studies import Purpose, Spent, StudyRecord, StudySettings
from dynamoe_search.records.workers import FilesMark, Leg, Worker

__all__ = [
    "AdaptiveConfig",
    "Candidate",
    "CandidateRecord",
    "Ended",
    "Evidence",
    "FilesMark",
    "FrontMember",
    "LayerRouting",
    "Leg",
    "LossWeights",
    "ModelConfig",
    "Outcome",
    "Progress",
    "Purpose",
    "RouterConfig",
    "RungDecision",
    "ScheduleConfig",
    "Spent",
    "Standing",
    "Status",
    "Stood",
    "StudyRecord",
    "StudySettings",
    "TestResult",
    "TrainConfig",
    "Worker",
    "bytes_per_token",
    "from_json",
    "language_metrics",
    "to_json",
]
