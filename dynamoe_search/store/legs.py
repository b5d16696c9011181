"""Legs: who trains what from which epoch to which; every function is a part of one transaction."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from dynamoe_search.errors import LeaseLostError, UsageError
from dynamoe_search.records import Ended, Leg, RungDecision, Stood
from dynamoe_search.store import candidate_rows, tables, workers, writing
from dynamoe_search.store.runs import Watcher
from dynamoe_search.store.texts import counts_from_text, counts_to_text, utc_now


def read_legs(
    connection: sa.Connection,
    name: str,
    state: str | None = None,
    *,
    numbers: Collection[int] | None = None,
) -> list[Leg]:
    """Returns the legs of a study by number: all, those of a state, or these."""
    table = tables.legs
    query = sa.select(table).where(table.c.study_name == name).order_by(table.c.leg)
    if state is not None:
        query = query.where(table.c.state == state)
    if numbers is not None:
        query = query.where(table.c.leg.in_(sorted(numbers)))
    return [_leg(row) for row in connection.execute(query)]


def open_leg(
    connection: sa.Connection,
    name: str,
    worker: str,
    trials: Sequence[int],
    *,
    start: int,
    end: int,
    pack_key: str,
) -> Leg:
    """Adds a leg of one worker.

    Raises:
        LeaseLostError: It is not the worker's turn to plan.
        UsageError: A candidate is in an open leg or over, or does not stand at the start.
    """
    workers.require_turn(connection, name, worker)
    if not trials or len(set(trials)) != len(trials) or not 0 <= start < end:
        raise UsageError(f"no leg from epoch {start} to {end} can be made of the trials {trials}")
    _check_members(connection, name, trials, start, pack_key)
    table = tables.legs
    latest = connection.execute(
        sa.select(sa.func.max(table.c.leg)).where(table.c.study_name == name)
    ).scalar()
    leg = Leg(
        number=0 if latest is None else latest + 1,
        trials=tuple(trials),
        start=start,
        end=end,
        pack_key=pack_key,
        worker=worker,
    )
    connection.execute(
        table.insert().values(
            study_name=name,
            leg=leg.number,
            state="open",
            worker=worker,
            members=counts_to_text(leg.trials),
            start_epoch=start,
            end_epoch=end,
            pack_key=pack_key,
            created_at=utc_now(),
        )
    )
    here = tables.candidates.c
    connection.execute(
        tables.candidates.update()
        .where(here.study_name == name, here.trial_number.in_(leg.trials))
        .values(status="running")
    )
    return leg


def _check_members(
    connection: sa.Connection, name: str, trials: Sequence[int], start: int, pack_key: str
) -> None:
    busy = {trial for leg in read_legs(connection, name, "open") for trial in leg.trials}
    standing = {
        one.trial: one for one in candidate_rows.read_standings(connection, name, trials=trials)
    }
    for trial in trials:
        one = standing.get(trial)
        if one is None:
            raise UsageError(f"the study {name!r} has no trial {trial}")
        if trial in busy or one.status not in ("running", "paused"):
            state = "in training" if trial in busy else one.status
            raise UsageError(f"trial {trial} of the study {name!r} is {state} already")
        if (one.epochs, one.pack_key) != (start, pack_key):
            raise UsageError(
                f"trial {trial} of the study {name!r} stands at epoch {one.epochs} of the pack "
                f"{one.pack_key!r}, not at epoch {start} of {pack_key!r}"
            )


def take_leg(
    connection: sa.Connection, name: str, worker: str, number: int, watcher: Watcher
) -> bool:
    """Gives an open leg of a dead worker to a live one; returns whether it is that worker's now."""
    leg = _locked_leg(connection, name, number)
    if leg.state != "open":
        return False
    if leg.worker == worker:
        return True
    alive = workers.living(connection, name, watcher)
    if leg.worker in alive or worker not in alive:
        return False
    table = tables.legs
    connection.execute(
        table.update()
        .where(table.c.study_name == name, table.c.leg == number)
        .values(worker=worker)
    )
    return True


def close_leg(
    connection: sa.Connection,
    name: str,
    worker: str,
    number: int,
    *,
    ended: Sequence[Ended],
    stood: Sequence[Stood],
    values: Mapping[int, Mapping[str, float] | None],
    versions: Mapping[str, str],
) -> bool:
    """Stores how every member of a leg came out of it; returns False if that was known.

    Args:
        connection: In a transaction that writes.
        name: The study.
        worker: Who trained the leg.
        number: The leg's number.
        ended: Members whose training is over.
        stood: Members that wait for a next leg.
        values: Objectives of those that ended, by trial.
        versions: Versions of the libraries that computed them.

    Raises:
        LeaseLostError: Another worker has the leg.
        ValueError: Those who ended or stood are not the leg's members.
    """
    leg = _locked_leg(connection, name, number)
    if leg.worker != worker:
        raise _lost(name, number, leg.worker)
    if leg.state != "open":
        return False
    came_out = sorted([one.trial for one in ended] + [one.trial for one in stood])
    if came_out != sorted(leg.trials):
        raise ValueError(f"leg {number} has the trials {sorted(leg.trials)}, not {came_out}")
    writing.write_ended(connection, name, ended, values=values, versions=versions)
    if stood:
        _pause(connection, name, stood)
    table = tables.legs
    connection.execute(
        table.update()
        .where(table.c.study_name == name, table.c.leg == number)
        .values(state="done", closed_at=utc_now())
    )
    return True


def _pause(connection: sa.Connection, name: str, stood: Sequence[Stood]) -> None:
    here = tables.candidates.c
    at: dict[str, Any] = {
        "epochs": sa.bindparam("reached"),
        "checkpoint": sa.bindparam("kept"),
    }
    connection.execute(
        tables.candidates.update()
        .where(here.study_name == name, here.trial_number == sa.bindparam("trial"))
        .values(status="paused", **at),
        [{"trial": one.trial, "reached": one.epochs, "kept": one.checkpoint} for one in stood],
    )


