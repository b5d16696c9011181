"""Optuna's trials: one per candidate, running until it is told how the candidate ended."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from dynamoe_search.records import Candidate
from dynamoe_search.store import optuna_rows, optuna_tables
from dynamoe_search.store.optuna_rows import End, KnownIds
from dynamoe_search.store.optuna_studies import OptunaStudies
from dynamoe_search.store.texts import counts_to_text

_FINISHED = optuna.exceptions.UpdateFinishedTrialError


@dataclass(frozen=True, kw_only=True, slots=True)
class Addition:
    """A candidate that will be trained.

    Attributes:
        candidate: What will be trained.
        params: Values of Optuna's parameters; plain numbers, strings and booleans.
        distributions: Their distributions.
        cohort: Which cohort the candidate belongs to, from 0.
        sampler_state: What the search needs to go on from here, as JSON can hold it.
    """

    candidate: Candidate
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    cohort: int
    sampler_state: Mapping[str, Any] = field(default_factory=dict)


class Trials:
    """The trials of Optuna's studies in our database.

    Args:
        studies: Optuna's studies in it.
    """

    def __init__(self, studies: OptunaStudies) -> None:
        self._studies = studies
        self._ids: defaultdict[str, KnownIds] = defaultdict(KnownIds)  # by study

    @cached_property
    def are_known(self) -> bool:
        """Whether Optuna's rows can be written with ours; otherwise its storage is asked, trial by trial."""
        storage = self._studies.storage
        with self._studies.guarded():
            return optuna_tables.is_known(storage)

    def insert(
        self, connection: sa.Connection, name: str, additions: Sequence["Addition"]
    ) -> list[int]:
        """Adds running trials within a transaction, if Optuna's tables are known; returns their numbers."""
        new = [_new_trial(one) for one in additions]
        numbers = optuna_rows.insert_trials(connection, name, new)
        if numbers is None:
            raise self._studies.forgotten(name)
        return numbers

    def finish(self, connection: sa.Connection, name: str, ends: Collection[End]) -> None:
        """Ends trials within a transaction, if Optuna's tables are known; those that are over stay as they are."""
        if not optuna_rows.finish_trials(connection, name, self._ids[name], ends):
            raise self._studies.forgotten(name)

    def add(
        self, study: optuna.Study, additions: Sequence["Addition"], left: Collection[int]
    ) -> list[int]:
        """Returns the numbers of the running trials of candidates, each added by Optuna's storage on its own.

        Args:
            study: Optuna's study.
            additions: What will be trained.
            left: Numbers of the running trials that a crash left behind; one that is meant is taken.
        """
        with self._studies.guarded(study.study_name):
            storage = self._studies.storage
            study_id = storage.get_study_id_from_name(study.study_name)
            ids = [
                storage.get_trial_id_from_study_id_trial_number(study_id, number)
                for number in sorted(left)
            ]
            found = {trial_id: storage.get_trial(trial_id) for trial_id in ids}
            made = [self._trial_of(study, study_id, one, found) for one in additions]
            with self._studies.database.read() as connection:
                numbers = optuna_rows.numbers_of(connection, made)
            return [numbers[trial_id] for trial_id in made]

    def _trial_of(
        self, study: optuna.Study, study_id: int, one: Addition, left: Mapping[int, FrozenTrial]
    ) -> int:
        """Returns Optuna's id of a running trial: of one that a crash left behind, or of a new one."""
        found: int | None = None
        for trial_id, trial in left.items():
            if trial.user_attrs.get("ordinal") != one.candidate.ordinal or found is not None:
                continue
            if trial.params == dict(one.params):
                found = trial_id
            else:
                self.discard(study, trial.number)
        if found is not None:
            return found
        return self._studies.storage.create_new_trial(study_id, _new_trial(one))

    def ids(self, study: optuna.Study, numbers: Collection[int]) -> dict[int, int]:
        """Returns Optuna's ids of trials by number."""
        with self._studies.guarded(study.study_name):
            study_id = self._studies.storage.get_study_id_from_name(study.study_name)
            with self._studies.database.read() as connection:
                return optuna_rows.ids_of(connection, study_id, numbers)

    def tell(self, study: optuna.Study, trial_id: int, end: End) -> None:
        """Has Optuna's storage finish a trial; does nothing if it is finished already.

        Args:
            study: Optuna's study.
            trial_id: Optuna's id of the trial.
            end: How it ended.
        """
        values = None if end.values is None else list(end.values)
        with (
            self._studies.guarded(study.study_name),
            suppress(_FINISHED),  # by another process, or by this one before
        ):
            self._describe(trial_id, end)
            self._studies.storage.set_trial_state_values(trial_id, end.state, values)

    def _describe(self, trial_id: int, end: End) -> None:
        """Stores what Optuna's samplers and the dashboard read beside the values."""
        for key, value in end.system_attrs.items():
            self._studies.storage.set_trial_system_attr(trial_id, key, value)
        for key, value in end.user_attrs.items():
            self._studies.storage.set_trial_user_attr(trial_id, key, value)

    def discard(self, study: optuna.Study, number: int) -> None:
        """Fails a trial that no candidate belongs to."""
        with self._studies.guarded(study.study_name), suppress(_FINISHED):
            study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def fail(self, connection: sa.Connection, trial_ids: Collection[int]) -> None:
        """Fails running trials within a transaction of ours; those that another program made stay."""
        optuna_rows.fail_trials(connection, trial_ids, mark="ordinal")

    def forget(self, name: str) -> None:
        """Forgets the ids of a study's trials, since it is gone."""
        self._ids.pop(name, None)

    def running(self, study: optuna.Study) -> frozenset[int]:
        """Returns the numbers of the trials that Optuna calls running."""
        with self._studies.guarded(study.study_name):
            study_id = self._studies.storage.get_study_id_from_name(study.study_name)
            with self._studies.database.read() as connection:
                return optuna_rows.running(connection, study_id)


def _new_trial(one: Addition) -> FrozenTrial:
    candidate = one.candidate
    return optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=dict(one.params),
        distributions=dict(one.distributions),
        user_attrs={
            "ordinal": candidate.ordinal,
            "cohort": one.cohort,
            "reference": candidate.reference,
            "router": candidate.router.kind,
            "schedule": candidate.schedule.shape,
            "experts_per_layer": counts_to_text(candidate.experts_per_layer),
        },
    )
