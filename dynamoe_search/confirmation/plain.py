"""A confirmation as plain tables for JSON, in the units that people know."""

from dataclasses import asdict
from typing import Any

from dynamoe_search.confirmation.measures import Measure
from dynamoe_search.confirmation.results import Confirmation, DesignResult
from dynamoe_search.intervals import Difference


def as_plain(found: Confirmation) -> dict[str, Any]:
    """Returns what a confirmation found as JSON can hold it.

    What was measured stands in the unit of `measure`: accuracies from 0 to 1, perplexities, bits per byte, or nats.
    Differences are positive where the design that is named first is better; of perplexities they are shares, by how
    much the better one is lower.
    """
    measure = found.measure
    return {
        "measure": measure.name,
        "better": "higher" if measure.is_maximised else "lower",
        "seeds": found.seeds,
        "examples": found.examples,
        "is_text": found.is_text,
        "designs": [_design(one, measure) for one in found.designs],
        "gains": [
            asdict(one) | {"difference": _difference(one.difference, measure)}
            for one in found.gains
        ],
        "places": [
            asdict(one) | {"difference": _difference(one.difference, measure)}
            for one in found.places
        ],
        "lost": list(found.lost),
    }


def _design(one: DesignResult, measure: Measure) -> dict[str, Any]:
    possible = measure.possible(one.test)
    test = asdict(one.test) | {
        name: measure.shown(getattr(possible, name)) for name in ("mean", "low", "high")
    }
    searched = None if one.searched is None else measure.shown(one.searched)
    own = {"test": test, "validation": measure.shown(one.validation), "searched": searched}
    return asdict(one) | own


def _difference(found: Difference | None, measure: Measure) -> dict[str, Any] | None:
    if found is None:
        return None
    possible = measure.possible_gain(found)
    shown = {name: measure.shown_gain(getattr(possible, name)) for name in ("mean", "low", "high")}
    return asdict(found) | shown
