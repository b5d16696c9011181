"""What a live view shows of a study, read in one transaction and cheap enough to be asked every second."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dynamoe_search.records import Leg, Spent, StudyRecord, Worker
from dynamoe_search.store import legs, progress, reading, tables, workers
from dynamoe_search.store.runs import Watcher
from dynamoe_search.store.texts import counts_from_text, from_text, number

UNFINISHED = ("running", "paused")


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenLeg:
    """Candidates that are in training now, with how far they are."""

    leg: Leg
    epoch: int  # the latest that was reported, or the leg's start
    best_accuracy: float | None  # of the reports of that epoch; None before the first
    lowest_loss: float | None = None  # likewise


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A point of the front."""

    trial: int
    values: dict[str, float]  # objective name -> value
    router: str
    schedule: str
    experts_per_layer: tuple[int, ...]  # open when the training ended


@dataclass(frozen=True, kw_only=True, slots=True)
class Happening:
    """Something that happened in a study."""

    at: str  # UTC, ISO 8601
    kind: str  # complete, failed, stopped (a candidate); leg; joined, left (a worker)
    number: int  # of the trial, the leg or the process
    message: str | None = None  # why a candidate failed or was stopped
    values: dict[str, float] | None = None  # objectives of a complete candidate
    leg: Leg | None = None  # that began


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """A study at one moment.

    Attributes:
        record: The study.
        spent: What it has used.
        workers: Who works on it now.
        legs: What is in training now.
        front: Its front in order.
        complete: Objectives of every complete candidate.
        latest: What candidates without an outcome reported last: accuracy, loss and activated parameters.
        standing: How many candidates have a status and so many epochs behind them, by (status, epochs).
        may_go_on: How many paused candidates were told that they may go on, by epoch.
        happenings: What happened last, the latest first.
    """

    record: StudyRecord
    spent: Spent
    workers: tuple[Worker, ...]
    legs: tuple[OpenLeg, ...]
    front: tuple[Place, ...]
    complete: tuple[dict[str, float], ...]
    latest: tuple[dict[str, float], ...]
    standing: dict[tuple[str, int], int]
    may_go_on: dict[int, int]
    happenings: tuple[Happening, ...]


def read_overview(
    connection: sa.Connection, name: str, watcher: Watcher, num_happenings: int
) -> Overview:
    """Returns a study as it is now; raises `UsageError` if there is none."""
    record = reading.read_study(connection, name, watcher)
    here = tables.candidates.c
    counted = sa.select(here.status, here.epochs, sa.func.count().label("num"))
    standing = connection.execute(
        counted.where(here.study_name == name).group_by(here.status, here.epochs)
    ).all()
    return Overview(
        record=record,
        spent=progress.read_spent(connection, name),
        workers=tuple(workers.living(connection, name, watcher).values()),
        legs=tuple(_open_legs(connection, name)),
        front=tuple(_front(connection, name)),
        complete=tuple(_complete(connection, name)),
        latest=tuple(_latest(connection, name)),
        standing={(row.status, row.epochs): row.num for row in standing},
        may_go_on=_may_go_on(connection, name),
        happenings=tuple(_happenings(connection, name, num_happenings)),
    )


def _open_legs(connection: sa.Connection, name: str) -> Iterator[OpenLeg]:
    here = tables.progress.c
    for leg in legs.read_legs(connection, name, "open"):
        row = connection.execute(
            sa.select(
                here.epoch,
                sa.func.max(here.accuracy).label("best"),
                sa.func.min(here.validation_loss).label("lowest"),
            )
            .where(
                here.study_name == name,
                here.trial_number.in_(leg.trials),
                here.epoch > leg.start,
            )
            .group_by(here.epoch)
            .order_by(here.epoch.desc())
            .limit(1)
        ).first()
        if row is None:
            yield OpenLeg(leg=leg, epoch=leg.start, best_accuracy=None)
        else:
            yield OpenLeg(leg=leg, epoch=row.epoch, best_accuracy=row.best, lowest_loss=row.lowest)


