"""What is written to our tables; every function is a part of one transaction."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from dynamoe_search.errors import UsageError
from dynamoe_search.records import Ended, FilesMark, Outcome, StudySettings
from dynamoe_search.specs import StudySpec
from dynamoe_search.specs.vocabulary import MAXIMISED
from dynamoe_search.store import tables
from dynamoe_search.store.texts import column, counts_to_text, from_text, to_text, utc_now
from dynamoe_search.store.trials import Addition


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


def insert_candidates(
    connection: sa.Connection, name: str, trials: Sequence[int], additions: Sequence[Addition]
) -> list[int]:
    """Adds the rows of candidates; returns the trial numbers of their ordinals, which may have been there before."""
    study = tables.studies.c.study_name
    # who adds the same ordinals at the same time waits, and then finds ours
    connection.execute(sa.select(study).where(study == name).with_for_update())
    return [
        insert_candidate(connection, name, trial, one)
        for trial, one in zip(trials, additions, strict=True)
    ]


def insert_candidate(connection: sa.Connection, name: str, trial: int, one: Addition) -> int:
    """Adds the row of a candidate; returns the trial number of its ordinal, which may have been there before."""
    table, candidate = tables.candidates, one.candidate
    known = connection.execute(
        sa.select(table.c.trial_number).where(
            table.c.study_name == name, table.c.ordinal == candidate.ordinal
        )
    ).scalar()
    if known is not None:
        return int(known)
    connection.execute(
        table.insert().values(
            study_name=name,
            trial_number=trial,
            ordinal=candidate.ordinal,
            cohort=one.cohort,
            status="running",
            pack_key=candidate.pack_key,
            reference=candidate.reference,
            router=candidate.router.kind,
            schedule=candidate.schedule.shape,
            experts_per_layer=counts_to_text(candidate.experts_per_layer),
            num_layers=candidate.model.num_layers,
            d_model=candidate.model.d_model,
            d_expert=candidate.model.d_expert,
            study_seed=candidate.study_seed,
            design_hash=candidate.design_hash,
            params_json=to_text(dict(one.params)),
            candidate_json=to_text(candidate),
            sampler_state_json=to_text(dict(one.sampler_state)),
            created_at=utc_now(),
        )
    )
    return trial


def known_designs(connection: sa.Connection, name: str, hashes: Collection[str]) -> frozenset[str]:
    """Returns those of the hashes of designs that are of candidates of a study."""
    here = tables.candidates.c
    query = sa.select(here.design_hash).where(
        here.study_name == name, here.design_hash.in_(sorted(hashes))
    )
    return frozenset(connection.execute(query).scalars())


def write_outcome(
    connection: sa.Connection,
    name: str,
    trial: int,
    outcome: Outcome,
    *,
    values: Mapping[str, float] | None,
    violations: Sequence[float],
    versions: Mapping[str, str],
) -> bool:
    """Stores how a candidate ended; returns False, writing nothing, if that was known."""
    here = tables.candidates.c
    key = (here.study_name == name, here.trial_number == trial)
    status = connection.execute(sa.select(here.status).where(*key).with_for_update()).scalar()
    if status is None:
        raise UsageError(f"the study {name!r} has no trial {trial}")
    if status not in ("running", "paused"):
        return False
    now = utc_now()
    connection.execute(
        tables.candidates.update()
        .where(*key)
        .values(
            status=outcome.status,
            epochs=outcome.epochs,
            checkpoint=None,
            reason=outcome.reason,
            message=outcome.message,
            finished_at=now,
        )
    )
    connection.execute(
        tables.evaluations.insert().values(
            study_name=name,
            trial_number=trial,
            **{item: column(outcome.metrics.get(item)) for item in tables.METRIC_COLUMNS},
            is_feasible=all(item <= 0 for item in violations),
            epochs=outcome.epochs,
            seconds=outcome.seconds,
            device=outcome.device,
            pack_size=outcome.pack_size,
            pack_mode=outcome.pack_mode,
            values_json=None if values is None else to_text(dict(values)),
            violations_json=to_text([float(item) for item in violations]),
            metrics_json=to_text(dict(outcome.metrics)),
            outcome_json=to_text(replace(outcome, routing=())),  # the routing has its own table
            versions_json=to_text(dict(versions)),
            finished_at=now,
        )
    )
    _write_layers(connection, name, trial, outcome)
    return True


def write_ended(
    connection: sa.Connection,
    name: str,
    ended: Sequence[Ended],
    *,
    values: Mapping[int, Mapping[str, float] | None],
    versions: Mapping[str, str],
) -> None:
    """Stores how candidates ended; those whose end is known stay as they are."""
    for item in ended:
        write_outcome(
            connection,
            name,
            item.trial,
            item.outcome,
            values=values[item.trial],
            violations=item.violations,
            versions=versions,
        )


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


def _write_layers(connection: sa.Connection, name: str, trial: int, outcome: Outcome) -> None:
    if not outcome.routing:
        return
    connection.execute(
        tables.layers.insert(),
        [
            {
                "study_name": name,
                "trial_number": trial,
                "layer": item.layer,
                "num_experts": item.num_experts,
                "mean_k": column(item.mean_k),
                "std_k": column(item.std_k),
                "load_cv": column(item.load_cv),
                "max_share": column(item.max_share),
                "k_histogram_json": to_text(list(item.k_histogram)),
                "load_json": to_text(list(item.load)),
                "loss_by_k_json": to_text(list(item.loss_by_k)) if item.loss_by_k else None,
            }
            for item in outcome.routing
        ],
    )


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
