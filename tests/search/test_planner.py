"""The planner: whole studies are played through without training, by one worker and by many, some of whom die."""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamoe_search.pruning import Decision
from dynamoe_search.records import Leg, Standing
from dynamoe_search.search.planner import (
    Over,
    Position,
    Propose,
    Step,
    TakeOver,
    Train,
    Wait,
    most_in_leg,
    plan,
    rung_of,
)

EPOCHS = 9
RUNGS = (1, 2, 3, 5)

Judge = Callable[[Standing], bool]


def standing(ordinal: int, **changes: Any) -> Standing:
    given = {
        "trial": 100 + ordinal,
        "ordinal": ordinal,
        "cohort": 0,
        "status": "running",
        "epochs": 0,
        "checkpoint": None,
        "pack_key": "a",
        "reference": None,
    }
    return Standing(**(given | changes))


def decision(one: Standing, rung: int, goes: bool, behind: float = 0.5) -> Decision:
    return Decision(
        ordinal=one.ordinal,
        rung=rung,
        action="go" if goes else "pause",
        beaten=0,
        rivals=1,
        share=0.5,
        behind=behind,
        strongest=None,
        reason=None if goes else "beaten",
    )


@dataclass
class Game:
    """A study without training: legs are applied as they are planned."""

    trials: int = 20
    cohort_size: int = 4
    rungs: tuple[int, ...] = RUNGS
    max_epochs: int | None = None
    keys: tuple[str, ...] = ("a",)
    num_designs: int = 1000
    goes: Judge = field(default=lambda one: one.ordinal % 3 == 0)
    behind: Callable[[Standing], float] = field(default=lambda _: 0.5)
    candidates: dict[int, Standing] = field(default_factory=dict)
    legs: dict[int, Leg] = field(default_factory=dict)
    dead: set[int] = field(default_factory=set)
    is_exhausted: bool = False
    history: list[Leg] = field(default_factory=list)

    def position(self, rng: random.Random | None = None) -> Position:
        everybody = list(self.candidates.values())
        if rng is not None:
            rng.shuffle(everybody)
        decisions = {
            one.ordinal: decision(one, rung, self.goes(one), self.behind(one))
            for one in everybody
            if one.status == "paused" and (rung := rung_of(one.epochs, self.rungs))
        }
        return Position(
            candidates=everybody,
            rungs=self.rungs,
            epochs=EPOCHS,
            trials=self.trials,
            cohort_size=self.cohort_size,
            max_epochs=self.max_epochs,
            open_legs=tuple(self.legs.values()),
            dead=frozenset(self.dead),
            decisions=decisions,
            is_exhausted=self.is_exhausted,
        )

    def propose(self, step: Propose, limit: int | None = None) -> None:
        for _ in range(step.number if limit is None else min(limit, step.number)):
            ordinal = len(self.candidates)
            if ordinal >= self.num_designs:
                self.is_exhausted = True
                return
            key = self.keys[ordinal * 7 % len(self.keys)]
            self.candidates[100 + ordinal] = standing(ordinal, cohort=step.cohort, pack_key=key)

    def left_over(self, step: Train) -> list[int]:
        """Those who could have gone on with a leg."""
        busy = {trial for leg in self.legs.values() for trial in leg.trials} | set(step.trials)
        return [
            one.trial
            for one in self.candidates.values()
            if (one.epochs, one.pack_key) == (step.start, step.pack_key)
            and one.trial not in busy
            and (self.goes(one) or one.reference is not None or not step.start)
        ]

    def open(self, step: Train) -> Leg:
        members = [self.candidates[trial] for trial in step.trials]
        assert 0 < len(members) <= most_in_leg(self.cohort_size)
        if len(members) > self.cohort_size and self.max_epochs is None:
            assert not self.left_over(step)
        assert {one.epochs for one in members} == {step.start}
        assert {one.pack_key for one in members} == {step.pack_key}
        assert not {trial for leg in self.legs.values() for trial in leg.trials} & set(step.trials)
        assert step.start < step.end <= EPOCHS
        leg = Leg(
            number=len(self.history),
            trials=step.trials,
            start=step.start,
            end=step.end,
            pack_key=step.pack_key,
            worker="w",
        )
        self.history.append(leg)
        self.legs[leg.number] = leg
        return leg

    def close(self, leg: Leg) -> None:
        del self.legs[leg.number]
        self.dead.discard(leg.number)
        for trial in leg.trials:
            status = "complete" if leg.end == EPOCHS else "paused"
            self.candidates[trial] = replace(self.candidates[trial], epochs=leg.end, status=status)

    def play(self) -> Over:
        """Plays one worker to the end."""
        for _ in range(10_000):
            step = plan(self.position())
            if isinstance(step, Over):
                return step
            assert not isinstance(step, Wait | TakeOver)
            if isinstance(step, Propose):
                self.propose(step)
            else:
                self.close(self.open(step))
        raise AssertionError("it does not end")

    @property
    def spent(self) -> int:
        return sum(one.epochs for one in self.candidates.values())


