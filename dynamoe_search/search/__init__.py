"""Search: the space of a study, proposals, and the loop that trains them and stores what came out."""

from dynamoe_search.search.estimate import Estimate, estimate
from dynamoe_search.search.events import (
    CandidateFinished,
    CohortStarted,
    EpochFinished,
    Event,
    FrontChanged,
    StudyEnded,
    StudyStarted,
    StudySummary,
)
from dynamoe_search.search.exporting import (
    Exported,
    TrainedModel,
    export_candidate,
    train_one,
)
from dynamoe_search.search.limits import Limits
from dynamoe_search.search.runner import create_study, run_study
from dynamoe_search.search.space import Space

__all__ = [
    "CandidateFinished",
    "CohortStarted",
    "EpochFinished",
    "Estimate",
    "Event",
    "Exported",
    "FrontChanged",
    "Limits",
    "Space",
    "StudyEnded",
    "StudyStarted",
    "StudySummary",
    "TrainedModel",
    "create_study",
    "estimate",
    "export_candidate",
    "run_study",
    "train_one",
]
