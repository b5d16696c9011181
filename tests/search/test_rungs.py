"""The rungs of a study: pruning in real runs, and whose reports count."""

from collections.abc import Callable, Sequence
from typing import Any

import optuna
import pytest

from dynamoe_search.records import CandidateRecord, Outcome, Progress
from dynamoe_search.search import CandidateFinished, EpochFinished, Event
from dynamoe_search.search.rungs import Rungs
from dynamoe_search.specs import PrunerSection, StudySpec
from dynamoe_search.store import Store
from tests.search.test_runner import Crash, Facts, facts, run
from tests.store.builders import candidate

MakeSpec = Callable[..., StudySpec]

EPOCHS = 4
PARETO = {"kind": "pareto", "min_records": 2, "alpha": 0.05}
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


@pytest.mark.parametrize("kind", ["pareto", "moasha", "median"])
def test_pruning_spends_less_and_keeps_its_best(
    undisturbed: Undisturbed, tiny_spec: MakeSpec, kind: str
) -> None:
    without_url, without, _ = undisturbed(spec_with(tiny_spec, {}))
    url, found, events = undisturbed(spec_with(tiny_spec, PARETO | {"kind": kind}))
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
    url, found, _ = undisturbed(spec_with(tiny_spec, {}))
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


def test_the_pruned_leave_the_pack(undisturbed: Undisturbed, tiny_spec: MakeSpec) -> None:
    url, _, events = undisturbed(spec_with(tiny_spec, PARETO))
    last = {
        report.ordinal: report.epoch
        for event in events
        if isinstance(event, EpochFinished)
        for report in event.reports
    }
    assert [last[ordinal] for ordinal in range(12)] == [epochs for _, _, epochs in told(url)]


# Whose reports count


def record_of(ordinal: int, epochs: int | None, reference: str | None = None) -> CandidateRecord:
    outcome = None
    if epochs is not None:
        outcome = Outcome(ordinal=ordinal, status="complete", epochs=epochs, seconds=1.0)
    return CandidateRecord(
        trial=100 + ordinal,
        ordinal=ordinal,
        cohort=0,
        candidate=candidate(ordinal, reference=reference),
        params={},
        status="running" if outcome is None else "complete",
        created_at="",
        outcome=outcome,
    )


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
    settings = {"kind": "pareto", "alpha": 0.4, "guard": 0, "min_records": 1} | changes
    return Rungs(PrunerSection.model_validate(settings), 9)


def reports(epoch: int, errors: dict[int, float]) -> Sequence[Progress]:
    return [report(ordinal, epoch, error) for ordinal, error in errors.items()]


def test_who_has_no_outcome_or_left_more_than_it_counts_is_no_rival() -> None:
    mine = record_of(3, None)
    left = [report(ordinal, 1, 0.1) for ordinal in (0, 1, 2)]
    for epochs in (None, 0):  # a killed attempt; a failure, whose epochs do not count
        found = rungs()
        found.load([record_of(ordinal, epochs) for ordinal in (0, 1, 2)], left)
        found.begin_pack([mine])
        assert found.judge(reports(1, {3: 0.5})) == set()
    found = rungs()
    found.load([record_of(ordinal, 1) for ordinal in (0, 1, 2)], left)
    found.begin_pack([mine])
    assert found.judge(reports(1, {3: 0.5})) == {3}


def test_the_lowest_error_so_far_is_compared() -> None:
    found = rungs(rungs=[3])
    found.begin_pack([record_of(ordinal, None) for ordinal in (0, 1)])
    found.judge(reports(1, {0: 0.1, 1: 0.3}))
    found.judge(reports(2, {0: 0.4, 1: 0.3}))
    assert found.judge([report(0, 3, 0.4), report(1, 3, 0.5)]) == {1}
    found = rungs(rungs=[3])
    found.begin_pack([record_of(ordinal, None) for ordinal in (0, 1)])
    found.judge(reports(1, {0: 0.1, 1: 0.05}))
    assert found.judge([report(0, 3, 0.4), report(1, 3, 0.5)]) == set()


def test_a_pack_that_starts_again_in_halves_forgets_its_first_attempt() -> None:
    found = rungs()
    found.begin_pack([record_of(ordinal, None) for ordinal in range(4)])
    assert found.judge(reports(1, {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4})) == {2, 3}
    found.judge(reports(2, {0: 0.1, 1: 0.2}))
    assert found.judge(reports(1, {2: 0.3, 3: 0.3})) == set()  # 0 and 1 are given up, too
    assert found.judge(reports(2, {2: 0.3, 3: 0.3})) == set()
    assert found.judge(reports(1, {0: 0.9, 1: 0.1})) == {0}  # the first half counts for the second
    stopped = found.explained(Outcome(ordinal=0, status="stopped", epochs=1, seconds=1.0))
    assert stopped.reason == "pruned"
    assert stopped.message == (
        "pruned after epoch 1: beaten by 3 of 3 rivals (100%), the strongest of them trial 101"
    )
    ended = Outcome(ordinal=3, status="complete", epochs=9, seconds=1.0)
    assert found.explained(ended) is ended


def test_a_reference_is_a_rival_and_never_stopped() -> None:
    found = rungs(alpha=0)
    found.begin_pack([record_of(0, None, "dense"), record_of(1, None), record_of(2, None)])
    assert found.judge(reports(1, {0: 0.9, 1: 0.5, 2: 0.1})) == {1}
    assert found.judge(reports(2, {0: 0.01, 2: 0.1})) == {2}


def test_other_reasons_have_words_too() -> None:
    found = rungs(alpha=1, guard=0.2)
    found.begin_pack([record_of(ordinal, None) for ordinal in range(10)])
    errors = {ordinal: 0.1 + ordinal / 100 for ordinal in range(9)}
    assert found.judge([*reports(1, errors), report(9, 1, 0.9, 10.0)]) == {8, 9}
    words = found.explained(Outcome(ordinal=9, status="stopped", epochs=1, seconds=1.0)).message
    assert words == (
        "pruned after epoch 1: in the worst share (0.2) of 10 candidates in error and in loss"
    )
    found = rungs()
    found.begin_pack([record_of(0, None)])
    assert found.judge(reports(1, {0: float("nan")})) == {0}
    words = found.explained(Outcome(ordinal=0, status="stopped", epochs=1, seconds=1.0)).message
    assert "not finite" in (words or "")