def test_without_rungs_everybody_is_trained_to_the_end_cohort_by_cohort() -> None:
    game = Game(trials=10, rungs=())
    assert game.play() == Over(reason="trials")
    assert [(len(leg.trials), leg.start, leg.end) for leg in game.history] == [
        (4, 0, EPOCHS),
        (4, 0, EPOCHS),
        (2, 0, EPOCHS),
    ]
    assert [one.cohort for one in game.candidates.values()] == [0] * 4 + [1] * 4 + [2] * 2


def test_legs_are_whole_while_candidates_are_proposed() -> None:
    game = Game(trials=40)
    assert game.play() == Over(reason="trials")
    last_new = max(leg.number for leg in game.history if leg.start == 0)
    first = next(leg.number for leg in game.history if leg.end == EPOCHS)
    assert {len(leg.trials) for leg in game.history[first + 1 : last_new + 1]} <= {4, 5}
    assert any(leg.start for leg in game.history[first + 1 : last_new])
    complete = {one.ordinal for one in game.candidates.values() if one.status == "complete"}
    assert complete == set(range(0, 40, 3))
    paused = [one for one in game.candidates.values() if one.status == "paused"]
    assert {one.epochs for one in paused} == {1}


def test_a_few_who_would_be_left_over_join_the_leg_before() -> None:
    game = Game(trials=5, cohort_size=8, goes=lambda _: True)
    for ordinal in range(21):
        game.candidates[100 + ordinal] = standing(ordinal, status="paused", epochs=5)
    game.play()
    assert [len(leg.trials) for leg in game.history] == [8, 8, 5]
    for ordinal in range(18):
        game.candidates[100 + ordinal] = standing(ordinal, status="paused", epochs=5)
    game.history.clear()
    game.play()
    assert [len(leg.trials) for leg in game.history] == [8, 10]


def test_nobody_goes_on_while_there_are_few_rivals_to_judge_by() -> None:
    game = Game(trials=20, goes=lambda _: True)
    game.candidates[99] = standing(-1, status="complete", epochs=EPOCHS)
    for ordinal in range(10):
        game.candidates[100 + ordinal] = standing(ordinal, status="paused", epochs=1)
    assert plan(game.position()) == Propose(cohort=1, number=4)
    game.candidates[111] = standing(11, status="paused", epochs=1)
    assert isinstance(plan(game.position()), Train)


def test_a_new_rival_can_send_somebody_on_who_was_paused() -> None:
    game = Game(trials=8)
    game.goes = lambda _: len(game.candidates) == 8
    game.play()
    assert {one.status for one in game.candidates.values()} == {"complete"}


def test_references_always_go_on() -> None:
    game = Game(trials=4, goes=lambda _: False)
    game.propose(Propose(cohort=0, number=4))
    game.candidates[102] = replace(game.candidates[102], reference="dense")
    game.play()
    assert [one.trial for one in game.candidates.values() if one.status == "complete"] == [102]


