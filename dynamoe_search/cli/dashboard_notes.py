"""Notes that optuna-dashboard shows: what a study is about, and of candidates what Optuna has no place for."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict

from optuna.exceptions import StorageInternalError
from optuna.study import Study
from optuna.trial import Trial
from optuna_dashboard import get_note, save_note

from dynamoe_search.cli.words import cell, printable
from dynamoe_search.errors import StorageError
from dynamoe_search.records import CandidateRecord, StudyRecord
from dynamoe_search.store import Store, quiet_optuna

MOST_TRIALS = 300
"""So many trials get a note: the front first, then failures, then the pruned; Optuna reads all notes at once."""

_HOW_MEASURED = (
    "The values are measured on the validation part, by one seed. "
    "The front was chosen by them, so it flatters its members."
)


class NoteWriter:
    """Writes the notes that are missing; what somebody wrote stays.

    Args:
        store: The open database.
        name: The study.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._notes = store.notes(
            name
        )  # tells in a sentence if Optuna's part of the study is missing
        self._storage = storage = store.storage_for_optuna()
        self.study_id = storage.get_study_id_from_name(name)
        with quiet_optuna():
            self._study = Study(study_name=name, storage=storage)
        self._known: set[int] = set()

    def write(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Writes notes on the study and on candidates that have none yet, if the database can be written.

        Args:
            should_stop: Asked before every note.
        """
        with quiet_optuna(), suppress(StorageError, StorageInternalError):
            if not get_note(self._study):
                save_note(self._study, study_note(self._store.study(self._name), self._notes))
            for trial in self._trials():
                if should_stop():
                    return
                self._write_on(trial)

    def _trials(self) -> Iterator[int]:
        wanted = {one.trial: None for one in self._store.front(self._name)}
        for status in ("failed", "stopped"):
            standings = self._store.standings(self._name, status=(status,))
            wanted |= {one.trial: None for one in reversed(standings)}
        for trial in list(wanted)[:MOST_TRIALS]:
            if trial not in self._known:
                yield trial

    def _write_on(self, number: int) -> None:
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self.study_id, number)
        trial = Trial(self._study, trial_id)
        if not get_note(trial):
            save_note(trial, trial_note(self._name, self._store.candidate(self._name, number)))
        self._known.add(number)


def study_note(record: StudyRecord, notes: Sequence[str]) -> str:
    """Returns what a study is about, as Markdown.

    Args:
        record: The study.
        notes: What was worth knowing when it was created.
    """
    goals = ", ".join(
        f"{name} ({'up' if up else 'down'})"
        for name, up in zip(record.objectives, record.maximise, strict=True)
    )
    known = "\n".join(f"- {_code(note)}" for note in notes)
    lines = [
        f"From {_code(record.source)}, on {_code(record.settings.device)}.",
        f"Objectives: {goals}.",
        _HOW_MEASURED,
        *([known] if known else []),
        _commands(("front", record.name), ("report", record.name), ("watch", record.name)),
    ]
    return "\n\n".join(lines)


def trial_note(name: str, record: CandidateRecord) -> str:
    """Returns what is known of a candidate, as Markdown."""
    candidate, outcome = record.candidate, record.outcome
    facts = {
        "reference": candidate.reference,
        "experts per layer": record.experts_per_layer,
        "schedule": candidate.schedule.shape,
        "router": {key: one for key, one in asdict(candidate.router).items() if one is not None},
        "mean K per layer": tuple(one.mean_k for one in outcome.routing) if outcome else (),
        "epochs": record.epochs or (outcome.epochs if outcome else 0),
    }
    told = [f"- {key}: {_code(cell(value))}" for key, value in facts.items() if value]
    parts = ["\n".join(told)]
    if record.message:
        parts = [f"**{record.status}** ({record.reason})", _block(record.message), *parts]
    parts.append(_commands(("show", name, str(record.trial))))
    return "\n\n".join(parts)


def _commands(*commands: Sequence[str]) -> str:
    return _block("\n".join(shlex.join(["dynamoe-search", *words]) for words in commands))


def _code(text: str) -> str:
    """Returns text of unknown origin as code, in which Markdown means nothing."""
    harmless = printable(text).replace("`", "'")
    return f"`{harmless}`"


def _block(text: str) -> str:
    """Returns lines of unknown origin as a block of code."""
    return "\n".join(f"    {line}" for line in printable(text, lines=True).splitlines())
