"""Our tables beside Optuna's.

Rows are keyed by what Optuna shows in public: `study_name` and `trial_number`. There are no foreign keys into
Optuna's tables, whose layout is theirs. Times are UTC in ISO 8601; columns that end in `_json` hold JSON.
"""

from typing import Any

import sqlalchemy as sa

SCHEMA_VERSION = 5
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
    sa.Column("database_id", sa.String(32)),
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
    sa.Column("max_seconds", sa.Double),
    sa.Column("max_pack", sa.Integer),
    sa.Column("device", sa.String(80), nullable=False),
    sa.Column("spec_json", sa.Text, nullable=False),
    sa.Column("objectives_json", sa.Text, nullable=False),
    sa.Column("maximise_json", sa.Text, nullable=False),
    sa.Column("settings_json", sa.Text, nullable=False),
    sa.Column("stop_serial", sa.Integer, nullable=False, server_default="0"),
    sa.Column("planner", sa.String(80)),
    sa.Column("exhausted_at", sa.Integer),
    sa.Column("parent", sa.String(512)),
    sa.Column("purpose", sa.String(20), nullable=False, server_default="search"),
    sa.Column("plan_json", sa.Text),
    sa.Column("files_json", sa.Text),
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
    sa.Column("epochs", sa.Integer, nullable=False, server_default="0"),
    sa.Column("checkpoint", sa.Text),
    sa.Column("pack_key", sa.Text, nullable=False, server_default=""),
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
    sa.Index("dynamoe_candidates_by_status", "study_name", "status"),  # most are over
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
    sa.Column("loss_by_k_json", sa.Text),
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

workers = sa.Table(
    "dynamoe_workers",
    metadata,
    _study_key(),
    sa.Column("worker", sa.String(80), primary_key=True),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("process_mark", sa.String(200), nullable=False),
    sa.Column("started_at", sa.String(40), nullable=False),
    sa.Column("heartbeat_at", sa.String(40), nullable=False),
    sa.Column("beats", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("stop_serial", sa.Integer, nullable=False),
    sa.Column("left_at", sa.String(40)),
    sa.Column("versions_json", sa.Text),
)

legs = sa.Table(
    "dynamoe_legs",
    metadata,
    _study_key(),
    sa.Column("leg", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("worker", sa.String(80)),
    sa.Column("members", sa.Text, nullable=False),
    sa.Column("start_epoch", sa.Integer, nullable=False),
    sa.Column("end_epoch", sa.Integer, nullable=False),
    sa.Column("pack_key", sa.Text, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("closed_at", sa.String(40)),
)

decisions = sa.Table(
    "dynamoe_decisions",
    metadata,
    sa.Column("study_name", sa.String(512), primary_key=True),
    _trial_key(),
    sa.Column("rung", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("action", sa.String(20), nullable=False),
    sa.Column("beaten", sa.Integer, nullable=False),
    sa.Column("rivals", sa.Integer, nullable=False),
    sa.Column("strongest", sa.Integer),
    sa.Column("reason", sa.Text),
    sa.Column("updated_at", sa.String(40), nullable=False),
    _of_candidate(),
)

tests = sa.Table(
    "dynamoe_tests",
    metadata,
    sa.Column("study_name", sa.String(512), primary_key=True),
    _trial_key(),
    sa.Column("examples", sa.Integer, nullable=False),
    sa.Column("accuracy", sa.Double),
    sa.Column("loss", sa.Double),
    sa.Column("activated_params", sa.Double),
    sa.Column("mean_k_json", sa.Text, nullable=False),
    sa.Column("measured_at", sa.String(40), nullable=False),
    _of_candidate(),
)

evidence = sa.Table(
    "dynamoe_evidence",
    metadata,
    sa.Column("study_name", sa.String(512), primary_key=True),
    _trial_key(),
    sa.Column("kind", sa.String(80), primary_key=True),
    sa.Column("content_json", sa.Text, nullable=False),
    sa.Column("made_at", sa.String(40), nullable=False),
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
