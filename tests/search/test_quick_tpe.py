"""TPE that keeps what it has worked out draws what Optuna's own draws, to the last bit."""

import gc
import random
import weakref
from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import BaseTrial, FrozenTrial, TrialState, create_trial

from dynamoe_search.search import quick_tpe
from dynamoe_search.search.distributions import suggest_from, value_at
from dynamoe_search.search.samplers import GroupedTPESampler
from dynamoe_search.search.sampling import Proposer
from dynamoe_search.search.shadows import Shadow
from dynamoe_search.search.space import Space
from dynamoe_search.store import quiet_optuna
from tests.search.proposing import conditional_spec

Direction = Any
COMMON: dict[str, BaseDistribution] = {
    "kind": CategoricalDistribution(("plain", "wide", None)),
    "width": IntDistribution(1, 64, log=True),
    "rate": FloatDistribution(1e-4, 1e-1, log=True),
}
OF_KIND: dict[str | None, dict[str, BaseDistribution]] = {
    "plain": {
        "share": FloatDistribution(0.0, 1.0),
        "decay": FloatDistribution(1e-3, 10.0, log=True),
        "ramp": FloatDistribution(-3.0, 3.0, step=0.25),
    },
    "wide": {
        "k": IntDistribution(0, 12, step=3),
        "is_even": CategoricalDistribution((False, True)),
        **{name: FloatDistribution(-1.0, 1.0) for name in ("x", "y", "z")},
    },
    None: {},
}
OPTIONS: dict[str, Any] = {"n_startup_trials": 4, "multivariate": True, "constant_liar": True}
STATES = (TrialState.COMPLETE, TrialState.COMPLETE, TrialState.RUNNING)


def design(trial: BaseTrial) -> dict[str, Any]:
    """Returns values of the settings that occur together."""
    found = {name: suggest_from(trial, name, kind) for name, kind in COMMON.items()}
    own = OF_KIND[found["kind"]]
    return found | {name: suggest_from(trial, name, kind) for name, kind in own.items()}


def running(params: dict[str, Any]) -> FrozenTrial:
    return create_trial(state=TrialState.RUNNING, params=params, distributions=of(params))


def of(params: dict[str, Any]) -> dict[str, BaseDistribution]:
    return {name: (COMMON | OF_KIND[params["kind"]])[name] for name in params}


def made_up(luck: random.Random, num_objectives: int, states: Sequence[TrialState]) -> FrozenTrial:
    """Returns a trial with values at the ends of ranges, and the same values in several trials, now and then."""

    def fraction() -> float:
        return luck.choice([0.0, 1.0 - 1e-16, 0.5, luck.random(), luck.random()])

    params = {name: value_at(one, fraction()) for name, one in COMMON.items()}
    params |= {name: value_at(one, fraction()) for name, one in OF_KIND[params["kind"]].items()}
    state = luck.choice(states)
    if state == TrialState.RUNNING:
        return running(params)
    values = [luck.choice([0.0, 1.0, luck.gauss(0, 1)]) for _ in range(num_objectives)]
    return create_trial(
        state=state,
        params=params,
        distributions=of(params),
        values=values if state == TrialState.COMPLETE else None,
        constraints={"small": luck.choice([-1.0, 0.0, luck.gauss(0, 1)])},
    )


class Pair:
    """A study for Optuna's sampler and a shadow for ours, told of the same trials."""

    def __init__(self, directions: Sequence[Direction]) -> None:
        self.plain = optuna.create_study(directions=directions)
        self.shadow = Shadow(directions)
        self.memory = quick_tpe.Memory()

    def add(self, trial: FrozenTrial) -> None:
        self.plain.add_trial(trial)
        self.shadow.add(trial)

    def drawn(self, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns a draw of each."""
        ours = GroupedTPESampler(self.shadow.kinds, self.memory, **OPTIONS)
        ours.seed(seed)
        self.shadow.study.sampler = ours
        self.plain.sampler = TPESampler(group=True, seed=seed, **OPTIONS)
        return drawn_from(self.plain), drawn_from(self.shadow.study)


def drawn_from(study: Study) -> dict[str, Any]:
    trial = study.ask()
    params = design(trial)
    study.tell(trial, state=TrialState.FAIL)
    return params


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.sampled_from(["minimize", "maximize"]), min_size=1, max_size=3),
    st.lists(st.integers(0, 30), min_size=1, max_size=3),
)
def test_draws_are_those_of_optuna(
    seed: int, directions: list[Direction], batches: list[int]
) -> None:
    luck = random.Random(seed)
    with quiet_optuna():
        pair = Pair(directions)
        for batch in batches:
            for _ in range(batch):
                pair.add(made_up(luck, len(directions), STATES))
            for draw in range(3):
                theirs, ours = pair.drawn(seed + draw)
                assert ours == theirs
                pair.add(running(ours))


@pytest.mark.parametrize("number", [130, 2500])
def test_draws_of_large_studies_are_those_of_optuna(number: int) -> None:
    """Optuna computes in another way from 2,000 numbers on, and widths have a lower end from 100 on."""
    luck = random.Random(number)
    with quiet_optuna():
        pair = Pair(["maximize", "minimize"])
        for _ in range(number):
            pair.add(made_up(luck, 2, STATES[:2]))
        for draw in range(6):
            theirs, ours = pair.drawn(draw)
            assert ours == theirs
            pair.add(running(ours))


def test_densities_are_those_of_optuna_to_the_last_bit() -> None:
    luck = random.Random(5)
    with quiet_optuna():
        pair = Pair(["maximize", "minimize"])
        own = TPESampler(group=True, seed=1, **OPTIONS)
        trials = [made_up(luck, 2, (TrialState.COMPLETE,)) for _ in range(300)]
    for group in (COMMON, *list(OF_KIND.values())[:2]):
        parameters = {name: group[name] for name in sorted(group)}
        estimator = own._build_parzen_estimator(pair.plain, parameters, trials, handle_below=False)
        points = estimator.sample(own._rng.rng, 50)
        ours, theirs = quick_tpe.Density(estimator).at(points), estimator.log_pdf(points)
        assert ours.tobytes() == theirs.tobytes()


def test_points_beyond_an_end_have_the_density_that_optuna_gives_them() -> None:
    with quiet_optuna():
        pair = Pair(["maximize"])
        own = TPESampler(group=True, seed=1, **OPTIONS)
        trials = [made_up(random.Random(3), 1, (TrialState.COMPLETE,)) for _ in range(9)]
    group = {"rate": COMMON["rate"]}
    estimator = own._build_parzen_estimator(pair.plain, group, trials, handle_below=True)
    points = estimator.sample(own._rng.rng, 8)
    points["rate"][3] = 0.1001
    ours, theirs = quick_tpe.Density(estimator).at(points), estimator.log_pdf(points)
    assert ours.tobytes() == theirs.tobytes()
    assert ours[3] == -float("inf")


def test_the_optuna_that_was_read_is_known() -> None:
    """Any other may be as well, if its files are the same."""
    assert quick_tpe.is_known() or optuna.__version__ != "5.0.0"


def test_nothing_is_kept_when_a_proposer_is_gone() -> None:
    proposer = Proposer(Space(conditional_spec("tpe")))
    for _ in range(4):
        assert proposer.propose() is not None
    shadow = weakref.ref(proposer._shadow)
    sampler = weakref.ref(proposer._shadow.study.sampler)
    del proposer
    gc.collect()
    assert shadow() is None
    assert sampler() is None
