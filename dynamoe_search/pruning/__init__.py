"""Pruning with two objectives: who goes on past a rung, what the others would become, any Optuna study's pruner."""

from dynamoe_search.pruning.forecast import Estimate, estimates
from dynamoe_search.pruning.rules import Action, Decision, Reason, judge
from dynamoe_search.pruning.rungs import Rung, RungRecord, at_rungs, ladder, usual_rungs
from dynamoe_search.pruning.studies import ParetoPruner
from dynamoe_search.pruning.words import in_words

__all__ = [
    "Action",
    "Decision",
    "Estimate",
    "ParetoPruner",
    "Reason",
    "Rung",
    "RungRecord",
    "at_rungs",
    "estimates",
    "in_words",
    "judge",
    "ladder",
    "usual_rungs",
]
