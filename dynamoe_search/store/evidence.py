"""What designed studies found out: results on the test part, and evidence beside the metrics."""

from collections.abc import Sequence

import sqlalchemy as sa

from dynamoe_search.records import Evidence, TestResult
from dynamoe_search.store import tables
from dynamoe_search.store.opening import OpenStore
from dynamoe_search.store.texts import column, from_text, number, to_text, utc_now


class EvidenceMethods(OpenStore):
    """A part of `Store`."""

    def add_tests(self, name: str, results: Sequence[TestResult]) -> None:
        """Stores results on the test part; one of the same trial replaces the older one."""
        if results:
            self._database.transact(lambda found: _upsert_tests(found, name, results))

    def tests(self, name: str) -> list[TestResult]:
        """Returns the results of a study on the test part, by trial number."""
        return self._query(name, lambda found: _read_tests(found, name))

    def add_evidence(self, name: str, trial: int, kind: str, content_json: str) -> None:
        """Stores what a run found out; evidence of the same kind on the same trial is replaced.

        Args:
            name: The study.
            trial: The trial that it is of.
            kind: What it says, as a stable word of at most 80 characters.
            content_json: JSON text.
        """
        self._database.transact(
            lambda found: _upsert_evidence(found, name, trial, kind, content_json)
        )

    def evidence(self, name: str, kind: str | None = None) -> list[Evidence]:
        """Returns the evidence of a study, all or of one kind, by trial number and kind."""
        return self._query(name, lambda found: _read_evidence(found, name, kind))


def _upsert_tests(connection: sa.Connection, name: str, results: Sequence[TestResult]) -> None:
    table = tables.tests
    latest = {one.trial: one for one in results}
    connection.execute(
        table.delete().where(table.c.study_name == name, table.c.trial_number.in_(sorted(latest)))
    )
    now = utc_now()
    connection.execute(
        table.insert(),
        [
            {
                "study_name": name,
                "trial_number": one.trial,
                "examples": one.examples,
                "accuracy": column(one.accuracy),
                "loss": column(one.loss),
                "activated_params": column(one.activated_params),
                "mean_k_json": to_text(list(one.mean_k)),
                "measured_at": now,
            }
            for one in latest.values()
        ],
    )


def _read_tests(connection: sa.Connection, name: str) -> list[TestResult]:
    table = tables.tests
    query = sa.select(table).where(table.c.study_name == name).order_by(table.c.trial_number)
    return [
        TestResult(
            trial=row.trial_number,
            examples=row.examples,
            accuracy=number(row.accuracy),
            loss=number(row.loss),
            activated_params=number(row.activated_params),
            mean_k=from_text(tuple[float, ...], row.mean_k_json),
            measured_at=row.measured_at,
        )
        for row in connection.execute(query)
    ]


def _upsert_evidence(
    connection: sa.Connection, name: str, trial: int, kind: str, content_json: str
) -> None:
    table = tables.evidence
    connection.execute(
        table.delete().where(
            table.c.study_name == name, table.c.trial_number == trial, table.c.kind == kind
        )
    )
    connection.execute(
        table.insert().values(
            study_name=name,
            trial_number=trial,
            kind=kind,
            content_json=content_json,
            made_at=utc_now(),
        )
    )


def _read_evidence(connection: sa.Connection, name: str, kind: str | None) -> list[Evidence]:
    table = tables.evidence
    query = sa.select(table).where(table.c.study_name == name)
    if kind is not None:
        query = query.where(table.c.kind == kind)
    return [
        Evidence(
            trial=row.trial_number,
            kind=row.kind,
            content_json=row.content_json,
            made_at=row.made_at,
        )
        for row in connection.execute(query.order_by(table.c.trial_number, table.c.kind))
    ]
