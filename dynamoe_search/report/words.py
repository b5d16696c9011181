"""Names of measures and numbers as people read them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dynamoe_search.records import CandidateRecord, RouterConfig
from dynamoe_search.specs.vocabulary import MAXIMISED

Unit = Literal["share", "count", "real"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """How a measure is called and written."""

    label: str
    unit: Unit


MEASURES: dict[str, Measure] = {
    "accuracy": Measure(label="accuracy", unit="share"),
    "perplexity": Measure(label="perplexity", unit="real"),
    "bits_per_byte": Measure(label="bits per byte", unit="real"),
    "validation_loss": Measure(label="validation loss", unit="real"),
    "activated_params": Measure(label="activated parameters", unit="count"),
    "total_params": Measure(label="total parameters", unit="count"),
    "flops_per_token": Measure(label="FLOPs per token", unit="count"),
    "latency_ms": Measure(label="latency in ms", unit="real"),
    "peak_memory_mb": Measure(label="peak memory in MB", unit="real"),
}

STATUS = {
    "complete": "complete",
    "stopped": "pruned",
    "failed": "failed",
    "paused": "paused",
    "running": "no outcome yet",
}
"""What the status of a candidate is called on the page."""

NONE = "–"


def measure(name: str) -> Measure:
    """Returns how a measure is called; unknown ones go by their own name."""
    return MEASURES.get(name, Measure(label=name.replace("_", " "), unit="real"))


def label(name: str) -> str:
    """Returns the name of a measure as people say it."""
    return measure(name).label


def curve_label(name: str) -> str:
    """Returns what a learning curve shows, for an axis."""
    return label(name) if name.startswith("validation") else f"validation {label(name)}"


def is_maximised(name: str) -> bool:
    """Says whether more of a measure is better."""
    return name in MAXIMISED


def number(name: str, value: float | None) -> str:
    """Returns a measured value with its unit: 96.29 %, 1,155, 0.1234."""
    if value is None or math.isnan(value):
        return NONE
    match measure(name).unit:
        case "share":
            return f"{100 * value:.2f} %"
        case "count":
            return count(value)
        case _:
            return real(value)


def count(value: float) -> str:
    """Returns a number of things, which may be a mean: 1,155 or 1.25."""
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"


def real(value: float | None) -> str:
    """Returns a number to four digits."""
    if value is None or math.isnan(value):
        return NONE
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def seconds(value: float | None) -> str:
    """Returns a length of time: 48 s, 12 min, 3.5 h."""
    if value is None or math.isnan(value):
        return NONE
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if value < limit:
            return f"{value / divisor:.3g} {unit}"
    return f"{value / 86400:.3g} days"


def moment(text: str | None) -> str:
    """Returns a stored time to the minute: 2026-11-22 04:06 UTC."""
    return NONE if not text else f"{text[:10]} {text[11:16]} UTC"


def numbers(values: Iterable[float], digits: int = 2) -> str:
    """Returns a row of numbers: 1.12 1.89 1.94."""
    return " ".join(f"{value:.{digits}f}" for value in values)


def whole(values: Iterable[int]) -> str:
    """Returns a row of whole numbers: 2 5 8."""
    return " ".join(map(str, values))


def router_settings(router: RouterConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those settings of a router that the study varies; all of them if it varies none."""
    settings = {
        name: value
        for name, value in asdict(router).items()
        if value is not None and name != "kind"
    }
    searched = {name: value for name, value in settings.items() if f"router.{name}" in params}
    return searched or settings


def router(record: CandidateRecord) -> str:
    """Returns a router's kind with its searched settings: top-p p=0.48."""
    config = record.candidate.router
    searched = {
        name: value
        for name, value in router_settings(config, record.params).items()
        if f"router.{name}" in record.params
    }
    settings = " ".join(
        f"{name}={real(value) if isinstance(value, float) else value}"
        for name, value in searched.items()
    )
    return f"{config.kind} {settings}".strip()


def title(record: CandidateRecord) -> str:
    """Returns what a candidate is called: trial 31, or trial 0 (reference dense)."""
    reference = record.candidate.reference
    return f"trial {record.trial}" + (f" (reference {reference})" if reference else "")


def mean_k(record: CandidateRecord) -> tuple[float, ...]:
    """Returns the mean number of experts per token in each layer; empty if it was not measured."""
    return tuple(layer.mean_k for layer in record.outcome.routing) if record.outcome else ()
