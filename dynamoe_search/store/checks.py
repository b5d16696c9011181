"""Finds what is wrong with a database and its studies, and says how to mend it; changes nothing."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from optuna.trial import FrozenTrial

from dynamoe_search.errors import StorageError
from dynamoe_search.records import CandidateRecord, StudyRecord
from dynamoe_search.store import fronts, legs, reading, tables, workers
from dynamoe_search.store.database import Database
from dynamoe_search.store.runs import Watcher
from dynamoe_search.store.tells import STATES
from dynamoe_search.store.texts import from_text
from dynamoe_search.store.trials import Trials
from dynamoe_search.wording import counted

_RESTORE = (
    "restore a copy of the file (an upgrade leaves one beside it), "
    "or save what can be read with: sqlite3 FILE .recover"
)
_RESUME = "the command resume mends it"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Literal["error", "warning", "ok"]
    what: str
    how_to_mend: str = ""


def check(
    database: Database, trials: Trials, watcher: Watcher, name: str | None = None
) -> list[Finding]:
    """Returns what was found: errors and warnings, and one `ok` for every part without any.

    Args:
        database: The open database.
        trials: Optuna's side of it.
        watcher: Judges who is alive.
        name: The study to check; none means all.

    Raises:
        UsageError: There is no such study.
    """
    try:
        found = database.query(lambda connection: list(_of_file(connection)))
        if found:  # the rest cannot be trusted, or not even be read
            return found
        found = database.query(lambda connection: list(_of_keys(connection)))
        found = found or [Finding(level="ok", what=f"the database {database.name} is intact")]
        for one in database.query(lambda connection: _names(connection, name)):
            found += _of_study(database, trials, watcher, one)
    except StorageError as error:
        return [_error(str(error), _RESTORE)]
    return found


def _names(connection: sa.Connection, name: str | None) -> list[str]:
    if name is not None:
        reading.require_study(connection, name)
        return [name]
    here = tables.studies.c
    return list(connection.execute(sa.select(here.study_name).order_by(here.created_at)).scalars())


def _of_keys(connection: sa.Connection) -> Iterator[Finding]:
    """Looks for rows whose study or trial is gone."""
    if connection.dialect.name != "sqlite":
        return  # other databases see to that themselves
    rows = connection.exec_driver_sql("PRAGMA foreign_key_check")
    for (table, parent), number in Counter((row[0], row[2]) for row in rows).items():
        yield _error(
            f"{counted(number, 'row')} of the table {table} {'belongs' if number == 1 else 'belong'} to rows of "
            f"{parent} that are not there",
            "the database was changed by hand; restore a copy",
        )


def _of_file(connection: sa.Connection) -> Iterator[Finding]:
    """Looks at the file and at the tables in it."""
    if connection.dialect.name == "sqlite":
        rows = connection.exec_driver_sql("PRAGMA integrity_check").scalars()
        if damage := [line for line in rows if line != "ok"]:
            text = damage[0].strip().splitlines()[-1]
            yield _error(f"the file is damaged in {len(damage)} or more places: {text}", _RESTORE)
            return
    inspector = sa.inspect(connection)
    there = set(inspector.get_table_names())
    for table in tables.metadata.sorted_tables:
        if table.name not in there:
            yield _error(f"the table {table.name} is missing", _RESTORE)
            continue
        columns = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in columns:
                yield _error(f"the table {table.name} lacks the column {column.name}", _RESTORE)


def _of_study(database: Database, trials: Trials, watcher: Watcher, name: str) -> list[Finding]:
    record = database.query(lambda found: reading.read_study(found, name, watcher))
    if record.state == "deleting":
        return [_warning(f"the deletion of the study {name!r} did not end", "delete it again")]
    candidates = database.query(lambda found: reading.read_candidates(found, name))
    known = database.patience.call(lambda: trials.frozen(name))
    if known is None:
        if not candidates:
            return [_warning(f"Optuna does not know the study {name!r} yet", _RESUME)]
        return [
            _error(
                f"another program deleted Optuna's part of the study {name!r}",
                "restore a copy of the database; results can still be read, but not added to",
            )
        ]

    def read(connection: sa.Connection) -> list[Finding]:
        found = list(_of_work(connection, record, watcher))
        found += _of_front(connection, record)
        unfinished = [one.number for one in known if not one.state.is_finished()]
        ours = {one.trial for one in candidates if one.status == "running"}
        waiting = ours & _interrupted(connection, name, ours)
        zombies = set(legs.without_lease(connection, name, unfinished, watcher)) - waiting
        if zombies:
            what = f"trials {_few(sorted(zombies))} of the study {name!r} run for Optuna, but nobody trains them"
            found.append(_warning(what, _RESUME))
        return found

    problems = [
        *_of_candidates(record, candidates),
        *_of_trials(record, candidates, known),
        *database.query(read),
    ]
    return problems or [database.query(lambda found: _in_order(found, name))]


def _of_candidates(record: StudyRecord, candidates: Sequence[CandidateRecord]) -> Iterator[Finding]:
    """Looks at our own rows."""
    where = f"of the study {record.name!r}"
    by_hand = "the database was changed by hand; restore a copy"
    for ordinal, number in Counter(one.ordinal for one in candidates).items():
        if number > 1:
            yield _error(f"{number} candidates {where} have the ordinal {ordinal}", by_hand)
    for one in candidates:
        is_over = one.status in STATES
        if is_over != (one.outcome is not None):
            what = "has no outcome" if is_over else "has an outcome"
            yield _error(f"trial {one.trial} {where} is {one.status}, but {what}", by_hand)
        if one.status == "complete" and one.values is None:
            yield _error(f"trial {one.trial} {where} is complete, but has no values", by_hand)
        if (one.status == "paused" or (one.status == "running" and one.epochs)) and (
            one.checkpoint is None
        ):
            yield _error(
                f"trial {one.trial} {where} stands at epoch {one.epochs} without a checkpoint",
                by_hand,
            )


def _of_trials(
    record: StudyRecord, candidates: Sequence[CandidateRecord], known: Sequence[FrozenTrial]
) -> Iterator[Finding]:
    """Compares our rows with Optuna's trials."""
    where = f"of the study {record.name!r}"
    theirs = {trial.number: trial for trial in known}
    by_hand = "another program changed the study; restore a copy of the database"
    for one in candidates:
        trial = theirs.pop(one.trial, None)
        if trial is None:
            yield _error(f"Optuna has no trial {one.trial} {where}", by_hand)
            continue
        expected = STATES.get(one.status)
        if expected is not None and not trial.state.is_finished():
            yield _warning(f"Optuna was not told how trial {one.trial} {where} ended", _RESUME)
        elif trial.state.is_finished() and trial.state != expected:
            state = trial.state.name.lower()
            yield _error(f"trial {one.trial} {where} is {one.status}, for Optuna {state}", by_hand)
        elif one.status == "complete" and trial.values != list((one.values or {}).values()):
            yield _error(
                f"trial {one.trial} {where} has the values {one.values}, for Optuna {trial.values}",
                by_hand,
            )
    # A trial that failed before it got a candidate is what a healed crash leaves.
    for number in sorted(number for number, trial in theirs.items() if trial.values):
        yield _error(f"trial {number} {where} was added by another program", by_hand)


