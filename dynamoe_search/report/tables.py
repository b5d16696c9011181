"""The rows of the tables of a report; their columns are in `columns.py`."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dynamoe_search.records import CandidateRecord
from dynamoe_search.report import columns, designed_rows
from dynamoe_search.report.columns import Column, TableKind
from dynamoe_search.report.history import hypervolumes
from dynamoe_search.report.reading import StudyData, epochs_of, seconds_of, value
from dynamoe_search.report.words import MEASURES, mean_k

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under the columns of a kind of table; what is unknown is None."""

    kind: TableKind
    rows: tuple[Row, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns, in order."""
        return self.kind.columns


def table(kind: TableKind, rows: Iterator[Row]) -> Table:
    """Returns a table with every column of its kind in every row, and nothing else."""
    names = [column.name for column in kind.columns]
    return Table(
        kind=kind, rows=tuple({name: _plain(row.get(name)) for name in names} for row in rows)
    )


def study_tables(data: StudyData) -> list[Table]:
    """Returns all tables of a study."""
    return [
        table(columns.TRIALS, _trials(data)),
        table(columns.FRONT, front_rows(data)),
        table(columns.LAYERS, _layers(data)),
        table(columns.PROGRESS, _progress(data)),
        table(columns.FAILURES, _failures(data)),
        table(columns.DECISIONS, _decisions(data)),
        table(columns.HYPERVOLUME, hypervolume_rows(data)),
        table(columns.IMPORTANCE, _importance(data)),
        table(
            columns.CONFIRMATION,
            (row for one in data.confirmed for row in designed_rows.confirmed_rows(one)),
        ),
        table(
            columns.AUDIT, (row for one in data.audited for row in designed_rows.audited_rows(one))
        ),
    ]


def front_rows(data: StudyData) -> Iterator[Row]:
    """Yields the members of the front."""
    for place, record in enumerate(data.front, start=1):
        yield {
            "study": data.name,
            "place": place,
            "trial": record.trial,
            "is_knee": record is data.knee,
            "reference": record.candidate.reference,
            **_measures(record),
            **_design(record),
        }


def hypervolume_rows(
    data: StudyData,
    objectives: Sequence[str] | None = None,
    reference: Sequence[float] | None = None,
) -> Iterator[Row]:
    """Yields the hypervolume after every finished candidate."""
    for moment in hypervolumes(data, objectives, reference):
        yield {
            "study": data.name,
            "finished": moment.finished,
            "trial": moment.trial,
            "epochs": moment.epochs,
            "seconds": moment.seconds,
            "hypervolume": moment.hypervolume,
        }


def _trials(data: StudyData) -> Iterator[Row]:
    on_front = {record.trial for record in data.front}
    for record in data.candidates:
        reports = data.progress.get(record.trial, ())
        outcome = record.outcome
        yield {
            "study": data.name,
            "trial": record.trial,
            "ordinal": record.ordinal,
            "cohort": record.cohort,
            "status": record.status,
            "is_on_front": record.trial in on_front,
            "is_feasible": record.feasible if outcome else None,
            "reference": record.candidate.reference,
            **_measures(record),
            **_design(record),
            "learning_rate": record.candidate.train.learning_rate,
            "epochs": epochs_of(record, reports),
            "seconds": seconds_of(record, reports),
            "pack_size": outcome.pack_size if outcome else None,
            "pack_mode": outcome.pack_mode if outcome else None,
            "device": outcome.device if outcome else None,
            "reason": record.reason,
            "created_at": record.created_at,
            "finished_at": record.finished_at,
        }


def _measures(record: CandidateRecord) -> Row:
    return {name: value(record, name) for name in MEASURES}


def _design(record: CandidateRecord) -> Row:
    candidate = record.candidate
    return {
        "router": candidate.router.kind,
        "schedule": candidate.schedule.shape,
        "experts_per_layer": record.experts_per_layer,
        "mean_k_per_layer": mean_k(record),
        "d_model": candidate.model.d_model,
        "num_layers": candidate.model.num_layers,
        "d_expert": candidate.model.d_expert,
        "params_json": json.dumps(record.params, sort_keys=True),
    }


def _layers(data: StudyData) -> Iterator[Row]:
    for record in data.candidates:
        for layer in record.outcome.routing if record.outcome else ():
            yield {
                "study": data.name,
                "trial": record.trial,
                "layer": layer.layer,
                "num_experts": layer.num_experts,
                "mean_k": layer.mean_k,
                "std_k": layer.std_k,
                "load_cv": layer.load_cv,
                "max_share": layer.max_share,
                "k_histogram": layer.k_histogram,
                "load": layer.load,
                "loss_by_k": layer.loss_by_k,
            }


def _progress(data: StudyData) -> Iterator[Row]:
    for trial in sorted(data.progress):
        for report in data.progress[trial]:
            yield {
                "study": data.name,
                "trial": trial,
                "epoch": report.epoch,
                "train_loss": report.train_loss,
                "validation_loss": report.validation_loss,
                "accuracy": report.accuracy,
                "activated_params": report.activated_params,
                "mean_k_per_layer": report.mean_k_per_layer,
                "experts_per_layer": report.experts_per_layer,
                "seconds": report.seconds,
            }


def _failures(data: StudyData) -> Iterator[Row]:
    for record in data.with_status("failed"):
        yield {
            "study": data.name,
            "trial": record.trial,
            "reason": record.reason,
            **_design(record),
            "epochs": epochs_of(record, ()),
            "message": record.message,
        }


def _decisions(data: StudyData) -> Iterator[Row]:
    for one in data.decisions:
        yield {
            "study": data.name,
            "trial": one.trial,
            "rung": one.rung,
            "action": one.action,
            "beaten": one.beaten,
            "rivals": one.rivals,
            "strongest": one.strongest,
            "reason": one.reason,
        }


def _importance(data: StudyData) -> Iterator[Row]:
    for one in data.importances:
        yield {
            "study": data.name,
            "objective": one.objective,
            "method": one.method,
            "parameter": one.parameter,
            "importance": one.importance,
            "candidates": one.candidates,
        }


def _plain(value: Any) -> Any:
    """Returns a value that every format can hold; what is not a finite number is unknown."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