def _front(connection: sa.Connection, name: str) -> Iterator[Place]:
    here = tables.front.c
    query = sa.select(tables.front).where(here.study_name == name).order_by(here.place)
    for row in connection.execute(query):
        yield Place(
            trial=row.trial_number,
            values=from_text(dict[str, float], row.values_json),
            router=row.router,
            schedule=row.schedule,
            experts_per_layer=counts_from_text(row.experts_per_layer),
        )


def _complete(connection: sa.Connection, name: str) -> Iterator[dict[str, float]]:
    here, done = tables.candidates.c, tables.evaluations.c
    query = (
        sa.select(done.values_json)
        .join_from(tables.candidates, tables.evaluations)
        .where(here.study_name == name, here.status == "complete")
    )
    for text in connection.execute(query).scalars():
        if text:
            yield from_text(dict[str, float], text)


def _latest(connection: sa.Connection, name: str) -> Iterator[dict[str, float]]:
    here, report = tables.candidates.c, tables.progress.c
    last = (
        sa.select(report.trial_number, sa.func.max(report.epoch).label("epoch"))
        .select_from(tables.progress.join(tables.candidates))
        .where(here.study_name == name, here.status.in_(UNFINISHED))
        .group_by(report.trial_number)
        .subquery()
    )
    query = (
        sa.select(report.accuracy, report.validation_loss, report.activated_params)
        .join(
            last, sa.and_(report.trial_number == last.c.trial_number, report.epoch == last.c.epoch)
        )
        .where(report.study_name == name)
        .order_by(report.trial_number)
    )
    for row in connection.execute(query):
        yield {key: number(value) for key, value in row._mapping.items()}


def _may_go_on(connection: sa.Connection, name: str) -> dict[int, int]:
    here, made = tables.candidates.c, tables.decisions.c
    rows = connection.execute(
        sa.select(here.epochs)
        .join_from(tables.candidates, tables.decisions)
        .where(
            here.study_name == name,
            here.status == "paused",
            made.rung == here.epochs,
            made.action == "go",
        )
    ).scalars()
    return dict(Counter(rows))


def _happenings(connection: sa.Connection, name: str, count: int) -> Collection[Happening]:
    found = [
        *_ends(connection, name, count),
        *_leg_starts(connection, name, count),
        *_comings(connection, name, count),
    ]
    return sorted(found, key=lambda one: (one.at, one.kind, one.number), reverse=True)[:count]


def _ends(connection: sa.Connection, name: str, count: int) -> Iterator[Happening]:
    here = tables.candidates.c
    query = (
        sa.select(
            here.trial_number,
            here.status,
            here.message,
            here.finished_at,
            tables.evaluations.c.values_json,
        )
        .select_from(tables.candidates.outerjoin(tables.evaluations))
        .where(here.study_name == name, here.finished_at.is_not(None))
        .order_by(here.finished_at.desc(), here.trial_number.desc())
        .limit(count)
    )
    for row in connection.execute(query):
        values = row.values_json
        yield Happening(
            at=row.finished_at,
            kind=row.status,
            number=row.trial_number,
            message=row.message,
            values=from_text(dict[str, float], values) if values else None,
        )


def _leg_starts(connection: sa.Connection, name: str, count: int) -> Iterator[Happening]:
    here = tables.legs.c
    query = sa.select(here.leg, here.created_at).where(here.study_name == name)
    rows = connection.execute(query.order_by(here.leg.desc()).limit(count)).all()
    began: dict[int, Any] = {row.leg: row.created_at for row in rows}
    for leg in legs.read_legs(connection, name, numbers=began.keys()):
        yield Happening(at=began[leg.number], kind="leg", number=leg.number, leg=leg)


def _comings(connection: sa.Connection, name: str, count: int) -> Iterator[Happening]:
    here = tables.workers.c
    query = sa.select(here.pid, here.started_at, here.left_at).where(here.study_name == name)
    for row in connection.execute(query.order_by(here.started_at.desc()).limit(count)):
        yield Happening(at=row.started_at, kind="joined", number=row.pid)
        if row.left_at:
            yield Happening(at=row.left_at, kind="left", number=row.pid)
