"""The rungs of a study: pruning in real runs, and whose reports count."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import optuna
import pytest

from dynamoe_search.pruning import Estimate, ladder
from dynamoe_search.records import Progress, RungDecision, Standing
from dynamoe_search.search import CandidateFinished, Event, LegFinished, Limits
from dynamoe_search.search.proposals import with_estimate
from dynamoe_search.search.rungs import Rungs, changed, to_store
from dynamoe_search.search.sampling import Known
from dynamoe_search.specs import PrunerSection, StudySpec
from dynamoe_search.store import Store
from tests.search.interrupting import Crash, Facts, facts, run

MakeSpec = Callable[..., StudySpec]

EPOCHS = 4
NONE = {"kind": "none"}
PARETO = {"kind": "pareto", "min_records": 2}
SECTIONS: dict[str, Any] = {
    "study": {"trials": 12, "references": ["dense", "top-2"]},
    "model": {"d_model": [8, 16]},  # two packs in a cohort
    "schedule": {"shape": ["uniform", "descending"], "max_experts": {"low": 2, "high": 4}},
    "router": {"kind": ["top-any", "top-k"], "threshold": {"low": -1.0, "high": 1.0}},
    "train": {"learning_rate": {"low": 3e-4, "high": 1e-2, "log": True}, "epochs": EPOCHS},
}
SEARCH = {"cohort_size": 6, "startup_trials": 4, "sampler": "random"}


def spec_with(tiny_spec: MakeSpec, pruner: dict[str, Any], sampler: str = "random") -> StudySpec:
    return tiny_spec(**SECTIONS, search=SEARCH | {"pruner": pruner, "sampler": sampler})


def told(url: str) -> list[tuple[str | None, str | None, int]]:
    """Reason, message and epochs of every candidate."""
    with Store.open(url) as store:
        return [
            (record.reason, record.message, record.outcome.epochs)
            for record in store.candidates("tiny")
            if record.outcome is not None
        ]


def crash_at(event_number: int) -> Callable[[Event], None]:
    seen = 0

    def crash(_: Event) -> None:
        nonlocal seen
        if seen == event_number:
            raise Crash
        seen += 1

    return crash


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[StudySpec], tuple[str, Facts, list[Event]]]:
    """Runs a study to its end, each study once."""
    known: dict[str, tuple[str, Facts, list[Event]]] = {}

    def of(spec: StudySpec) -> tuple[str, Facts, list[Event]]:
        text = spec.model_dump_json()
        if text not in known:
            url = f"sqlite:///{tmp_path_factory.mktemp('undisturbed') / 'studies.db'}"
            events: list[Event] = []
            run(url, spec, on_event=events.append)
            known[text] = url, facts(url), events
        return known[text]

    return of


Undisturbed = Callable[[StudySpec], tuple[str, Facts, list[Event]]]


@pytest.mark.parametrize("pause", [True, False])
@pytest.mark.parametrize("kind", ["pareto", "moasha", "median"])
def test_pruning_spends_less_and_keeps_its_best(
    undisturbed: Undisturbed, tiny_spec: MakeSpec, kind: str, pause: bool
) -> None:
    without_url, without, _ = undisturbed(spec_with(tiny_spec, NONE))
    url, found, events = undisturbed(spec_with(tiny_spec, PARETO | {"kind": kind, "pause": pause}))
    assert [fact["candidate"] for fact in found] == [fact["candidate"] for fact in without]
    with Store.open(without_url) as store:
        full = store.spent("tiny")
        front_without = {member.trial for member in store.front("tiny")}
    with Store.open(url) as store:
        spent, front = store.spent("tiny"), {member.trial for member in store.front("tiny")}
        records = store.candidates("tiny")
        reports = store.progress("tiny")
        study = optuna.load_study(study_name="tiny", storage=store.storage_for_optuna())
        states = [trial.state.name for trial in study.trials]
        assert all(not trial.intermediate_values for trial in study.trials)
        assert {trial.number for trial in study.best_trials} == front
    stopped = [record for record in records if record.status == "stopped"]
    epochs = {record.trial: record.outcome.epochs for record in records if record.outcome}
    assert stopped
    assert spent.epochs == sum(epochs.values()) == len(reports)
    assert full.epochs - spent.epochs == sum(EPOCHS - epochs[one.trial] for one in stopped) > 0
    assert (spent.stopped, spent.complete) == (len(stopped), 12 - len(stopped))
    assert states == ["PRUNED" if one.status == "stopped" else "COMPLETE" for one in records]
    for one in stopped:
        assert one.candidate.reference is None
        assert (one.reason, one.values) == ("pruned", None)
        assert (one.message or "").startswith(f"pruned after epoch {epochs[one.trial]}: ")
        assert epochs[one.trial] in (1, 2, 3)
    best = max(without, key=lambda fact: fact["values"]["accuracy"])
    assert best["trial"] in front & front_without
    same = [(a["values"], b["values"]) for a, b in zip(found, without, strict=True) if a["values"]]
    assert all(mine == others for mine, others in same)
    finished = [event for event in events if isinstance(event, CandidateFinished)]
    assert len(finished) == 12


def test_without_a_pruner_nothing_is_stopped(undisturbed: Undisturbed, tiny_spec: MakeSpec) -> None:
    url, found, _ = undisturbed(spec_with(tiny_spec, NONE))
    assert {fact["status"] for fact in found} == {"complete"}
    assert told(url) == [(None, None, EPOCHS)] * 12


@pytest.mark.parametrize(
    ("sampler", "event_number"),
    [("random", 3), ("random", 8), ("random", 20), ("random", 24), ("random", 32), ("tpe", 8)],
)
def test_a_crash_at_any_event_changes_no_decision(
    undisturbed: Undisturbed,
    storage_url: str,
    tiny_spec: MakeSpec,
    sampler: str,
    event_number: int,
) -> None:
    spec = spec_with(tiny_spec, PARETO, sampler)
    url, found, events = undisturbed(spec)
    assert event_number < len(events) - 1
    with pytest.raises(Crash):
        run(storage_url, spec, on_event=crash_at(event_number))
    run(storage_url, spec)
    assert facts(storage_url) == found
    assert told(storage_url) == told(url)


@pytest.mark.parametrize("num_steps", [9])
def test_a_stop_after_any_step_changes_no_decision(
    undisturbed: Undisturbed, storage_url: str, tiny_spec: MakeSpec, num_steps: int
) -> None:
    spec = spec_with(tiny_spec, PARETO)
    url, found, _ = undisturbed(spec)
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > num_steps

    assert run(storage_url, spec, should_stop=should_stop).reason == "interrupt"
    run(storage_url, spec)
    assert (facts(storage_url), told(storage_url)) == (found, told(url))


def test_a_paused_trial_runs_in_optuna_and_is_no_zombie(
    undisturbed: Undisturbed, storage_url: str, tiny_spec: MakeSpec
) -> None:
    spec = spec_with(tiny_spec, PARETO)
    legs = 0

    def should_stop() -> bool:
        return legs >= 3

    def count(event: Event) -> None:
        nonlocal legs
        legs += isinstance(event, LegFinished)

    summary = run(storage_url, spec, on_event=count, should_stop=should_stop)
    assert summary.paused > 0
    with Store.open(storage_url) as store:
        paused = store.candidates("tiny", status=("paused",))
        assert len(paused) == summary.paused
        assert not {one.trial for one in paused} & set(store.zombies("tiny"))
        study = optuna.load_study(study_name="tiny", storage=store.storage_for_optuna())
        states = {trial.number: trial.state.name for trial in study.trials}
        waiting = {one.trial for one in store.decisions("tiny") if one.action == "pause"}
    assert {states[one.trial] for one in paused} == {"RUNNING"}
    assert waiting <= {one.trial for one in paused}
    run(storage_url, spec)
    assert facts(storage_url) == undisturbed(spec)[1]


@pytest.mark.parametrize("budget", [1, 7, 20])
def test_a_budget_of_epochs_is_met_exactly_and_can_be_raised(
    storage_url: str, tiny_spec: MakeSpec, budget: int
) -> None:
    spec = spec_with(tiny_spec, PARETO)
    summary = run(storage_url, spec, limits=Limits(epochs=budget))
    assert (summary.reason, summary.state, summary.epochs) == ("epochs", "interrupted", budget)
    assert run(storage_url, spec).epochs == budget
    assert run(storage_url, spec, limits=Limits(epochs=budget + 3)).epochs == budget + 3
    with Store.open(storage_url) as store:
        assert len(store.progress("tiny")) == budget + 3


def test_a_budget_below_one_candidate_ends_in_words_and_not_in_an_error(
    storage_url: str, tiny_spec: MakeSpec
) -> None:
    summary = run(storage_url, spec_with(tiny_spec, NONE), limits=Limits(epochs=EPOCHS - 1))
    assert (summary.reason, summary.state, summary.epochs) == ("epochs", "interrupted", 0)
    assert not summary.front
    assert summary.hypervolume == 0
    assert run(storage_url, spec_with(tiny_spec, NONE), limits=Limits(epochs=EPOCHS)).complete == 1


def test_the_sampler_learns_from_the_paused(undisturbed: Undisturbed, tiny_spec: MakeSpec) -> None:
    specs = [spec_with(tiny_spec, pruner, "tpe") for pruner in (PARETO, NONE)]
    longer = [
        one.model_copy(update={"study": one.study.model_copy(update={"trials": 24})})
        for one in specs
    ]
    (_, pruned, _), (_, without, _) = (undisturbed(one) for one in longer)
    assert pruned[:6] == [
        {**fact, "cohort": 0} | {"candidate": other["candidate"], "params": other["params"]}
        for fact, other in zip(pruned[:6], without[:6], strict=True)
    ]
    assert [fact["params"] for fact in pruned[6:]] != [fact["params"] for fact in without[6:]]


# Whose reports count


def place(ordinal: int, epochs: int, **changes: Any) -> Standing:
    given = {
        "trial": 100 + ordinal,
        "ordinal": ordinal,
        "cohort": 0,
        "status": "paused",
        "epochs": epochs,
        "checkpoint": None,
        "pack_key": "a",
        "reference": None,
    }
    return Standing(**(given | changes))


def report(ordinal: int, epoch: int, error: float, activated: float = 1000.0) -> Progress:
    return Progress(
        ordinal=ordinal,
        epoch=epoch,
        train_loss=error,
        validation_loss=error,
        accuracy=1 - error,
        activated_params=activated,
        mean_k_per_layer=(1.0,),
        experts_per_layer=(2,),
        seconds=1.0,
    )


def rungs(**changes: Any) -> Rungs:
    settings = {"kind": "pareto", "guard": 0, "min_records": 1} | changes
    return Rungs(PrunerSection.model_validate(settings), 9)


def test_the_ladder() -> None:
    assert ladder(PrunerSection(kind="none"), 9) == ()
    assert ladder(PrunerSection(kind="pareto"), 9) == (1, 2, 3, 5)
    assert ladder(PrunerSection(kind="pareto"), 1) == ()
    assert ladder(PrunerSection(kind="pareto", rungs=(4, 6)), 9) == (4, 6)


def test_only_epochs_that_are_kept_count() -> None:
    found = rungs()
    left = [
        report(0, epoch, 0.5 / epoch) for epoch in (1, 2, 3)
    ]  # the third of a leg that was cut short
    found.take(place(0, 2), left)
    assert {rung: list(records) for rung, records in found.records.items()} == {
        1: [0],
        2: [0],
        3: [],
        5: [],
    }
    assert found.is_behind(place(0, 3))
    assert not found.is_behind(place(0, 2))


def test_the_lowest_error_so_far_is_compared() -> None:
    found = rungs()
    found.take(place(0, 2), [report(0, 1, 0.1), report(0, 2, 0.4)])
    assert found.records[2][0].error == pytest.approx(0.1)
    assert found.records[2][0].loss == pytest.approx(0.4)


def test_candidates_are_judged_where_they_stand_by_all_who_came_by() -> None:
    found = rungs()
    found.take(place(0, 3), [report(0, 1, 0.9), report(0, 2, 0.8), report(0, 3, 0.05)])
    found.take(place(1, 1), [report(1, 1, 0.95)])
    found.take(place(2, 4), [report(2, 1, 0.1), report(2, 2, 0.1), report(2, 3, 0.2)])
    found.take(place(3, 1), [report(3, 1, 0.99)])
    decisions = found.judge([place(0, 3), place(1, 1), place(2, 4), place(3, 1, reference="dense")])
    assert [(one.ordinal, one.rung, one.action, one.strongest) for one in decisions] == [
        (0, 3, "go", None),
        (1, 1, "pause", 2),
        (2, 3, "pause", 0),  # between two rungs it is judged at the one behind it
    ]
    stored = to_store(decisions, {0: 10, 1: 11, 2: 12, 3: 13})
    assert [(one.trial, one.strongest) for one in stored] == [(10, None), (11, 12), (12, 10)]


def test_decisions_are_stored_when_they_change() -> None:
    one = RungDecision(trial=1, rung=2, action="pause", beaten=3, rivals=9, reason="beaten")
    known = {(1, 2): one}
    assert changed([one], {}) == [one]
    assert changed([one], known) == []
    went = RungDecision(trial=1, rung=2, action="go", beaten=3, rivals=30)
    assert changed([went], known) == [went]


def test_who_failed_holds_nobody_back() -> None:
    found = rungs()
    found.take(place(0, 1), [report(0, 1, 0.1)])
    found.take(place(1, 1), [report(1, 1, 0.5, 2000.0)])
    assert [one.action for one in found.judge([place(1, 1)])] == ["pause"]
    failed = place(0, 2, status="failed")
    assert found.is_behind(failed)
    found.take(failed, [report(0, 1, 0.1)])
    assert not found.is_behind(failed)
    assert [one.action for one in found.judge([place(1, 1)])] == ["go"]


def test_where_the_loss_is_what_counts_it_takes_the_place_of_the_error() -> None:
    """As in a study of perplexity: how often the first guess is right then says nothing."""
    settings = PrunerSection(kind="pareto", min_records=1, share=0.5)
    found = Rungs(settings, 9, (0.9, 3.2), by_loss=True)
    for ordinal, loss in enumerate((2.0, 2.5, 3.0, 3.3)):
        one = replace(report(ordinal, 1, 0.5), accuracy=0.2 * ordinal, validation_loss=loss)
        found.take(place(ordinal, 1), [one])
    decisions = {one.ordinal: one for one in found.judge([place(i, 1) for i in range(4)])}
    assert [decisions[i].beaten for i in range(4)] == [0, 1, 2, 3]
    assert [decisions[i].keep for i in range(4)] == [True, True, False, False]
    assert decisions[3].reason == "useless"


def test_an_expected_perplexity_stands_for_what_waits(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(
        study={
            "objectives": ["perplexity", "activated_params"],
            "constraints": {"max_perplexity": 10.0},
        },
        data={"name": "docs"},
        model={"backbone": "gpt"},
    )
    expected = Estimate(
        error=2.0,
        error_low=1.9,
        error_high=2.1,
        activated_params=50.0,
        activated_low=40.0,
        activated_high=60.0,
    )
    known = Known(ordinal=0, params={}, design_hash="a", is_in_space=True, state="running")
    told = with_estimate(known, expected, spec)
    assert told.values == (pytest.approx(math.exp(2.0)), 50.0)
    assert told.violations == {"max_perplexity": pytest.approx(math.exp(2.0) - 10)}


def test_what_was_not_stored_is_forgotten() -> None:
    """A worker whose leg was taken over judges by its successor's numbers, as everybody does."""
    others = [place(ordinal, 2) for ordinal in range(4)]
    one = place(9, 2)
    late, fresh = rungs(), rungs()
    for known in (late, fresh):
        for other in others:
            known.take(other, [report(other.ordinal, epoch, 0.5) for epoch in (1, 2)])
    late.take(one, [report(9, 1, 0.1), report(9, 2, 0.01)])
    late.forget([9])
    for known in (late, fresh):
        assert known.is_behind(one)
        known.take(one, [report(9, 1, 0.1), report(9, 2, 0.9)])
    assert late.by_rung() == fresh.by_rung()
    assert late.judge([*others, one]) == fresh.judge([*others, one])
