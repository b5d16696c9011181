"""Training of populations of candidates. Knows models and data; knows no study, no database and no terminal."""

from dynamoe_search.training.checkpoints import CheckpointFolder
from dynamoe_search.training.settings import Interrupted, Trained, TrainSettings
from dynamoe_search.training.trainer import train_population

__all__ = ["CheckpointFolder", "Interrupted", "TrainSettings", "Trained", "train_population"]
