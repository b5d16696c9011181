"""What a log is told of a candidate, in words that every tool for logs has: a run, its settings, measures, its end."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dynamoe_search.records import (
    Candidate,
    CandidateRecord,
    Progress,
    language_metrics,
    to_json,
)

_SECTIONS = ("model", "schedule", "router", "losses", "train", "adaptive")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What a log calls a run: one candidate of one study."""

    study: str
    created_at: str  # of the study; tells it from another of the same name
    trial: int
    settings: Mapping[str, str | float | bool]
    is_text: bool = False  # whether it is a language model

    @property
    def name(self) -> str:
        """The study and the trial."""
        return f"{self.study}/{self.trial}"


class Sink(Protocol):
    """Where runs are written to. Everything may be written twice; it stands there once."""

    def is_finished(self, run: Run) -> bool:
        """Whether the end of a run is written."""

    def write_epochs(self, run: Run, reports: Sequence[Progress]) -> None:
        """Writes reports, with the epoch as step."""

    def finish(self, run: Run, record: CandidateRecord, links: Mapping[str, str]) -> None:
        """Writes how a run ended, and where its files are."""

    def rest(self, run: Run) -> None:
        """Lets go of a run that others may go on with."""


def settings_of(candidate: Candidate) -> dict[str, str | float | bool]:
    """Returns the design of a candidate and its training, by dotted names such as `router.k`."""
    plain = json.loads(to_json(candidate))
    found: dict[str, str | float | bool] = {
        "ordinal": candidate.ordinal,
        "study_seed": candidate.study_seed,
        "reference": candidate.reference or "",
        "experts_per_layer": " ".join(map(str, candidate.experts_per_layer)),
    }
    for section in _SECTIONS:
        for key, value in (plain[section] or {}).items():
            if value is not None:
                found[f"{section}.{key}"] = _plain(value)
    return found


def _plain(value: Any) -> str | float | bool:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return value if isinstance(value, str | float | int | bool) else str(value)


def measures_of(report: Progress, *, is_text: bool = False) -> dict[str, float]:
    """Returns the numbers of a report by the names under which logs show them."""
    perplexity = language_metrics(report.validation_loss, 1.0)["perplexity"]
    return {
        **({"perplexity": perplexity} if is_text else {}),
        "accuracy": report.accuracy,
        "validation_loss": report.validation_loss,
        "train_loss": report.train_loss,
        "activated_params": report.activated_params,
        "seconds": report.seconds,
        **{f"mean_k/layer_{place}": k for place, k in enumerate(report.mean_k_per_layer)},
        **{f"experts/layer_{place}": float(n) for place, n in enumerate(report.experts_per_layer)},
    }


def end_of(record: CandidateRecord) -> str:
    """Returns how a candidate ended: `complete`, `pruned`, or `failed` with the reason."""
    if record.status == "failed":
        return f"failed ({record.reason})"
    return "pruned" if record.status == "stopped" else record.status
