"""Search: the space of a study, proposals, and the loop that trains them and stores what came out."""

from dynamoe_search.search.checkup import check_study
from dynamoe_search.search.confirming import Confirmed, ConfirmRequest, confirm_study
from dynamoe_search.search.creation import create_study
from dynamoe_search.search.designed import (
    Design,
    DesignedRun,
    create_designed,
    designed_runs,
    replicated,
    run_designed,
)
from dynamoe_search.search.estimate import Estimate, estimate
from dynamoe_search.search.events import (
    CandidateFinished,
    EpochFinished,
    Event,
    FrontChanged,
    LegFinished,
    LegStarted,
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
from dynamoe_search.search.limits import Limits, set_limits
from dynamoe_search.search.ray_crews import RayCluster, ray_cluster
from dynamoe_search.search.runner import run_study
from dynamoe_search.search.space import Space
from dynamoe_search.search.speed import PackSpeed, Speed, measure_speed
from dynamoe_search.search.summaries import started, summarise
from dynamoe_search.search.workers import Crew, CrewEnd, devices_of, stored_device, threads_of_each

__all__ = [
    "CandidateFinished",
    "ConfirmRequest",
    "Confirmed",
    "Crew",
    "CrewEnd",
    "Design",
    "DesignedRun",
    "EpochFinished",
    "Estimate",
    "Event",
    "Exported",
    "FrontChanged",
    "LegFinished",
    "LegStarted",
    "Limits",
    "PackSpeed",
    "RayCluster",
    "Space",
    "Speed",
    "StudyEnded",
    "StudyStarted",
    "StudySummary",
    "TrainedModel",
    "check_study",
    "confirm_study",
    "create_designed",
    "create_study",
    "designed_runs",
    "devices_of",
    "estimate",
    "export_candidate",
    "measure_speed",
    "ray_cluster",
    "replicated",
    "run_designed",
    "run_study",
    "set_limits",
    "started",
    "stored_device",
    "summarise",
    "threads_of_each",
    "train_one",
]
