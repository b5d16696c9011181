"""A study in memory for a sampler to look at, quickly made of many trials.

Optuna makes a deep copy of every trial that it is given, which takes longer than all else that it does with it. Here
nobody changes a trial, so a shallow copy does, and a trial that stood in an earlier shadow is not made again.
"""

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import optuna
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from dynamoe_search.store import quiet_optuna


class Stands:
    """Trials that stood in shadows, by a number, each with what it was made of."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[object, FrozenTrial]] = {}

    def trial(self, number: int, made_of: object, make: Callable[[], FrozenTrial]) -> FrozenTrial:
        """Returns the trial of a number, made anew unless it is there and made of the same object.

        Args:
            number: Which one.
            made_of: What `make` makes it of; nobody changes it.
            make: Returns the trial.
        """
        before = self._made.get(number)
        if before is not None and before[0] is made_of:
            return before[1]
        trial = _Standing.of(make())
        self._made[number] = made_of, trial
        return trial


class Shadow:
    """A study in memory.

    Args:
        directions: Of its objectives.

    Attributes:
        study: For a sampler to look at.
        kinds: A study with the first complete trial of each set of settings that occur together.
    """

    def __init__(self, directions: Sequence[Literal["maximize", "minimize"]]) -> None:
        self._storage = InMemoryStorage()
        with quiet_optuna():
            self.study: Study = optuna.create_study(
                storage=self._storage, study_name="shadow", directions=directions
            )
            self.kinds: Study = optuna.create_study(directions=directions)
        self._id = self._storage.get_study_id_from_name("shadow")
        self._seen: set[frozenset[str]] = set()

    def add(self, trial: FrozenTrial) -> None:
        """Adds a trial, whose parameters nobody checks again."""
        self._storage.create_new_trial(self._id, trial)
        if (
            trial.state == TrialState.COMPLETE
            and (kind := frozenset(trial.params)) not in self._seen
        ):
            self._seen.add(kind)
            self.kinds.add_trial(trial)
            self.kinds = copy.copy(self.kinds)  # the other may remember which trials it had


class _Standing(FrozenTrial):
    """A trial that nobody changes."""

    @classmethod
    def of(cls, trial: FrozenTrial) -> "_Standing":
        """Returns the same trial as one that nobody changes."""
        return cls(
            number=trial.number,
            trial_id=trial.number,
            state=trial.state,
            value=None,
            values=trial.values,
            datetime_start=trial.datetime_start,
            datetime_complete=trial.datetime_complete,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=trial.user_attrs,
            system_attrs=trial.system_attrs,
            intermediate_values=trial.intermediate_values,
        )

    @cached_property
    def constraints(self) -> dict[str, float]:
        """What was violated by how much; TPE asks for it again and again."""
        return super().constraints

    def __deepcopy__(self, _: dict[int, Any]) -> "_Standing":
        same = object.__new__(_Standing)
        vars(same).update(vars(self))
        return same
