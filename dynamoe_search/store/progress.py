"""What candidates report while they train, and what that adds up to; every function is a part of one transaction."""

import json
from collections import defaultdict
from collections.abc import Collection, Sequence

import sqlalchemy as sa

from dynamoe_search.errors import UsageError
from dynamoe_search.records import Progress, Spent
from dynamoe_search.store import reading, tables
from dynamoe_search.store.texts import column, counts_from_text, counts_to_text, number, to_text


def upsert_progress(connection: sa.Connection, name: str, reports: Sequence[Progress]) -> None:
    """Stores what candidates report; a report of an epoch that is there replaces it."""
    table = tables.progress
    numbers = _trials_of(connection, name, {report.ordinal for report in reports})
    latest = {(numbers[report.ordinal], report.epoch): report for report in reports}
    connection.execute(
        table.delete().where(
            table.c.study_name == name,
            table.c.trial_number == sa.bindparam("trial"),
            table.c.epoch == sa.bindparam("at"),
        ),
        [{"trial": trial, "at": epoch} for trial, epoch in latest],
    )
    connection.execute(
        table.insert(),
        [
            {
                "study_name": name,
                "trial_number": trial,
                "epoch": epoch,
                "ordinal": report.ordinal,
                "train_loss": column(report.train_loss),
                "validation_loss": column(report.validation_loss),
                "accuracy": column(report.accuracy),
                "activated_params": column(report.activated_params),
                "seconds": column(report.seconds),
                "mean_k_per_layer_json": to_text(list(report.mean_k_per_layer)),
                "experts_per_layer": counts_to_text(report.experts_per_layer),
            }
            for (trial, epoch), report in latest.items()
        ],
    )


def read_progress(
    connection: sa.Connection,
    name: str,
    trials: Collection[int] | None = None,
    epochs: Collection[int] | None = None,
) -> list[Progress]:
    """Returns what candidates reported, by trial number and epoch: all, of some trials, or at some epochs."""
    here = tables.progress.c
    query = sa.select(
        here.ordinal,
        here.epoch,
        here.train_loss,
        here.validation_loss,
        here.accuracy,
        here.activated_params,
        here.mean_k_per_layer_json,
        here.experts_per_layer,
        here.seconds,
    ).where(here.study_name == name)
    if trials is not None:
        query = query.where(here.trial_number.in_(sorted(trials)))
    if epochs is not None:
        query = query.where(here.epoch.in_(sorted(epochs)))
    rows = connection.execute(query.order_by(here.trial_number, here.epoch)).all()
    if not rows:
        reading.require_study(connection, name)
    return [  # there are many: no attribute of a row is looked up, no type is checked twice
        Progress(
            ordinal=ordinal,
            epoch=epoch,
            train_loss=number(train_loss),
            validation_loss=number(validation_loss),
            accuracy=number(accuracy),
            activated_params=number(activated),
            mean_k_per_layer=tuple(map(float, json.loads(mean_k))),
            experts_per_layer=counts_from_text(experts),
            seconds=number(seconds),
        )
        for ordinal, epoch, train_loss, validation_loss, accuracy, activated, mean_k, experts, seconds in rows
    ]


def read_spent(connection: sa.Connection, name: str) -> Spent:
    """Returns what a study has used: finished candidates by their outcome, running ones by their reports."""
    reading.require_study(connection, name)
    here, done = tables.candidates.c, tables.evaluations.c
    counts: dict[str, int] = defaultdict(int)
    epochs, seconds = 0, 0.0
    for row in connection.execute(
        sa.select(
            here.status,
            sa.func.count().label("num"),
            sa.func.coalesce(sa.func.sum(done.epochs), 0).label("epochs"),
            sa.func.coalesce(sa.func.sum(done.seconds), 0.0).label("seconds"),
        )
        .select_from(tables.candidates.outerjoin(tables.evaluations))
        .where(here.study_name == name)
        .group_by(here.status)
    ):
        counts[row.status] = row.num
        epochs += int(row.epochs)
        seconds += float(row.seconds)
    report = tables.progress.c
    for row in connection.execute(
        sa.select(sa.func.max(report.epoch).label("epochs"), sa.func.sum(report.seconds).label("s"))
        .select_from(tables.progress.join(tables.candidates))
        .where(here.study_name == name, here.status.in_(("running", "paused")))
        .group_by(report.trial_number)
    ):
        epochs += int(row.epochs)
        seconds += float(row.s or 0.0)
    return Spent(
        epochs=epochs,
        seconds=seconds,
        complete=counts["complete"],
        failed=counts["failed"],
        running=counts["running"],
        stopped=counts["stopped"],
        paused=counts["paused"],
    )


def _trials_of(connection: sa.Connection, name: str, ordinals: set[int]) -> dict[int, int]:
    table = tables.candidates
    rows = connection.execute(
        sa.select(table.c.ordinal, table.c.trial_number).where(
            table.c.study_name == name, table.c.ordinal.in_(sorted(ordinals))
        )
    )
    numbers = {row.ordinal: row.trial_number for row in rows}
    if missing := sorted(ordinals - set(numbers)):
        raise UsageError(f"the study {name!r} has no candidate with the ordinal {missing[0]}")
    return numbers
