"""Training of populations of candidates. Knows models and data; knows no study, no database and no terminal."""

from dynamoe_search.training.batches import data_on
from dynamoe_search.training.checkpoints import CheckpointFolder
from dynamoe_search.training.settings import DamagedError, Interrupted, Trained, TrainSettings
from dynamoe_search.training.state_files import StateFolder
from dynamoe_search.training.states import CandidateState
from dynamoe_search.training.trainer import prepare, train_leg

__all__ = [
    "CandidateState",
    "CheckpointFolder",
    "DamagedError",
    "Interrupted",
    "StateFolder",
    "TrainSettings",
    "Trained",
    "data_on",
    "prepare",
    "train_leg",
]