def test_who_has_the_best_chance_goes_first() -> None:
    game = Game(trials=12, goes=lambda _: True, behind=lambda one: 1 / (1 + one.ordinal))
    for ordinal in range(12):
        game.candidates[100 + ordinal] = standing(ordinal, status="paused", epochs=1)
    game.trials = 20
    assert plan(game.position()) == Train(trials=(111,), start=1, end=2, pack_key="a")
    game.candidates[99] = standing(-1, status="complete", epochs=EPOCHS)
    step = plan(game.position())
    assert step == Train(trials=(108, 109, 110, 111), start=1, end=2, pack_key="a")


def test_references_and_the_best_of_the_first_cohort_are_complete_before_more_are_proposed() -> (
    None
):
    game = Game(
        trials=96, cohort_size=16, goes=lambda one: one.ordinal > 3 and one.ordinal % 2 == 0
    )
    game.behind = lambda one: -one.ordinal
    game.propose(Propose(cohort=0, number=16))
    for trial in range(100, 104):
        game.candidates[trial] = replace(game.candidates[trial], reference="dense")
    while not isinstance(step := plan(game.position()), Propose):
        assert isinstance(step, Train)
        game.close(game.open(step))
    assert [one.ordinal for one in game.candidates.values() if one.status == "complete"] == [
        *(0, 1, 2, 3),
        *(12, 14),
    ]
    assert {one.epochs for one in game.candidates.values()} == {1, EPOCHS}


def test_who_is_held_back_on_the_way_to_a_first_front_is_replaced() -> None:
    game = Game(trials=96, cohort_size=16)
    game.goes = lambda one: one.epochs == 1 or one.ordinal > 3
    game.behind = lambda one: one.ordinal
    game.propose(Propose(cohort=0, number=16))
    while not isinstance(step := plan(game.position()), Propose):
        assert isinstance(step, Train)
        game.close(game.open(step))
    ends = [(one.ordinal, one.epochs) for one in game.candidates.values() if one.epochs > 1]
    assert ends == [(0, 2), (1, 2), (2, 2), (3, 2), *((one, EPOCHS) for one in (4, 5, 6, 7))]


def test_others_propose_while_a_first_front_is_trained() -> None:
    game = Game(trials=96, cohort_size=16, goes=lambda _: True)
    game.propose(Propose(cohort=0, number=16))
    legs = [game.open(Train(trials=tuple(range(100, 116)), start=0, end=1, pack_key="a"))]
    assert plan(game.position()) == Propose(cohort=1, number=16)
    game.close(legs.pop())
    for end in (*RUNGS[1:], EPOCHS):
        step = plan(game.position())
        assert isinstance(step, Train)
        assert (len(step.trials), step.end) == (4, end)
        leg = game.open(step)
        assert isinstance(plan(game.position()), Propose)
        game.close(leg)
    assert isinstance(plan(game.position()), Propose)


def test_a_study_of_one_cohort_has_nobody_ahead() -> None:
    game = Game(trials=16, cohort_size=16, goes=lambda _: True)
    game.play()
    assert {len(leg.trials) for leg in game.history} == {16}


def test_a_cohort_that_was_half_proposed_is_filled_up_first() -> None:
    game = Game()
    step = plan(game.position())
    assert step == Propose(cohort=0, number=4)
    game.propose(step, limit=3)
    assert plan(game.position()) == Propose(cohort=0, number=1)
    game.is_exhausted = True
    assert plan(game.position()) == Train(trials=(100, 101, 102), start=0, end=1, pack_key="a")


def test_the_leg_of_a_dead_worker_is_taken_over_and_a_live_one_waited_for() -> None:
    game = Game(trials=4)
    game.propose(Propose(cohort=0, number=4))
    step = plan(game.position())
    assert isinstance(step, Train)
    leg = game.open(step)
    assert plan(game.position()) == Wait()
    game.dead = {leg.number}
    assert plan(game.position()) == TakeOver(leg=leg)


