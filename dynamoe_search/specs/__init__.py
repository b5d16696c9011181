"""What a study file may say: sections, searchable values, and the checks between them. No torch, no SQL."""

from dynamoe_search.specs.searchable import FloatRange, IntRange, Within, is_fixed, values_of
from dynamoe_search.specs.sections import (
    AdaptiveSection,
    DataSection,
    LossesSection,
    ModelSection,
    PrunerSection,
    RouterSection,
    ScheduleSection,
    SearchSection,
    StudySection,
    TrainSection,
)
from dynamoe_search.specs.study import StudySpec, conflicts, too_long_epochs, useless

__all__ = [
    "AdaptiveSection",
    "DataSection",
    "FloatRange",
    "IntRange",
    "LossesSection",
    "ModelSection",
    "PrunerSection",
    "RouterSection",
    "ScheduleSection",
    "SearchSection",
    "StudySection",
    "StudySpec",
    "TrainSection",
    "Within",
    "conflicts",
    "is_fixed",
    "too_long_epochs",
    "useless",
    "values_of",
]
