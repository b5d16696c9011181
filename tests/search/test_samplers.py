"""TPE that sees one trial of each kind draws what Optuna's own draws."""

from functools import partial
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, create_trial

from dynamoe_search.search.samplers import GroupedTPESampler
from dynamoe_search.search.sampling import Proposer
from dynamoe_search.search.shadows import Shadow, Stands
from dynamoe_search.search.space import Space, suggest
from dynamoe_search.store import quiet_optuna
from tests.search.proposing import conditional_spec

SPEC = conditional_spec("tpe")
SPACE = Space(SPEC)
OPTIONS: dict[str, Any] = {"n_startup_trials": 4, "multivariate": True, "constant_liar": True}


def told(study: Study) -> list[FrozenTrial]:
    """Returns designs with made-up values; each third is on its way."""
    found = []
    for number in range(24):
        trial = study.ask()
        params = suggest(trial, SPEC)
        is_running = number % 3 == 2
        found.append(
            create_trial(
                state=optuna.trial.TrialState.RUNNING if is_running else _COMPLETE,
                params=params,
                distributions=SPACE.distributions_of(params),
                values=None if is_running else [number / 24, float(params["schedule.max_experts"])],
                constraints=None if is_running else {"max_total_params": number - 20.0},
            )
        )
    return found


_COMPLETE = optuna.trial.TrialState.COMPLETE


@settings(max_examples=12)
@given(st.integers(0, 1000), st.integers(0, 24))
def test_draws_are_those_of_optuna(seed: int, number: int) -> None:
    with quiet_optuna():
        random = optuna.create_study(
            directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed)
        )
        trials = told(random)[:number]
        plain = optuna.create_study(
            directions=["maximize", "minimize"],
            sampler=TPESampler(group=True, seed=seed, **OPTIONS),
        )
        shadow = Shadow(["maximize", "minimize"])
        stands = Stands()
        for place, trial in enumerate(trials):
            plain.add_trial(trial)
            shadow.add(stands.trial(place, trial, partial(_same, trial)))
        for _ in range(3):
            shadow.study.sampler = GroupedTPESampler(shadow.kinds, seed=seed, **OPTIONS)
            plain.sampler = TPESampler(group=True, seed=seed, **OPTIONS)
            assert drawn(shadow.study.ask()) == drawn(plain.ask())
        assert len(shadow.kinds.trials) <= len(SPACE.shapes) * len(SPACE.kinds)


def _same(trial: FrozenTrial) -> FrozenTrial:
    return trial


def drawn(trial: Trial) -> dict[str, object]:
    return suggest(trial, SPEC)


def test_trials_of_a_shadow_have_their_own_numbers_in_each() -> None:
    made = create_trial(params={}, distributions={}, values=[1.0, 2.0])
    stands = Stands()
    first, second = Shadow(["maximize", "minimize"]), Shadow(["maximize", "minimize"])
    first.add(stands.trial(0, made, lambda: made))
    second.add(create_trial(params={}, distributions={}, values=[3.0, 4.0]))
    second.add(stands.trial(0, made, lambda: pytest.fail("made twice")))
    assert [one.number for one in first.study.trials] == [0]
    assert [one.number for one in second.study.trials] == [0, 1]
    assert second.study.trials[1].values == [1.0, 2.0]


def test_a_proposer_with_stands_of_earlier_ones_proposes_the_same() -> None:
    stands = Stands()
    alone, helped = Proposer(SPACE), Proposer(SPACE, (), stands)
    for _ in range(6):
        assert alone.propose() == helped.propose()
