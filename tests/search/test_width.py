"""Many workers on one study: nobody draws what another one did, and each knows what all others found or have running.

Several workers in one process, each with a database connection and a lease of its own, so that their turns can be put
in any order; `benchmarks.cluster.load` has real processes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, cast

import pytest

from dynamoe_search.pruning import Decision
from dynamoe_search.records import CandidateRecord, Ended, Leg, Outcome, Progress, Stood
from dynamoe_search.search import create_study
from dynamoe_search.search.next_legs import NextLegs
from dynamoe_search.search.planner import Over, Propose, Wait
from dynamoe_search.search.rungs import Rungs, to_store
from dynamoe_search.search.sampling import Known, Proposer
from dynamoe_search.search.space import Space
from dynamoe_search.search.stopwatch import Stopwatch
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from tests.search.proposing import conditional_spec
from tests.store.test_looks import statements

EPOCHS, RUNG, COHORT, STARTUP = 4, 1, 4, 8


def spec_of(**search: Any) -> StudySpec:
    """A wide space, of which TPE knows enough after two cohorts."""
    content = conditional_spec("tpe").model_dump(mode="json")
    content["study"] |= {"trials": 400, "references": []}
    content["data"] = {"name": "digits", "max_train": 64}
    content["train"] |= {"epochs": EPOCHS}
    content["search"] |= {
        "cohort_size": COHORT,
        "startup_trials": STARTUP,
        "pruner": {"kind": "pareto", "rungs": [RUNG], "min_records": 2},
        **search,
    }
    return StudySpec.model_validate(content)


class Worker:
    """A worker whose training takes no time, and happens when the test says so."""

    def __init__(self, url: str, spec: StudySpec) -> None:
        self.store = Store.open(url, create=False)
        self.name, self.spec = spec.study.name, spec
        self.id = self.store.join(self.name)
        self.rungs = Rungs(spec.search.pruner, spec.train.epochs)
        self.while_drawing: Callable[[], object] = bool
        self.legs = NextLegs(
            self.store,
            self.id,
            spec,
            self.rungs,
            cast(Any, None),  # makes outcomes of those who are stopped at the end of a study
            lambda _: None,
            lambda: bool(self.while_drawing()),
            Stopwatch(),
        )

    def next(self) -> Leg:
        """Returns the next leg."""
        found = self.legs.next()
        assert isinstance(found, Leg)
        return found

    def finish(self, leg: Leg) -> list[CandidateRecord]:
        """Ends a leg as a training would have, with numbers that follow from the designs."""
        records = self.store.candidates(self.name, trials=leg.trials)
        reports = [
            report(one, epoch) for one in records for epoch in range(leg.start + 1, leg.end + 1)
        ]
        self.store.add_progress(self.name, reports, leg)
        is_over = leg.end == EPOCHS
        self.store.close_leg(
            self.name,
            self.id,
            leg.number,
            ended=[ended(one) for one in records] if is_over else [],
            stood=[]
            if is_over
            else [Stood(trial=one.trial, epochs=leg.end, checkpoint="x") for one in records],
            versions={},
        )
        return records

    def decisions(self) -> dict[int, Decision]:
        """Returns what this worker would decide of those who stand at a rung, by ordinal."""
        with self.store.planning(self.name, self.id):
            return dict(self.legs._position().decisions)


def report(one: CandidateRecord, epoch: int) -> Progress:
    error = 0.2 + 0.5 / epoch + one.candidate.train.learning_rate
    return Progress(
        ordinal=one.ordinal,
        epoch=epoch,
        train_loss=error,
        validation_loss=error,
        accuracy=1 - error,
        activated_params=float(sum(one.candidate.experts_per_layer)),
        mean_k_per_layer=(1.0, 1.0),
        experts_per_layer=one.candidate.experts_per_layer,
        seconds=0.1,
    )


def ended(one: CandidateRecord) -> Ended:
    last = report(one, EPOCHS)
    metrics = {"accuracy": last.accuracy, "activated_params": last.activated_params}
    outcome = Outcome(
        ordinal=one.ordinal, status="complete", epochs=EPOCHS, seconds=1.0, metrics=metrics
    )
    values = (last.accuracy, last.activated_params)
    return Ended(trial=one.trial, outcome=outcome, values=values)


@pytest.fixture(params=["storage_url", "postgres_store_url"], ids=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """URL of a new database of either kind."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def workers(url: str) -> Iterator[Callable[[StudySpec, int], list[Worker]]]:
    """Makes a study and so many workers on it."""
    with ExitStack() as stack:

        def make(spec: StudySpec, number: int) -> list[Worker]:
            with Store.open(url) as store:
                create_study(store, spec, source="test", device="cpu", num_threads=1)
            found = [Worker(url, spec) for _ in range(number)]
            for one in found:
                stack.callback(one.store.close)
            return found

        yield make


Make = Callable[[StudySpec, int], list[Worker]]


def pool(some: Sequence[Worker]) -> list[CandidateRecord]:
    return some[0].store.candidates(some[0].name)


def known_to(some: Sequence[Worker]) -> list[Known]:
    space = Space(some[0].spec)
    return [Known.of(one, space) for one in sorted(pool(some), key=lambda one: one.ordinal)]