def _of_work(connection: sa.Connection, record: StudyRecord, watcher: Watcher) -> Iterator[Finding]:
    """Looks at leases and legs."""
    name = record.name
    alive = workers.living(connection, name, watcher)
    held = workers.locked_study(connection, name)
    if held is not None and held.planner is not None and held.planner not in alive:
        yield _warning(f"the planner {held.planner} of the study {name!r} is dead", _RESUME)
    seen: dict[int, int] = {}
    for leg in legs.read_legs(connection, name, "open"):
        if leg.worker not in alive and leg.worker not in workers.left(connection, name):
            what = f"leg {leg.number} of the study {name!r} is open, but {leg.worker} is dead"
            yield _warning(what, "the command resume goes on with it")
        for trial in leg.trials:
            if trial in seen:
                yield _error(
                    f"trial {trial} of the study {name!r} is in the legs {seen[trial]} and {leg.number}",
                    "the database was changed by hand; restore a copy",
                )
            seen[trial] = leg.number


def _interrupted(connection: sa.Connection, name: str, trials: Collection[int]) -> set[int]:
    """Returns those of the trials in training that wait for `resume` since their worker left as it should."""
    left = workers.left(connection, name)
    open_legs = legs.read_legs(connection, name, "open")
    waiting = {trial for leg in open_legs if leg.worker in left for trial in leg.trials}
    if left:  # somebody has worked on it
        waiting |= set(trials) - {trial for leg in open_legs for trial in leg.trials}
    return waiting


def _in_order(connection: sa.Connection, name: str) -> Finding:
    """Returns that nothing is wrong with a study, and what `resume` goes on with if it was interrupted."""
    left = workers.left(connection, name)
    numbers = [leg.number for leg in legs.read_legs(connection, name, "open") if leg.worker in left]
    what = f"the study {name!r} is in order"
    if numbers:
        what += (
            f"; it was interrupted in leg {_few(numbers)}, with which the command resume goes on"
        )
    return Finding(level="ok", what=what)


def _of_front(connection: sa.Connection, record: StudyRecord) -> Iterator[Finding]:
    table = tables.front
    rows = connection.execute(
        sa.select(table.c.trial_number, table.c.values_json)
        .where(table.c.study_name == record.name)
        .order_by(table.c.place)
    ).all()
    stored = [(row[0], from_text(dict[str, float], row[1])) for row in rows]
    computed = [
        (row["trial_number"], from_text(dict[str, float], row["values_json"]))
        for row in fronts.computed_front(connection, record)
    ]
    if stored != computed:
        yield _warning(
            f"the stored front of the study {record.name!r} has the trials "
            f"{_few([one[0] for one in stored])}; it should have {_few([one[0] for one in computed])}",
            _RESUME,
        )


def _few(numbers: Sequence[int]) -> str:
    text = ", ".join(map(str, numbers[:20])) or "none"
    return f"{text} and {len(numbers) - 20} more" if len(numbers) > 20 else text


def _error(what: str, how_to_mend: str) -> Finding:
    return Finding(level="error", what=what, how_to_mend=how_to_mend)


def _warning(what: str, how_to_mend: str) -> Finding:
    return Finding(level="warning", what=what, how_to_mend=how_to_mend)