def test_a_space_without_new_designs_ends() -> None:
    game = Game(num_designs=6, goes=lambda _: True)
    assert game.play() == Over(reason="exhausted")
    assert {one.status for one in game.candidates.values()} == {"complete"}


def test_a_budget_without_rungs_pays_for_whole_candidates_only() -> None:
    game = Game(trials=10, rungs=(), max_epochs=EPOCHS * 5 + 4)
    assert game.play() == Over(reason="epochs")
    assert game.spent == EPOCHS * 5


@pytest.mark.parametrize("budget", [0, 1, EPOCHS - 1])
def test_a_budget_below_one_candidate_trains_nobody_without_rungs(budget: int) -> None:
    game = Game(trials=10, rungs=(), max_epochs=budget)
    assert game.play() == Over(reason="epochs")
    assert game.spent == 0
    assert not game.candidates
    game.max_epochs = EPOCHS
    assert game.play() == Over(reason="epochs")
    assert game.spent == EPOCHS


@pytest.mark.parametrize("budget", [1, 5, 9, 30, 61, 120])
def test_a_budget_is_met_exactly(budget: int) -> None:
    game = Game(trials=40, max_epochs=budget)
    assert game.play() == Over(reason="epochs")
    assert game.spent == budget
    game.max_epochs = budget + 17
    game.play()
    assert game.spent == budget + 17


def test_a_budget_that_is_more_than_enough_completes_everybody() -> None:
    game = Game(trials=8, max_epochs=1000)
    assert game.play() == Over(reason="trials")
    assert game.spent == 8 * EPOCHS


def test_what_is_left_of_a_budget_goes_to_the_best_chances() -> None:
    game = Game(
        trials=8, max_epochs=8 + 3, goes=lambda _: False, behind=lambda one: one.ordinal / 8
    )
    game.play()
    assert {one.ordinal: one.epochs for one in game.candidates.values() if one.epochs > 1} == {
        0: 2,
        1: 2,
        2: 2,
    }


def test_a_scarce_budget_is_for_the_best_chances_whatever_their_pack() -> None:
    game = Game(
        trials=8, max_epochs=8 + 18, goes=lambda _: True, behind=lambda one: one.ordinal % 4
    )
    for ordinal in range(8):
        key = "b" if ordinal in (4, 5) else "a"
        game.candidates[100 + ordinal] = standing(ordinal, status="paused", epochs=1, pack_key=key)
    game.play()
    complete = [one.ordinal for one in game.candidates.values() if one.status == "complete"]
    assert complete == [0, 4]


def test_a_small_budget_brings_some_to_the_end_and_not_everybody_a_little_further() -> None:
    game = Game(trials=12, cohort_size=12, max_epochs=12 + 30, goes=lambda _: True)
    game.play()
    assert game.spent == 42
    assert sum(one.status == "complete" for one in game.candidates.values()) >= 2


