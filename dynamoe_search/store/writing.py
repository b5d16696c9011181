"""What is written to our tables; every function is a part of one transaction."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import sqlalchemy as sa

from dynamoe_search.errors import UsageError
from dynamoe_search.records import Ended, FilesMark, StudySettings
from dynamoe_search.specs import StudySpec
from dynamoe_search.specs.vocabulary import MAXIMISED
from dynamoe_search.store import candidate_rows, reading, tables, workers
from dynamoe_search.store.texts import column, counts_to_text, from_text, to_text, utc_now
from dynamoe_search.store.trials import Addition

InsertTrials: TypeAlias = Callable[[sa.Connection, str, Sequence[Addition]], Sequence[int]]


def exists_already(name: str) -> UsageError:
    """Returns the error for a name that another study has."""
    return UsageError(
        f"the study {name!r} exists already; continue it with the command resume, "
        "or choose another name with --name"
    )


def insert_study(
    connection: sa.Connection,
    spec: StudySpec,
    source: str,
    settings: StudySettings,
    **origin: str | None,
) -> None:
    """Adds the row of a new study; raises `UsageError` if the name is taken."""
    name = spec.study.name
    if _study_row(connection, name, "state") is not None:
        raise exists_already(name)
    now = utc_now()
    connection.execute(
        tables.studies.insert().values(
            study_name=name,
            source=source,
            state="created",
            trials=spec.study.trials,
            device=settings.device,
            spec_json=spec.model_dump_json(),
            objectives_json=to_text(list(spec.study.objectives)),
            maximise_json=to_text([item in MAXIMISED for item in spec.study.objectives]),
            settings_json=to_text(settings),
            **origin,
            created_at=now,
            updated_at=now,
        )
    )


def claim_files(connection: sa.Connection, name: str, mark: FilesMark) -> FilesMark:
    """Stores where the files of a study are, if nobody did; returns what is stored."""
    here = tables.studies.c
    query = sa.select(here.files_json).where(here.study_name == name).with_for_update()
    known = connection.execute(query).scalar()
    if known:
        return from_text(FilesMark, known)
    connection.execute(
        tables.studies.update().where(here.study_name == name).values(files_json=to_text(mark))
    )
    return mark


def add_candidates(
    connection: sa.Connection,
    name: str,
    additions: Sequence[Addition],
    worker: str | None,
    insert_trials: InsertTrials,
) -> dict[int, int]:
    """Adds candidates whose ordinals are new, with their trials; returns the trial number of every ordinal.

    Args:
        connection: In a transaction that writes. Who adds the same ordinals meanwhile waits, and then finds ours.
        name: The study.
        additions: The candidates.
        worker: Whose turn to plan it must be; None if it does not matter.
        insert_trials: Adds Optuna's trials and returns their numbers.
    """
    held = (
        workers.locked_study(connection, name)
        if worker is None
        else workers.require_turn(connection, name, worker)
    )
    if held is None:
        raise reading.missing_study(connection, name)
    reading.refuse_deleting(name, held.state)
    known = candidate_rows.read_numbers(
        connection, name, [one.candidate.ordinal for one in additions]
    )
    new = [one for one in additions if one.candidate.ordinal not in known]
    if new:
        trials = insert_trials(connection, name, new)
        insert_candidates(connection, name, trials, new)
        known |= {one.candidate.ordinal: trial for one, trial in zip(new, trials, strict=True)}
    return known


def insert_candidates(
    connection: sa.Connection, name: str, trials: Sequence[int], additions: Sequence[Addition]
) -> None:
    """Adds the rows of candidates."""
    now = utc_now()
    rows = [
        {
            "study_name": name,
            "trial_number": trial,
            "ordinal": one.candidate.ordinal,
            "cohort": one.cohort,
            "status": "running",
            "pack_key": one.candidate.pack_key,
            "reference": one.candidate.reference,
            "router": one.candidate.router.kind,
            "schedule": one.candidate.schedule.shape,
            "experts_per_layer": counts_to_text(one.candidate.experts_per_layer),
            "num_layers": one.candidate.model.num_layers,
            "d_model": one.candidate.model.d_model,
            "d_expert": one.candidate.model.d_expert,
            "study_seed": one.candidate.study_seed,
            "design_hash": one.candidate.design_hash,
            "params_json": to_text(dict(one.params)),
            "candidate_json": to_text(one.candidate),
            "sampler_state_json": to_text(dict(one.sampler_state)),
            "created_at": now,
        }
        for trial, one in zip(trials, additions, strict=True)
    ]
    connection.execute(tables.candidates.insert(), rows)


def known_designs(connection: sa.Connection, name: str, hashes: Collection[str]) -> frozenset[str]:
    """Returns those of the hashes of designs that are of candidates of a study."""
    here = tables.candidates.c
    query = sa.select(here.design_hash).where(
        here.study_name == name, here.design_hash.in_(sorted(hashes))
    )
    return frozenset(connection.execute(query).scalars())


def write_ended(
    connection: sa.Connection,
    name: str,
    ended: Sequence[Ended],
    *,
    values: Mapping[int, Mapping[str, float] | None],
    versions: Mapping[str, str],
) -> None:
    """Stores how candidates ended; those whose end is known stay as they are."""
    here = tables.candidates.c
    trials = sorted(item.trial for item in ended)
    query = sa.select(here.trial_number, here.status).where(
        here.study_name == name, here.trial_number.in_(trials)
    )
    rows = connection.execute(query.order_by(here.trial_number).with_for_update())
    status = {row.trial_number: row.status for row in rows}
    if missing := [trial for trial in trials if trial not in status]:
        raise UsageError(f"the study {name!r} has no trial {missing[0]}")
    new = [item for item in ended if status[item.trial] in ("running", "paused")]
    if not new:
        return
    now = utc_now()
    changed = ("status", "epochs", "reason", "message")
    connection.execute(
        tables.candidates.update()
        .where(here.study_name == name, here.trial_number == sa.bindparam("trial"))
        .values(checkpoint=None, finished_at=now)
        .values({item: sa.bindparam(f"new_{item}") for item in changed}),
        [
            {"trial": item.trial}
            | {f"new_{column}": getattr(item.outcome, column) for column in changed}
            for item in new
        ],
    )
    connection.execute(
        tables.evaluations.insert(),
        [_evaluation(name, item, values[item.trial], versions, now) for item in new],
    )
    layers = [row for item in new for row in _layers_of(name, item)]
    if layers:
        connection.execute(tables.layers.insert(), layers)


def _evaluation(
    name: str,
    item: Ended,
    values: Mapping[str, float] | None,
    versions: Mapping[str, str],
    now: str,
) -> dict[str, Any]:
    outcome = item.outcome
    return {
        "study_name": name,
        "trial_number": item.trial,
        **{metric: column(outcome.metrics.get(metric)) for metric in tables.METRIC_COLUMNS},
        "is_feasible": all(excess <= 0 for excess in item.violations),
        "epochs": outcome.epochs,
        "seconds": outcome.seconds,
        "device": outcome.device,
        "pack_size": outcome.pack_size,
        "pack_mode": outcome.pack_mode,
        "values_json": None if values is None else to_text(dict(values)),
        "violations_json": to_text([float(excess) for excess in item.violations]),
        "metrics_json": to_text(dict(outcome.metrics)),
        "outcome_json": to_text(replace(outcome, routing=())),  # the routing has its own table
        "versions_json": to_text(dict(versions)),
        "finished_at": now,
    }


def _layers_of(name: str, item: Ended) -> list[dict[str, Any]]:
    return [
        {
            "study_name": name,
            "trial_number": item.trial,
            "layer": one.layer,
            "num_experts": one.num_experts,
            "mean_k": column(one.mean_k),
            "std_k": column(one.std_k),
            "load_cv": column(one.load_cv),
            "max_share": column(one.max_share),
            "k_histogram_json": to_text(list(one.k_histogram)),
            "load_json": to_text(list(one.load)),
            "loss_by_k_json": to_text(list(one.loss_by_k)) if one.loss_by_k else None,
        }
        for one in item.outcome.routing
    ]


def named_values(objectives: Sequence[str], item: Ended) -> dict[str, float] | None:
    """Returns the values of a complete candidate by objective, None for any other."""
    if item.outcome.status != "complete":
        return None
    values = item.values
    if values is None or len(values) != len(objectives) or any(map(math.isnan, values)):
        raise ValueError(
            f"a complete candidate needs a number for each of {objectives}, got {values}"
        )
    return {name: float(value) for name, value in zip(objectives, values, strict=True)}


def raise_stop_serial(connection: sa.Connection, name: str) -> None:
    """Counts a request to stop."""
    table = tables.studies
    connection.execute(
        table.update().where(table.c.study_name == name).values(stop_serial=table.c.stop_serial + 1)
    )


def update_study(connection: sa.Connection, name: str, **values: Any) -> None:
    """Changes columns of a study's row."""
    table = tables.studies
    connection.execute(
        table.update().where(table.c.study_name == name).values(updated_at=utc_now(), **values)
    )


def delete_rows(connection: sa.Connection, name: str) -> None:
    """Deletes all of our rows of a study."""
    for table in reversed(tables.metadata.sorted_tables):
        if "study_name" in table.c:
            connection.execute(table.delete().where(table.c.study_name == name))


def _study_row(connection: sa.Connection, name: str, *columns: str) -> sa.Row[Any] | None:
    table = tables.studies
    return connection.execute(
        sa.select(*(table.c[item] for item in columns))
        .where(table.c.study_name == name)
        .with_for_update()
    ).one_or_none()