def test_no_two_workers_draw_the_same(workers: Make) -> None:
    some = workers(spec_of(pruner={"kind": "none"}), 6)
    first = [one.next() for one in some]
    for one, leg in zip(some[:3], first[:3], strict=True):  # from here on TPE knows something
        one.finish(leg)
    legs = first + [one.next() for one in some[:3]] + [one.next() for one in some[:3]]
    records = pool(some)
    assert sorted(one.ordinal for one in records) == list(range(12 * COHORT))
    assert len({one.candidate.design_hash for one in records}) == len(records)
    members = [trial for leg in legs for trial in leg.trials]
    assert sorted(members) == [one.trial for one in records]  # in one leg each
    assert {leg.worker for leg in legs} == {one.id for one in some}


def test_designs_are_drawn_while_others_plan(workers: Make) -> None:
    some = workers(spec_of(pruner={"kind": "none"}), 4)
    for one in some[:3]:
        one.finish(one.next())
    busy, slow, quick = some[0].next(), some[1], some[2]
    legs: list[Leg] = []

    def let_another_plan() -> bool:
        if not legs:
            legs.append(quick.next())  # would wait for ever if the slow one kept its turn
        return False

    slow.while_drawing = let_another_plan
    legs.append(slow.next())
    records = pool(some)
    assert [one.ordinal for one in records] == list(range(6 * COHORT))
    assert len({one.candidate.design_hash for one in records}) == len(records)
    cohorts = [{one.cohort for one in records if one.trial in leg.trials} for leg in legs]
    assert cohorts == [{4}, {5}]  # in the order in which they were stored
    assert not set(busy.trials) & {trial for leg in legs for trial in leg.trials}


def test_drafts_that_others_drew_are_dropped(workers: Make) -> None:
    slow, other = workers(spec_of(pruner={"kind": "none"}), 2)
    other.next()
    drafts = slow.legs._drawn(Propose(cohort=1, number=COHORT))
    step = Propose(cohort=1, number=COHORT)
    with slow.store.planning(slow.name, slow.id):
        assert slow.legs._add(drafts[:3], step, slow.store.standings(slow.name))
        assert slow.legs._add(drafts, step, slow.store.standings(slow.name))
        assert not slow.legs._add(drafts, step, slow.store.standings(slow.name))
    records = pool([slow])
    assert [one.ordinal for one in records] == list(range(2 * COHORT))
    assert len({one.candidate.design_hash for one in records}) == len(records)


def test_who_draws_at_the_same_time_draws_something_else() -> None:
    space = Space(spec_of())
    alone, again, one, other = (
        Proposer(space, (), None, *who).propose() for who in ((), ("",), ("a",), ("b",))
    )
    assert alone is not None
    assert again is not None
    assert one is not None
    assert other is not None
    assert alone.params == again.params
    assert len({str(found.params) for found in (alone, one, other)}) == 3


def test_what_others_have_in_training_moves_the_proposals(workers: Make) -> None:
    some = workers(spec_of(pruner={"kind": "none"}), 4)
    for one in some[:3]:
        one.finish(one.next())
    running = some[0].next()
    known = known_to(some)
    assert sum(one.state == "running" for one in known) == len(running.trials) == COHORT
    informed = Proposer(Space(some[0].spec), known)
    blind = Proposer(
        Space(some[0].spec),
        [one.without_values() if one.state == "running" else one for one in known],
    )
    mine, theirs = informed.propose(), blind.propose()
    assert mine is not None
    assert theirs is not None
    assert mine.params != theirs.params


def test_a_pruner_sees_the_rungs_of_all_workers(workers: Make) -> None:
    some = workers(spec_of(), 5)
    for one, leg in [(one, one.next()) for one in some[:3]]:
        one.finish(leg)
    for reader in some[3:]:  # neither trained any of them
        decisions = reader.decisions()
        assert sorted(decisions) == list(range(3 * COHORT))
        assert len(reader.rungs.records[RUNG]) == 3 * COHORT
        assert {one.rivals for one in decisions.values()} == {3 * COHORT - 1}
    trials = {one.ordinal: one.trial for one in pool(some)}
    found = [to_store(list(one.decisions().values()), trials) for one in some]
    assert all(one == found[0] for one in found)


def test_who_waits_keeps_nobody_from_planning_and_sees_what_happens(workers: Make) -> None:
    spec = spec_of(pruner={"kind": "none"})
    two = spec.study.model_copy(update={"trials": 2 * COHORT})
    some = workers(spec.model_copy(update={"study": two}), 3)
    legs = [one.next() for one in some[:2]]
    idle = some[2]
    assert [isinstance(idle.legs.next(), Wait) for _ in range(3)] == [True] * 3
    with statements(idle.store) as sent:
        assert isinstance(idle.legs.next(), Wait)
    assert len(sent) == 1
    with some[0].store.planning(
        some[0].name, some[0].id
    ):  # the turn is taken: who waits does not ask for it
        assert isinstance(idle.legs.next(), Wait)
    some[0].store.set_trials(some[0].name, 3 * COHORT)
    leg = idle.next()
    assert len(leg.trials) == COHORT
    for one, own in zip([*some[:2], idle], [*legs, leg], strict=True):
        one.finish(own)
    assert isinstance(some[1].legs.next(), Over)


def test_who_waits_takes_over_from_the_dead(workers: Make) -> None:
    spec = spec_of(pruner={"kind": "none"})
    one_cohort = spec.study.model_copy(update={"trials": COHORT})
    dying, idle = workers(spec.model_copy(update={"study": one_cohort}), 2)
    leg = dying.next()
    assert isinstance(idle.legs.next(), Wait)
    assert isinstance(idle.legs.next(), Wait)
    dying.store.leave(dying.name, dying.id, "interrupted")
    idle.legs._look_at = 0.0  # some seconds later
    taken = idle.next()
    assert (taken.number, taken.trials, taken.worker) == (leg.number, leg.trials, idle.id)
