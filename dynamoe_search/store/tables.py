"""Our tables beside Optuna's, and how values become text in them.

Rows are keyed by what Optuna shows in public: `study_name` and `trial_number`. There are no foreign keys into
Optuna's tables, whose layout is theirs. Times are UTC in ISO 8601; columns that end in `_json` hold JSON.
"""

import hashlib
import json
import math
import re
from collections.abc import Hashable
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar, cast

import numpy as np
import sqlalchemy as sa
from pydantic import TypeAdapter

Record = TypeVar("Record")

SCHEMA_VERSION = 1
metadata = sa.MetaData()


def _study_key() -> sa.Column[Any]:
    return sa.Column(
        "study_name",
        sa.String(512),
        sa.ForeignKey("dynamoe_studies.study_name", ondelete="CASCADE"),
        primary_key=True,
    )


def _trial_key() -> sa.Column[Any]:
    return sa.Column("trial_number", sa.Integer, primary_key=True, autoincrement=False)


def _of_candidate() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["study_name", "trial_number"],
        ["dynamoe_candidates.study_name", "dynamoe_candidates.trial_number"],
        ondelete="CASCADE",
    )


schema = sa.Table(
    "dynamoe_schema",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("program", sa.Text, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
)

studies = sa.Table(
    "dynamoe_studies",
    metadata,
    sa.Column("study_name", sa.String(512), primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("trials", sa.Integer, nullable=False),
    sa.Column("max_epochs", sa.Integer),
    sa.Column("device", sa.String(80), nullable=False),
    sa.Column("spec_json", sa.Text, nullable=False),
    sa.Column("objectives_json", sa.Text, nullable=False),
    sa.Column("maximise_json", sa.Text, nullable=False),
    sa.Column("settings_json", sa.Text, nullable=False),
    sa.Column("is_stop_requested", sa.Boolean, nullable=False, default=False),
    sa.Column("host", sa.String(255)),
    sa.Column("pid", sa.BigInteger),
    sa.Column("process_mark", sa.String(120)),
    sa.Column("heartbeat_at", sa.String(40)),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("updated_at", sa.String(40), nullable=False),
)

candidates = sa.Table(
    "dynamoe_candidates",
    metadata,
    _study_key(),
    _trial_key(),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("cohort", sa.Integer, nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("reason", sa.String(80)),
    sa.Column("message", sa.Text),
    sa.Column("reference", sa.String(80)),
    sa.Column("router", sa.String(40), nullable=False),
    sa.Column("schedule", sa.String(40), nullable=False),
    sa.Column("experts_per_layer", sa.Text, nullable=False),
    sa.Column("num_layers", sa.Integer, nullable=False),
    sa.Column("d_model", sa.Integer, nullable=False),
    sa.Column("d_expert", sa.Integer, nullable=False),
    sa.Column("study_seed", sa.BigInteger, nullable=False),
    sa.Column("design_hash", sa.String(64), nullable=False, index=True),
    sa.Column("params_json", sa.Text, nullable=False),
    sa.Column("candidate_json", sa.Text, nullable=False),
    sa.Column("sampler_state_json", sa.Text, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("finished_at", sa.String(40)),
    sa.UniqueConstraint("study_name", "ordinal"),
)

evaluations = sa.Table(
    "dynamoe_evaluations",
    metadata,
    sa.Column("study_name", sa.String(512), primary_key=True),
    _trial_key(),
    sa.Column("accuracy", sa.Double),
    sa.Column("validation_loss", sa.Double),
    sa.Column("activated_params", sa.Double),
    sa.Column("total_params", sa.Double),
    sa.Column("flops_per_token", sa.Double),
    sa.Column("latency_ms", sa.Double),
    sa.Column("peak_memory_mb", sa.Double),
    sa.Column("is_feasible", sa.Boolean, nullable=False),
    sa.Column("epochs", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("device", sa.String(80), nullable=False),
    sa.Column("pack_size", sa.Integer, nullable=False),
    sa.Column("pack_mode", sa.String(20), nullable=False),
    sa.Column("values_json", sa.Text),
    sa.Column("violations_json", sa.Text, nullable=False),
    sa.Column("metrics_json", sa.Text, nullable=False),
    sa.Column("outcome_json", sa.Text, nullable=False),
    sa.Column("versions_json", sa.Text, nullable=False),
    sa.Column("finished_at", sa.String(40), nullable=False),
    _of_candidate(),
)

layers = sa.Table(
    "dynamoe_layers",
    metadata,
    sa.Column("study_name", sa.String(512), primary_key=True),
    _trial_key(),
    sa.Column("layer", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("num_experts", sa.Integer, nullable=False),
    sa.Column("mean_k", sa.Double),
    sa.Column("std_k", sa.Double),
    sa.Column("load_cv", sa.Double),
    sa.Column("max_share", sa.Double),
    sa.Column("k_histogram_json", sa.Text, nullable=False),
    sa.Column("load_json", sa.Text, nullable=False),
    _of_candidate(),
)

progress = sa.Table(
    "dynamoe_progress",
    metadata,
    sa.Column("study_name", sa.String(512), primary_key=True),
    _trial_key(),
    sa.Column("epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("train_loss", sa.Double),
    sa.Column("validation_loss", sa.Double),
    sa.Column("accuracy", sa.Double),
    sa.Column("activated_params", sa.Double),
    sa.Column("seconds", sa.Double),
    sa.Column("mean_k_per_layer_json", sa.Text, nullable=False),
    sa.Column("experts_per_layer", sa.Text, nullable=False),
    _of_candidate(),
)

front = sa.Table(
    "dynamoe_front",
    metadata,
    sa.Column("study_name", sa.String(512), primary_key=True),
    _trial_key(),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("accuracy", sa.Double),
    sa.Column("activated_params", sa.Double),
    sa.Column("total_params", sa.Double),
    sa.Column("router", sa.String(40), nullable=False),
    sa.Column("schedule", sa.String(40), nullable=False),
    sa.Column("experts_per_layer", sa.Text, nullable=False),
    sa.Column("values_json", sa.Text, nullable=False),
    sa.Column("params_json", sa.Text, nullable=False),
    _of_candidate(),
)

METRIC_COLUMNS = (
    "accuracy",
    "validation_loss",
    "activated_params",
    "total_params",
    "flops_per_token",
    "latency_ms",
    "peak_memory_mb",
)
"""Metrics with a column of their own; all of them are in `metrics_json`."""


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))


def to_text(value: Any) -> str:
    """Returns a record or plain value as JSON; numbers that JSON lacks become "nan", "inf" or "-inf"."""
    plain = _adapter(cast(Hashable, type(value))).dump_python(value)
    return json.dumps(_named(plain), ensure_ascii=False, default=_scalar)


def from_text(kind: type[Record], text: str) -> Record:
    """Returns what `to_text` was given, checked to be of its kind."""
    value: Record = _adapter(cast(Hashable, kind)).validate_json(text)
    return value


def counts_to_text(counts: tuple[int, ...]) -> str:
    """Returns `8,6,4` for (8, 6, 4)."""
    return ",".join(str(count) for count in counts)


def counts_from_text(text: str) -> tuple[int, ...]:
    """Returns (8, 6, 4) for `8,6,4`."""
    return tuple(int(part) for part in text.split(",") if part)


def number(value: float | None) -> float:
    """Returns what a number column holds; databases keep a NaN as NULL."""
    return math.nan if value is None else value


def column(value: float | None) -> float | None:
    """Returns what to put into a number column."""
    return None if value is None or math.isnan(value) else float(value)


def safe_name(text: str) -> str:
    """Returns a folder name for any text: harmless on every file system, different for different texts."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:40].strip("-")
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{readable or 'study'}-{digest}"


def utc_now() -> str:
    """Returns the time as text; later times sort later."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _scalar(value: Any) -> Any:
    """Returns a Python number for a numpy scalar."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be stored as JSON")


def _named(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, dict):
        return {key: _named(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_named(item) for item in value]
    return value
