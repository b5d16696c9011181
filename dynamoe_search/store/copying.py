"""The method of `Store` that copies a study, with all that belongs to it, to another database."""

import shutil
from dataclasses import replace
from typing import Any

import optuna
import sqlalchemy as sa

from dynamoe_search.errors import StorageError, UsageError
from dynamoe_search.places import AnyPath, copy_tree
from dynamoe_search.store import reading, tables
from dynamoe_search.store.optuna_studies import quiet_optuna
from dynamoe_search.store.runs import this_process
from dynamoe_search.store.studies import StudyMethods
from dynamoe_search.store.texts import to_text, utc_now


class CopyMethods(StudyMethods):
    """A part of `Store`."""

    def copy_study(self, name: str, target: StudyMethods) -> list[str]:
        """Copies a study and those that were made from it: our rows, Optuna's study, checkpoints and weights.

        In the target a study counts as being deleted until all of it is there, so that a copy that was cut short is
        never taken for a study. The source is not changed.

        Args:
            name: The study.
            target: Another database, of any kind.

        Returns:
            The names of the studies that were copied.

        Raises:
            StorageError: Files cannot be copied.
            UsageError: There is no such study, somebody works on it, or the target is the database that it is in or has
                one of its name.
        """
        if target.url == self.url:  # not "delete that one first", which would be the study itself
            raise UsageError(f"the study {name!r} is in {self.url} already; name another database")
        names = [name, *self.children(name)]
        for one in names:
            self._refuse_unless_idle(one)
            target.refuse_taken(one)
        for one in names:
            state = self.study(one).state
            self._copy_rows(one, target)
            with quiet_optuna():
                optuna.copy_study(
                    from_study_name=one,
                    from_storage=self.storage_for_optuna(),
                    to_storage=target.storage_for_optuna(),
                )
            _copy_files(self.files_of(one), target.files_of(one))
            target._update(one, state=state, files_json=self._mark_of_copy(one, target))
        return names

    def _mark_of_copy(self, name: str, target: StudyMethods) -> str | None:
        """Returns where the files of a copy are, to be found by all who run it; None if they were not here to copy."""
        mark = self._query(name, lambda found: reading.read_files_mark(found, name))
        place = target.files_of(name)
        if mark is None or not (place / mark.file).exists():
            return None
        return to_text(replace(mark, host=this_process().host, place=str(place)))

    def _refuse_unless_idle(self, name: str) -> None:
        alive = [worker for worker in self.workers(name) if worker.is_alive]
        if alive:
            raise UsageError(
                f"process {alive[0].pid} on {alive[0].host} works on the study {name!r}; stop it before copying"
            )
        if self.study(name).state == "deleting":
            raise UsageError(f"the study {name!r} is being deleted and cannot be copied")

    def _copy_rows(self, name: str, target: StudyMethods) -> None:
        """Copies all of our rows in one transaction; leases are closed, as nobody works on the copy."""
        copied = [table for table in tables.metadata.sorted_tables if "study_name" in table.c]

        def read(found: sa.Connection) -> list[list[dict[str, Any]]]:
            return [
                [
                    dict(row)
                    for row in found.execute(
                        sa.select(table).where(table.c.study_name == name)
                    ).mappings()
                ]
                for table in copied
            ]

        everything = self._database.query(read)

        def write(found: sa.Connection) -> None:
            for table, rows in zip(copied, everything, strict=True):
                for row in rows:
                    if (
                        table is tables.studies
                    ):  # where its files are is said by whoever runs it first
                        row |= {"state": "deleting", "planner": None, "files_json": None}
                    elif table is tables.workers:
                        row["left_at"] = row["left_at"] or utc_now()
                if rows:
                    found.execute(table.insert(), rows)

        target._database.transact(write, is_lasting=True)


def _copy_files(folder: AnyPath, copy: AnyPath) -> None:
    if folder.is_symlink() or not folder.is_dir():
        return
    try:
        copy_tree(folder, copy)
    except (OSError, shutil.Error) as error:
        raise StorageError(
            f"the files in {folder} cannot be copied to {copy} ({error}); "
            "delete the half copy of the study there, then copy again"
        ) from error
