"""`confirm`: who is trained again, beside whom, and that the test part is looked at by nothing else."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynamoe_search.data import load_test
from dynamoe_search.data.splits import part_indices
from dynamoe_search.errors import DataError, UsageError
from dynamoe_search.records import CandidateRecord
from dynamoe_search.report.designed import read_confirmed
from dynamoe_search.search import create_study, designed_runs, export_candidate, run_study
from dynamoe_search.search.baselines import baselines, mean_k
from dynamoe_search.search.confirming import Confirmed, ConfirmRequest, confirm_study
from dynamoe_search.search.designed import unfinished
from dynamoe_search.search.limits import Limits
from dynamoe_search.specs import DataSection, StudySpec
from dynamoe_search.store import Store
from dynamoe_search.training.export import load_model
from tests.data.conftest import write_mnist
from tests.finished import copy_of, finish, search

SECTIONS: dict[str, dict[str, Any]] = {
    "study": {"name": "tiny", "trials": 5, "references": ["dense"]},
    "data": {"name": "digits", "max_train": 256},
    "model": {"d_model": [8, 16], "num_layers": 2, "d_expert": 8},
    "schedule": {"min_experts": 1, "max_experts": 4, "shape": ["uniform", "descending"]},
    "router": {"kind": ["top-any", "top-p"], "p": [0.3, 0.6]},
    "train": {"epochs": 2, "batch_size": 64, "learning_rate": [0.003, 0.01]},
    "search": {"cohort_size": 8, "startup_trials": 4, "pruner": {"kind": "none"}},
}
ONCE = ConfirmRequest(seeds=2, limit=2)


def spec_with(**sections: dict[str, Any]) -> StudySpec:
    return StudySpec.model_validate(
        {name: SECTIONS[name] | sections.get(name, {}) for name in SECTIONS}
    )


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> str:
    return finish(tmp_path_factory.mktemp("parent"), **SECTIONS)


@pytest.fixture
def url(parent: str, tmp_path: Path) -> str:
    return copy_of(parent, tmp_path / "copy")


@pytest.fixture(scope="module")
def confirmed(parent: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Confirmed]:
    url = copy_of(parent, tmp_path_factory.mktemp("confirmed") / "copy")
    with Store.open(url) as store:
        return url, confirm_study(store, "tiny", ONCE)


def members(store: Store) -> dict[str, CandidateRecord]:
    records = store.candidates("tiny", status=("complete",))
    return {f"trial-{one.trial}": one for one in records}


def test_plain_designs_match_the_searched_ones(parent: str) -> None:
    with Store.open(parent) as store:
        chosen = members(store)
    found = baselines(chosen, spec_with())
    names = [one.name for one in found]
    assert len(set(names)) == len(names)
    widths = {one.candidate.model.d_model for one in chosen.values()}
    assert len(widths) == 2  # or the study must be another one
    for name, width in (("top-1", 8), ("top-1", 16), ("top-2", 8), ("top-2", 16)):
        (one,) = [each for each in found if each.name == f"{name}, d_model {width}"]
        assert (one.candidate.experts_per_layer, one.candidate.model.d_model) == ((4, 4), width)
    hashes = {one.candidate.design_hash for one in found}
    assert len(hashes) == len(found)
    assert not hashes & {one.candidate.design_hash for one in chosen.values()}
    for name, record in chosen.items():
        own = [one for one in found if one.of == name]
        assert record.outcome is not None
        mean = mean_k(record.outcome.routing)
        for one in own:
            assert one.candidate.experts_per_layer == record.experts_per_layer
            assert one.candidate.train == record.candidate.train
            assert one.candidate.model == record.candidate.model
            if one.candidate.router.kind == "top-k":
                assert one.candidate.router.k is not None
                assert abs(one.candidate.router.k - mean) < 1 or mean < 1
            else:
                histogram = one.candidate.router.histogram
                assert histogram is not None
                assert sum(histogram) == pytest.approx(1)
                assert np.dot(histogram, range(len(histogram))) == pytest.approx(mean, abs=1e-4)


def test_confirmation_says_what_it_found(confirmed: tuple[str, Confirmed]) -> None:
    url, found = confirmed
    assert found.studies == ("tiny.confirm",)
    assert found.confirmation is not None
    assert {one.kind for one in found.confirmation.designs} == {"member", "baseline"}
    with Store.open(url) as store:
        runs = designed_runs(store, "tiny.confirm")
        assert len(store.tests("tiny.confirm")) == len(runs) == 2 * len(found.confirmation.designs)
        assert store.study("tiny.confirm").state == "finished"
        assert store.tests("tiny") == []
    assert {f"trial-{trial}" for trial in found.chosen} < {one.design for one in runs}


def test_test_results_are_those_of_the_exported_models(
    confirmed: tuple[str, Confirmed], tmp_path: Path
) -> None:
    url, _ = confirmed
    test = load_test(spec_with().data)
    with Store.open(url) as store:
        results = {one.trial: one for one in store.tests("tiny.confirm")}
        for run in designed_runs(store, "tiny.confirm")[:3]:
            out = tmp_path / str(run.record.trial)
            export_candidate(store, "tiny.confirm", run.record.trial, out)
            with torch.no_grad():
                logits, _ = load_model(out)(test.x)
            result = results[run.record.trial]
            assert result.accuracy == float((logits.argmax(1) == test.y).double().mean())
            assert result.examples == len(test.y)
            assert len(result.mean_k) == 2


def test_same_request_does_nothing_twice(confirmed: tuple[str, Confirmed]) -> None:
    url, found = confirmed
    with Store.open(url) as store:
        before = store.tests("tiny.confirm"), store.legs("tiny.confirm")
        again = confirm_study(store, "tiny", ONCE)
        assert (store.tests("tiny.confirm"), store.legs("tiny.confirm")) == before
    assert again.confirmation == found.confirmation


class Countdown:
    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_used_up_budget_is_named_with_what_lifts_it(url: str) -> None:
    request = replace(ONCE, with_baselines=False)
    with Store.open(url) as store:
        confirm_study(store, "tiny", request, should_stop=Countdown(1))
        run_study(store, "tiny.confirm", limits=Limits(epochs=4))
        found = confirm_study(store, "tiny", request)
        assert found.confirmation is None
        assert found.unfinished is not None
        assert "a budget of 4 candidate-epochs" in found.unfinished
        assert "resume tiny.confirm --epochs 8" in found.unfinished  # 2 designs, 2 seeds, 2 epochs
        run_study(store, "tiny.confirm", limits=Limits(epochs=8))
        assert confirm_study(store, "tiny", request).confirmation is not None
        store.set_time_budget("tiny.confirm", 1.0)
        (summary,) = found.summaries
        told = unfinished(store, replace(summary, reason="time-budget"))
        assert "a time budget of 1 s" in (told or "")


def test_measuring_stops_between_packs_and_goes_on(url: str) -> None:
    request = replace(ONCE, with_baselines=False)
    with Store.open(url) as store:
        confirm_study(store, "tiny", request, should_stop=Countdown(1))
        assert run_study(store, "tiny.confirm").state == "finished"
        store.set_max_pack("tiny.confirm", 1)  # so that there are as many packs as runs
        numbers = []
        for _ in range(20):
            found = confirm_study(store, "tiny", request, should_stop=Countdown(3))
            numbers.append(len(store.tests("tiny.confirm")))
            if found.confirmation is not None:
                break
            data = read_confirmed(store, "tiny", store.candidates("tiny"))
            assert [one.unmeasured for one in data] == [4 - numbers[-1]]
            assert "Measuring on the test part is not over" in " ".join(data[0].sentences)
            assert data[0].runs == ()
        assert 0 < numbers[0] < 4
        assert numbers[-1] == 4
        (whole,) = read_confirmed(store, "tiny", store.candidates("tiny"))
        assert (whole.unmeasured, len(whole.runs)) == (0, 4)


def test_interrupted_confirmation_comes_to_the_same_numbers(
    confirmed: tuple[str, Confirmed], url: str
) -> None:
    _, expected = confirmed
    with Store.open(url) as store:
        num_stops = 0
        while True:
            found = confirm_study(store, "tiny", ONCE, should_stop=Countdown(9))
            if found.confirmation is not None:
                break
            assert found.summaries[-1].state == "interrupted"
            assert store.tests("tiny.confirm") == []
            num_stops += 1
        assert num_stops > 2
    assert found.confirmation == expected.confirmation


def test_scaled_designs_are_the_same_but_wider_or_longer(url: str) -> None:
    with Store.open(url) as store:
        request = replace(ONCE, with_baselines=False, factor=2)
        wider = confirm_study(store, "tiny", request)
        longer = confirm_study(store, "tiny", replace(request, scale_by="epochs"))
        assert wider.studies == ("tiny.confirm", "tiny.confirm-2")
        assert longer.studies == ("tiny.confirm", "tiny.confirm-3")
        assert wider.carrying is not None
        assert (wider.carrying.factor, wider.carrying.by) == (2, "width")
        assert longer.scaled is not None
        small, wide, long = (
            [one.record for one in designed_runs(store, name)]
            for name in ("tiny.confirm", "tiny.confirm-2", "tiny.confirm-3")
        )
    for one, other, third in zip(small, wide, long, strict=True):
        model = asdict(one.candidate.model)
        assert asdict(other.candidate.model) == model | {
            "d_model": 2 * model["d_model"],
            "d_expert": 16,
        }
        assert other.candidate.train == one.candidate.train
        assert third.candidate.train == replace(one.candidate.train, epochs=4)
        assert third.outcome is not None
        assert (third.epochs, third.outcome.epochs) == (4, 4)


def test_front_is_cut_evenly_and_trials_can_be_chosen(url: str) -> None:
    with Store.open(url) as store:
        front = [member.trial for member in store.front("tiny")]
        assert len(front) > 2  # or the study must be another one
        ends = confirm_study(store, "tiny", replace(ONCE, with_baselines=False))
        assert ends.chosen == (front[0], front[-1])
        assert ends.num_front == len(front)
        named = confirm_study(store, "tiny", replace(ONCE, trials=(4, 1, 4), with_baselines=False))
        assert named.chosen == (4, 1)
        assert named.num_front is None


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (ConfirmRequest(seeds=1), "--seeds must be at least 2, got 1"),
        (ConfirmRequest(limit=0), "--limit must be at least 1"),
        (ConfirmRequest(factor=0), "--scale must be 2 or more"),
        (ConfirmRequest(trials=(77,)), "has no trial 77; it has trials 0 to 4"),
    ],
)
def test_requests_that_cannot_be(request_: ConfirmRequest, words: str, parent: str) -> None:
    with Store.open(parent) as store:
        with pytest.raises(UsageError, match=words):
            confirm_study(store, "tiny", request_)
        assert store.children("tiny") == []


def test_studies_that_cannot_be_confirmed(confirmed: tuple[str, Confirmed], url: str) -> None:
    with Store.open(confirmed[0]) as store:
        with pytest.raises(UsageError, match="confirm 'tiny' instead"):
            confirm_study(store, "tiny.confirm", ONCE)
        with pytest.raises(UsageError, match="there is no study 'other'"):
            confirm_study(store, "other", ONCE)
    with Store.open(url) as store:
        create_study(store, spec_with(study={"name": "new"}), source="test", device="cpu")
        with pytest.raises(UsageError, match="has an empty front, so there is nothing to confirm"):
            confirm_study(store, "new", ONCE)
        run_study(store, "new", should_stop=Countdown(6))
        with pytest.raises(UsageError, match="trial 0 of the study 'new' is running, not complete"):
            confirm_study(store, "new", replace(ONCE, trials=(0,)))


# The test part


def archive(path: Path, section: DataSection, *, poisoned: bool) -> None:
    """Writes examples that can be learnt; the poisoned archive has other test examples."""
    generator = np.random.default_rng(1)
    y = np.arange(400) % 4
    x = generator.normal(0.0, 1.0, (400, 6)) + np.eye(4, 6)[y] * 3
    test = part_indices(y, section, has_test=False).test
    if poisoned:
        x[test] = -x[test]  # the labels decide on the division, so they stay
    np.savez(path, x=x, y=y)


def facts(store: Store, name: str) -> list[Any]:
    found = []
    for one in store.candidates(name):
        assert one.outcome is not None
        found.append((one.candidate, one.values, one.outcome.metrics, one.outcome.routing))
    return [*found, [(member.trial, member.values) for member in store.front(name)]]


def test_only_confirm_depends_on_the_test_part(tmp_path: Path) -> None:
    data = {"name": "npz", "path": str(tmp_path / "own.npz"), "max_train": None}
    spec = spec_with(data=data)
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("clean", "poisoned")]
    seen, tests = [], []
    for url, poisoned in zip(urls, (False, True), strict=True):
        archive(tmp_path / "own.npz", spec.data, poisoned=poisoned)
        search(url, spec)
        with Store.open(url) as store:
            confirm_study(store, "tiny", replace(ONCE, with_baselines=False))
            seen.append([facts(store, name) for name in ("tiny", "tiny.confirm")])
            tests.append([replace(one, measured_at="") for one in store.tests("tiny.confirm")])
    assert seen[0] == seen[1]  # the poison changed nothing but what confirm measured
    assert all(one != other for one, other in zip(*tests, strict=True))


def test_search_reads_no_test_part_and_confirm_says_where_it_is_broken(
    tmp_path: Path, storage_url: str
) -> None:
    folder = write_mnist(tmp_path / "mnist")
    for path in folder.glob("t10k*"):
        path.write_bytes(b"poison")
    data = {"name": "mnist", "path": str(folder), "download": False, "max_train": None}
    search(storage_url, spec_with(data=data))
    with Store.open(storage_url) as store:
        with pytest.raises(DataError, match="t10k"):
            confirm_study(store, "tiny", ONCE)
        assert store.children("tiny") == []
