"""What a process has read of a study's candidates before, so that it reads only what can have changed since.

A candidate that is over (complete, failed or stopped) never changes again, and nobody deletes one without its study.
So it is read once. All others are read again every time, and the number of those that are over is counted by the
database: if it is not the number known, some were proposed and finished by others in the meantime, or the file was
restored from a copy. It is counted after all that is compared with it was read: who ended between two statements then
makes the numbers differ, and cannot make up for one who is missing. A process that knows nothing yet therefore sees
exactly what one sees that has run for days.
"""

from collections.abc import Collection

import sqlalchemy as sa

from dynamoe_search.records import Standing
from dynamoe_search.store import candidate_rows, reading, tables

OPEN = ("paused", "running")
"""Status of the candidates that can change."""


class Ledger:
    """Where the candidates of one study stand."""

    def __init__(self) -> None:
        self._made_at: str | None = None
        self._over: dict[int, Standing] = {}
        self._open: dict[int, Standing] = {}

    def standings(self, connection: sa.Connection, name: str) -> list[Standing]:
        """Returns where every candidate of the study stands now, by trial number.

        A candidate that is over is the same object every time.

        Args:
            connection: In a transaction.
            name: The study, always the same.
        """
        self._look(connection, name)
        found = self._over | self._open
        return [found[trial] for trial in sorted(found)]

    def over(self, connection: sa.Connection, name: str) -> dict[int, Standing]:
        """Returns where those stand that are over now, by trial number; to be read only."""
        self._look(connection, name)
        return self._over

    def _look(self, connection: sa.Connection, name: str) -> None:
        self._forget_another(connection, name)
        now = {one.trial: one for one in candidate_rows.read_standings(connection, name, OPEN)}
        if not self._over.keys().isdisjoint(now):
            self._over = {}  # the file was restored
        ended = self._open.keys() - now.keys()
        if ended:
            self._add(candidate_rows.read_standings(connection, name, trials=ended))
        number = _num_over(connection, name)  # last: on PostgreSQL others may end meanwhile
        if len(self._over) < number and self._over:
            self._add(candidate_rows.read_standings(connection, name, above=max(self._over)))
            number = _num_over(connection, name)
        if len(self._over) != number:
            self._over = {}
            self._add(candidate_rows.read_standings(connection, name))
        self._open = {trial: one for trial, one in now.items() if trial not in self._over}

    def _add(self, found: Collection[Standing]) -> None:
        self._over |= {one.trial: one for one in found if one.status not in OPEN}

    def _forget_another(self, connection: sa.Connection, name: str) -> None:
        """Forgets a study of the same name that was deleted since."""
        made_at = reading.read_made_at(connection, name)
        if made_at != self._made_at:
            self._made_at, self._over, self._open = made_at, {}, {}


def _num_over(connection: sa.Connection, name: str) -> int:
    here = tables.candidates.c
    query = sa.select(sa.func.count()).where(here.study_name == name, here.status.not_in(OPEN))
    return int(connection.execute(query).scalar_one())