def test_a_cohort_of_several_packs_goes_on_too() -> None:
    game = Game(trials=40, goes=lambda _: True)
    for ordinal in range(12):
        one = standing(ordinal, status="paused", epochs=1, pack_key="ab"[ordinal % 2])
        game.candidates[100 + ordinal] = replace(one, cohort=ordinal // 4)
    game.candidates[99] = standing(-1, status="complete", epochs=EPOCHS)
    step = plan(game.position())
    assert isinstance(step, Train)
    assert (len(step.trials), step.start) == (4, 1)


def test_a_budget_keeps_enough_for_those_on_their_way() -> None:
    game = Game(trials=400, max_epochs=200, goes=lambda one: one.ordinal % 8 == 0)
    game.play()
    assert sum(one.status == "complete" for one in game.candidates.values()) >= 4


def test_whoever_is_not_finite_is_never_chosen() -> None:
    game = Game(trials=1, max_epochs=5)
    game.candidates[100] = standing(0, status="paused", epochs=1)
    position = game.position()
    bad = replace(position.decisions[0], action="pause", reason="not-finite")
    assert plan(replace(position, decisions={0: bad})) == Over(reason="trials")


games = st.fixed_dictionaries(
    {
        "trials": st.integers(1, 40),
        "cohort_size": st.integers(1, 7),
        "rungs": st.sampled_from([(), (1,), RUNGS, (4, 8)]),
        "max_epochs": st.none() | st.integers(1, 300),
        "keys": st.sampled_from([("a",), ("a", "b", "c")]),
        "num_designs": st.integers(0, 60),
    }
)


def judge_of(seed: int) -> tuple[Judge, Callable[[Standing], float]]:
    chances: Mapping[int, float] = {o: random.Random(seed + o).random() for o in range(100)}
    return (lambda one: chances[one.ordinal] > 0.6), (lambda one: 1 - chances[one.ordinal])


@settings(max_examples=150, deadline=None)
@given(games, st.integers(0, 2**16))
def test_every_study_ends_within_its_limits(given_game: dict[str, Any], seed: int) -> None:
    goes, behind = judge_of(seed)
    game = Game(**given_game, goes=goes, behind=behind)
    over = game.play()
    everybody = list(game.candidates.values())
    assert len(everybody) <= min(game.trials, game.num_designs)
    assert not game.legs
    if game.max_epochs is not None:
        assert game.spent <= game.max_epochs
        if over.reason == "epochs" and game.rungs:
            assert game.spent == game.max_epochs
    if over.reason != "epochs":
        assert len(everybody) == min(game.trials, game.num_designs)
        assert all(one.status in ("complete", "paused") for one in everybody)
        assert all(one.status == "complete" for one in everybody if goes(one) or not game.rungs)
    trained = Counter({one.trial: one.epochs for one in everybody})
    for leg in game.history:
        trained.subtract(dict.fromkeys(leg.trials, leg.end - leg.start))
    assert not any(trained.values())  # nobody twice


@settings(max_examples=100, deadline=None)
@given(games, st.integers(0, 2**16))
def test_the_second_cohort_comes_after_a_front(given_game: dict[str, Any], seed: int) -> None:
    goes, behind = judge_of(seed)
    game = Game(**given_game | {"max_epochs": None}, goes=goes, behind=behind)
    while not isinstance(step := plan(game.position()), Over):
        if not isinstance(step, Propose):
            assert isinstance(step, Train)
            game.close(game.open(step))
            continue
        complete = [one for one in game.candidates.values() if one.status == "complete"]
        is_second = step.cohort == 1 and len(game.candidates) == game.cohort_size
        if is_second and game.rungs:
            assert bool(complete) == any(goes(one) for one in game.candidates.values())
            assert len(complete) <= max(1, game.cohort_size // 4)
        game.propose(step)


@settings(max_examples=100, deadline=None)
@given(games, st.integers(0, 2**16), st.integers(1, 5))
def test_many_workers_who_die_share_a_study(
    given_game: dict[str, Any], seed: int, num_workers: int
) -> None:
    goes, behind = judge_of(seed)
    game = Game(**given_game, goes=goes, behind=behind)
    rng = random.Random(seed)
    at_work: list[Leg] = []
    for _ in range(5_000):
        step: Step = plan(game.position(rng))
        assert step == plan(game.position(rng))  # the order of records does not matter
        if isinstance(step, Over):
            break
        if isinstance(step, Propose):
            game.propose(step, limit=rng.choice([1, 3, 100]))
            continue
        if isinstance(step, TakeOver):
            game.dead.remove(step.leg.number)
            at_work.append(step.leg)
        elif isinstance(step, Train):
            at_work.append(game.open(step))
        while at_work and (len(at_work) >= num_workers or isinstance(step, Wait)):
            leg = at_work.pop(rng.randrange(len(at_work)))
            if rng.random() < 0.3:
                game.dead.add(leg.number)
                break
            game.close(leg)
            step = Train(trials=(), start=0, end=1, pack_key="a")  # something has changed
    else:
        raise AssertionError("it does not end")
    assert not at_work
    if game.max_epochs is not None:
        assert game.spent <= game.max_epochs
    assert all(one.epochs <= EPOCHS for one in game.candidates.values())
