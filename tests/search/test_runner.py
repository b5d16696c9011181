"""The loop of a study, with the real trainer on tiny studies of digits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from dynamoe_search.errors import DataError, UsageError
from dynamoe_search.search import (
    CandidateFinished,
    EpochFinished,
    Event,
    FrontChanged,
    LegFinished,
    LegStarted,
    Limits,
    StudyEnded,
    StudyStarted,
    create_study,
    export_candidate,
    run_study,
)
from dynamoe_search.search.sampling import Proposer
from dynamoe_search.search.space import Space
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store, weight_files
from tests.search.interrupting import Crash, facts, killed_after_trial, run
from tests.search.proposing import addition_of

MakeSpec = Callable[..., StudySpec]

SECTIONS: dict[str, Any] = {
    "study": {"trials": 5, "references": ["dense", "top-2"]},
    "model": {"d_model": 8},
    "schedule": {"shape": ["uniform", "descending"], "max_experts": {"low": 2, "high": 4}},
    "router": {"kind": ["top-any", "top-k"], "threshold": {"low": -1.0, "high": 1.0}},
    "train": {"learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}, "epochs": 2},
    "search": {"cohort_size": 3, "startup_trials": 2, "pruner": {"kind": "none"}},
}


def small(tiny_spec: MakeSpec, **sections: dict[str, Any]) -> StudySpec:
    """A search over a few settings, five trials in two cohorts."""
    names = SECTIONS.keys() | sections.keys()
    return tiny_spec(**{name: SECTIONS.get(name, {}) | sections.get(name, {}) for name in names})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Event]]:
    """The URL of a study that ran to its end, and what it told."""
    url = f"sqlite:///{tmp_path_factory.mktemp('undisturbed') / 'studies.db'}"
    base = {
        "study": {"name": "tiny"},
        "data": {"name": "digits", "max_train": 256},
        "model": {"num_layers": 2, "d_expert": 8},
        "schedule": {"min_experts": 1},
        "train": {"batch_size": 64},
    }
    names = base.keys() | SECTIONS.keys()
    spec = StudySpec.model_validate(
        {name: base.get(name, {}) | SECTIONS.get(name, {}) for name in names}
    )
    events: list[Event] = []
    run(url, spec, on_event=events.append)
    return url, events


def test_a_study_ends_with_its_trials_and_a_front(undisturbed: tuple[str, list[Event]]) -> None:
    url, events = undisturbed
    found = facts(url)
    assert [fact["trial"] for fact in found] == [0, 1, 2, 3, 4]
    assert [fact["cohort"] for fact in found] == [0, 0, 0, 1, 1]
    assert {fact["status"] for fact in found} == {"complete"}
    assert [fact["candidate"].reference for fact in found[:3]] == ["dense", "top-2", None]
    with Store.open(url) as store:
        assert store.study("tiny").state == "finished"
        members = {member.trial for member in store.front("tiny")}
        kept = set((store.files_of("tiny") / "models").iterdir())
        records = store.candidates("tiny", trials=members)
        assert kept == {
            weight_files.path_of(store.files_of("tiny") / "models", one.trial, one.weights)
            for one in records
        }
        study = optuna.load_study(study_name="tiny", storage=store.storage_for_optuna())
        assert {trial.number for trial in study.best_trials} == members
        assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
        assert len(store.progress("tiny")) == 10
        assert store.spent("tiny").epochs == 10
    assert [type(event) for event in events if not isinstance(event, FrontChanged)] == [
        StudyStarted,
        *(LegStarted, *[EpochFinished] * 2, *[CandidateFinished] * 3, LegFinished),
        *(LegStarted, *[EpochFinished] * 2, *[CandidateFinished] * 2, LegFinished),
        StudyEnded,
    ]
    ended = events[-1]
    assert isinstance(ended, StudyEnded)
    summary = ended.summary
    assert (summary.state, summary.reason, summary.complete) == ("finished", "trials", 5)
    assert 0 < summary.hypervolume < 1
    assert {member.trial for member in summary.front} == members


@pytest.mark.parametrize("event_number", [0, 1, 2, 3, 4, 6, 8, 11])
def test_a_crash_at_any_event_changes_nothing(
    undisturbed: tuple[str, list[Event]], storage_url: str, tiny_spec: MakeSpec, event_number: int
) -> None:
    seen = 0

    def crash(_: Event) -> None:
        nonlocal seen
        if seen == event_number:
            raise Crash
        seen += 1

    spec = small(tiny_spec)
    with pytest.raises(Crash):
        run(storage_url, spec, on_event=crash)
    summary = run(storage_url, spec)
    assert summary.complete == 5
    assert facts(storage_url) == facts(undisturbed[0])
    with Store.open(storage_url) as store, Store.open(undisturbed[0]) as other:
        assert store.front("tiny") == other.front("tiny")


@pytest.mark.parametrize("num_steps", [1, 6, 12, 17])
def test_a_stop_after_any_step_changes_nothing(
    undisturbed: tuple[str, list[Event]], storage_url: str, tiny_spec: MakeSpec, num_steps: int
) -> None:
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > num_steps

    spec = small(tiny_spec)
    summary = run(storage_url, spec, should_stop=should_stop)
    assert (summary.state, summary.reason) == ("interrupted", "interrupt")
    assert run(storage_url, spec).state == "finished"
    assert facts(storage_url) == facts(undisturbed[0])


def test_a_cohort_that_was_half_proposed_is_filled_up(
    undisturbed: tuple[str, list[Event]], storage_url: str, tiny_spec: MakeSpec
) -> None:
    spec = small(tiny_spec)
    with Store.open(storage_url) as store:
        create_study(store, spec, source="test", device="cpu", num_threads=1)
        proposal = Proposer(Space(spec)).propose()
        assert proposal is not None
        store.add_candidates("tiny", [addition_of(proposal, cohort=0)])
    run(storage_url, spec)
    assert facts(storage_url) == facts(undisturbed[0])


@pytest.mark.slow
def test_a_killed_process_changes_nothing(
    undisturbed: tuple[str, list[Event]], storage_url: str, tiny_spec: MakeSpec
) -> None:
    spec = small(tiny_spec)
    killed_after_trial(storage_url, spec, 3)
    assert run(storage_url, spec).complete == 5
    assert facts(storage_url) == facts(undisturbed[0])


def test_the_budget_of_epochs_is_kept_exactly(storage_url: str, tiny_spec: MakeSpec) -> None:
    spec = small(tiny_spec)
    summary = run(storage_url, spec, limits=Limits(epochs=9))
    assert (summary.reason, summary.state, summary.epochs) == ("epochs", "interrupted", 8)
    again = run(storage_url, spec)
    assert (again.reason, again.epochs) == ("epochs", 8)
    assert run(storage_url, spec, limits=Limits(epochs=10)).epochs == 10


def test_the_budget_of_epochs_outlives_a_crash(storage_url: str, tiny_spec: MakeSpec) -> None:
    def crash(event: Event) -> None:
        if isinstance(event, CandidateFinished):
            raise Crash

    with pytest.raises(Crash):
        run(storage_url, small(tiny_spec), limits=Limits(epochs=4), on_event=crash)
    summary = run(storage_url, small(tiny_spec))
    assert (summary.reason, summary.epochs, summary.complete) == ("epochs", 4, 2)


def test_fewer_trials_than_are_finished_are_refused(storage_url: str, tiny_spec: MakeSpec) -> None:
    spec = small(tiny_spec, study={"trials": 2, "references": []})
    run(storage_url, spec)
    with pytest.raises(UsageError, match="has 2 finished trials already"):
        run(storage_url, spec, limits=Limits(trials=1))
    with Store.open(storage_url) as store:
        assert (store.study("tiny").trials, store.study("tiny").state) == (2, "finished")


def test_data_that_have_changed_are_refused(
    storage_url: str, tiny_spec: MakeSpec, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    arrays = {"x": generator.normal(size=(90, 5, 4)), "y": np.arange(90) % 3}
    np.savez(tmp_path / "own.npz", **arrays)
    spec = tiny_spec(study={"trials": 1}, data={"name": "npz", "path": str(tmp_path / "own.npz")})
    assert run(storage_url, spec).complete == 1
    arrays["x"][:] += 1.0  # the same once it is standardised
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(DataError, match="are not those that the study 'tiny' began with"):
        run(storage_url, spec)
    with Store.open(storage_url) as store, pytest.raises(DataError, match="began with"):
        export_candidate(store, "tiny", 0, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_more_trials_go_further(storage_url: str, tiny_spec: MakeSpec) -> None:
    spec = small(tiny_spec, study={"trials": 2, "references": []})
    assert run(storage_url, spec).complete == 2
    assert run(storage_url, spec).complete == 2
    summary = run(storage_url, spec, limits=Limits(trials=4))
    assert (summary.complete, summary.trials, summary.state) == (4, 4, "finished")


def test_time_that_is_up_ends_before_the_first_cohort(
    storage_url: str, tiny_spec: MakeSpec
) -> None:
    summary = run(storage_url, small(tiny_spec), limits=Limits(timeout_seconds=0.0))
    assert (summary.reason, summary.complete, summary.running) == ("timeout", 0, 0)


def test_the_stop_command_is_heard(storage_url: str, tiny_spec: MakeSpec) -> None:
    def ask(event: Event) -> None:
        if isinstance(event, CandidateFinished):
            with Store.open(storage_url) as other:
                other.request_stop("tiny")

    summary = run(storage_url, small(tiny_spec), on_event=ask)
    assert (summary.reason, summary.complete) == ("stop", 3)
    assert run(storage_url, small(tiny_spec)).complete == 5


def test_a_study_without_new_designs_ends(storage_url: str, tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(study={"trials": 9}, model={"d_expert": [8, 12]})
    summary = run(storage_url, spec)
    assert (summary.reason, summary.state, summary.complete) == ("exhausted", "finished", 2)


def test_a_candidate_that_fails_is_stored_and_the_search_goes_on(
    storage_url: str, tiny_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fragile_backbone.py").write_text(
        "from dynamoe_search.moe.backbones import MLPMoE\n"
        "class Fragile(MLPMoE):\n"
        "    def __init__(self, input_shape, num_classes, config, layers):\n"
        "        super().__init__(input_shape, num_classes, config, layers)\n"
        "        self.is_fragile = config.d_expert == 8\n"
        "    def forward(self, x):\n"
        "        if self.is_fragile:\n"
        "            raise RuntimeError('eight is too few')\n"
        "        return super().forward(x)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = tiny_spec(
        study={"trials": 4},
        model={"backbone": "fragile_backbone:Fragile", "d_expert": [8, 12], "d_model": [8, 16]},
    )
    with Store.open(storage_url) as store:
        with pytest.raises(UsageError, match="--trust-code"):
            create_study(store, spec, source="test", device="cpu", num_threads=1)
        create_study(store, spec, source="test", device="cpu", num_threads=1, trust_code=True)
        summary = run_study(store, "tiny", trust_code=True)
        assert (summary.complete, summary.failed, summary.state) == (2, 2, "finished")
        failed = store.candidates("tiny", status=("failed",))
    assert {record.candidate.model.d_expert for record in failed} == {8}
    assert {record.reason for record in failed} == {"exception"}
    assert all("eight is too few" in (record.message or "") for record in failed)


def test_designs_that_violate_a_constraint_stay_off_the_front(
    storage_url: str, tiny_spec: MakeSpec
) -> None:
    bound = 1200.0
    spec = small(tiny_spec, study={"constraints": {"max_activated_params": bound}})
    summary = run(storage_url, spec)
    with Store.open(storage_url) as store:
        records = store.candidates("tiny")
        study = optuna.load_study(study_name="tiny", storage=store.storage_for_optuna())
        best = {trial.number for trial in study.best_trials}
    sizes = {record.trial: (record.values or {})["activated_params"] for record in records}
    assert min(sizes.values()) <= bound < max(sizes.values())
    assert [record.feasible for record in records] == [
        sizes[record.trial] <= bound for record in records
    ]
    assert {member.trial for member in summary.front} == best
    assert all(sizes[trial] <= bound for trial in best)


@pytest.mark.parametrize("sampler", ["nsga2", "qmc"])
def test_other_samplers_and_measured_objectives(
    storage_url: str, tiny_spec: MakeSpec, sampler: str
) -> None:
    spec = small(
        tiny_spec,
        study={"objectives": ["validation_loss", "latency_ms", "peak_memory_mb"]},
        search={"sampler": sampler},
        train={"epochs": 1},
    )
    summary = run(storage_url, spec)
    assert (summary.complete, summary.failed) == (5, 0)
    for member in summary.front:
        assert list(member.values) == ["validation_loss", "latency_ms", "peak_memory_mb"]