def require_leg(connection: sa.Connection, name: str, leg: Leg) -> None:
    """Raises `LeaseLostError` if an open leg is not its worker's any more."""
    here = tables.legs.c
    row = connection.execute(
        sa.select(here.worker, here.state).where(here.study_name == name, here.leg == leg.number)
    ).one_or_none()
    if row is None or (row.worker, row.state) != (leg.worker, "open"):
        raise _lost(name, leg.number, None if row is None else row.worker)


def _lost(name: str, number: int, worker: str | None) -> LeaseLostError:
    return LeaseLostError(
        f"leg {number} of the study {name!r} was taken over by {worker}; "
        "what was trained here is not stored"
    )


def require_not_running(connection: sa.Connection, name: str, trials: Sequence[int]) -> None:
    """Raises `UsageError` if one of the trials is in training."""
    running = candidate_rows.read_standings(connection, name, ("running",), trials=trials)
    if busy := sorted(one.trial for one in running):
        raise UsageError(f"trial {busy[0]} of the study {name!r} is in training")


def without_lease(
    connection: sa.Connection, name: str, trials: Collection[int], watcher: Watcher
) -> list[int]:
    """Returns those of the trials that nobody works on and that neither are paused nor wait for a live worker."""
    alive = workers.living(connection, name, watcher)
    in_legs: dict[int, str | None] = {}
    for leg in read_legs(connection, name, "open"):
        in_legs.update(dict.fromkeys(leg.trials, leg.worker))
    found = candidate_rows.read_standings(connection, name, trials=trials)
    status = {one.trial: one.status for one in found}

    def is_cared_for(trial: int) -> bool:
        if status.get(trial) == "paused":
            return True
        if trial in in_legs:
            return in_legs[trial] in alive
        return status.get(trial) == "running" and bool(alive)

    return sorted(trial for trial in trials if not is_cared_for(trial))


def upsert_decisions(
    connection: sa.Connection, name: str, decisions: Sequence[RungDecision]
) -> None:
    """Stores decisions; one of the same trial at the same rung replaces the older one."""
    table = tables.decisions
    latest = {(one.trial, one.rung): one for one in decisions}
    if not latest:
        return
    connection.execute(
        table.delete().where(
            table.c.study_name == name,
            table.c.trial_number == sa.bindparam("trial"),
            table.c.rung == sa.bindparam("at"),
        ),
        [{"trial": trial, "at": rung} for trial, rung in latest],
    )
    now = utc_now()
    connection.execute(
        table.insert(),
        [
            {
                "study_name": name,
                "trial_number": one.trial,
                "rung": one.rung,
                "action": one.action,
                "beaten": one.beaten,
                "rivals": one.rivals,
                "strongest": one.strongest,
                "reason": one.reason,
                "updated_at": now,
            }
            for one in latest.values()
        ],
    )


def read_decisions(
    connection: sa.Connection, name: str, status: Collection[str] | None = None
) -> list[RungDecision]:
    """Returns the latest decision of every trial, or of those with a status, at every rung, by trial and rung."""
    table, here = tables.decisions, tables.candidates.c
    query = sa.select(table).where(table.c.study_name == name)
    if status is not None:
        query = query.join(tables.candidates).where(here.status.in_(sorted(status)))
    return [
        RungDecision(
            trial=row.trial_number,
            rung=row.rung,
            action=row.action,
            beaten=row.beaten,
            rivals=row.rivals,
            strongest=row.strongest,
            reason=row.reason,
        )
        for row in connection.execute(query.order_by(table.c.trial_number, table.c.rung))
    ]


class Pulse(NamedTuple):
    """What changes whenever something happens that may give a waiting worker something to do, but for a death."""

    trials: int
    max_epochs: int | None
    exhausted_at: int | None
    last_ordinal: int | None
    last_leg: int | None
    open_legs: int


def read_pulse(connection: sa.Connection, name: str, first_leg: int) -> Pulse | None:
    """Returns the pulse of a study in one statement that reads few rows; None if the study is gone.

    Args:
        connection: To the database.
        name: The study.
        first_leg: No leg below this one is open.
    """
    studies, candidate, leg = tables.studies.c, tables.candidates.c, tables.legs.c
    ordinal = sa.select(sa.func.max(candidate.ordinal)).where(candidate.study_name == name)
    last = sa.select(sa.func.max(leg.leg)).where(leg.study_name == name)
    is_open = (leg.study_name == name, leg.leg >= first_leg, leg.state == "open")
    num_open = sa.select(sa.func.count()).select_from(tables.legs).where(*is_open)
    row = connection.execute(
        sa.select(
            studies.trials,
            studies.max_epochs,
            studies.exhausted_at,
            ordinal.scalar_subquery(),
            last.scalar_subquery(),
            num_open.scalar_subquery(),
        ).where(studies.study_name == name)
    ).one_or_none()
    return None if row is None else Pulse(*row)


def _locked_leg(connection: sa.Connection, name: str, number: int) -> Leg:
    table = tables.legs
    row = connection.execute(
        sa.select(table).where(table.c.study_name == name, table.c.leg == number).with_for_update()
    ).one_or_none()
    if row is None:
        raise UsageError(f"the study {name!r} has no leg {number}")
    return _leg(row)


def _leg(row: sa.Row[Any]) -> Leg:
    return Leg(
        number=row.leg,
        trials=counts_from_text(row.members),
        start=row.start_epoch,
        end=row.end_epoch,
        pack_key=row.pack_key,
        worker=row.worker,
        state=row.state,
    )
