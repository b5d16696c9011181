"""Whole studies of language models: from a study file to a front, its weights and a report."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from dynamoe_search.confirmation import findings
from dynamoe_search.data import load_test
from dynamoe_search.report.designed import read_confirmed
from dynamoe_search.report.writing import write_report
from dynamoe_search.search import (
    Limits,
    create_study,
    designed_runs,
    estimate,
    export_candidate,
    run_study,
)
from dynamoe_search.search.confirming import ConfirmRequest, confirm_study
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from dynamoe_search.training.export import load_model, load_validation

MakeSpec = Callable[..., StudySpec]
TEXT: dict[str, Any] = {
    "study": {"objectives": ["perplexity", "activated_params"], "trials": 10},
    "data": {
        "name": "docs",
        "sequence_length": 16,
        "max_train": 60,
        "validation_fraction": 0.01,
        "test_fraction": 0.5,
    },
    "model": {"backbone": "gpt", "d_model": 16, "num_heads": 2, "d_expert": [8, 32]},
    "router": {"kind": ["top-k", "top-p", "dense"], "k": [1, 2]},
    "train": {"epochs": 3, "batch_size": 16, "learning_rate": 0.02},
    "search": {
        "cohort_size": 5,
        "sampler": "tpe",
        "startup_trials": 4,
        "pruner": {"min_records": 2, "rungs": [1, 2]},
    },
}


def text_spec(tiny_spec: MakeSpec, **study: Any) -> StudySpec:
    return tiny_spec(**TEXT | {"study": TEXT["study"] | study})


def test_a_study_of_text_from_its_start_to_a_report(
    tiny_spec: MakeSpec, storage_url: str, tmp_path: Path
) -> None:
    spec = text_spec(tiny_spec)
    assert spec.pruner.kind == "pareto"
    expected = estimate(spec)
    with Store.open(storage_url) as store:
        create_study(store, spec, source="test", device="cpu", num_threads=1)
        summary = run_study(store, "tiny")
        records = store.candidates("tiny")
        front = store.front("tiny")
        write_report(store, "tiny", tmp_path / "report")
        out = tmp_path / "model"
        export_candidate(store, "tiny", front[-1].trial, out)
    assert summary.failed == 0
    assert 0 < summary.hypervolume < 1
    assert all(one.metrics["total_params"] <= expected.parameters_max for one in front)
    perplexities = [one.values["perplexity"] for one in front]
    assert perplexities == sorted(perplexities, reverse=True)
    for one in front:
        assert one.values["perplexity"] == math.exp(one.metrics["validation_loss"])
        assert all(layer.loss_by_k for layer in one.routing)
    for record in records:
        if record.status == "stopped" and record.outcome is not None:
            assert record.outcome.metrics["perplexity"] > 1
    assert "validation loss after each epoch" in _page(tmp_path / "report").lower()
    validation = load_validation(out)
    with torch.no_grad():
        logits, _ = load_model(out)(validation.x)
    loss = F.cross_entropy(logits.flatten(0, 1), validation.y.flatten()).item()
    assert math.exp(loss) == pytest.approx(front[-1].values["perplexity"], rel=1e-4)


def test_bits_per_byte_are_estimated_for_the_sampler_too(
    tiny_spec: MakeSpec, storage_url: str
) -> None:
    spec = text_spec(tiny_spec, objectives=["bits_per_byte", "activated_params"], trials=8)
    with Store.open(storage_url) as store:
        create_study(store, spec, source="test", device="cpu", num_threads=1)
        summary = run_study(store, "tiny")
        front = store.front("tiny")
    assert summary.failed == 0
    for one in front:
        bits = one.metrics["validation_loss"] / math.log(2)
        assert one.values["bits_per_byte"] == pytest.approx(bits, rel=0.01)  # tokens are bytes


def _page(folder: Path) -> str:
    return (folder / "index.html").read_text("utf-8")


def test_confirming_counts_tokens(tiny_spec: MakeSpec, storage_url: str) -> None:
    objectives = ["accuracy", "bits_per_byte", "activated_params"]
    study = TEXT["study"] | {"trials": 2, "objectives": objectives}
    data = TEXT["data"] | {"tokenizer": "bpe", "vocab_size": 300}  # whose tokens are not bytes
    by_accuracy = tiny_spec(**TEXT | {"study": study, "data": data})
    request = ConfirmRequest(seeds=2, trials=(0,), with_baselines=False)
    with Store.open(storage_url) as store:
        create_study(store, by_accuracy, source="test", device="cpu", num_threads=1)
        run_study(store, "tiny", limits=Limits(epochs=6))
        found = confirm_study(store, "tiny", request)
        test = load_test(by_accuracy.data)
        assert found.confirmation is not None
        assert found.confirmation.measure.name == "accuracy"
        assert found.confirmation.examples == test.y.numel() > len(test.y)
        assert "tokens of the test part" in findings(found.confirmation)[0]
        own, made = store.study("tiny").settings, store.study("tiny.confirm").settings
        assert made.reference_point[1] == own.reference_point[1]  # bits per byte of a uniform guess


def test_confirming_a_study_about_perplexity(
    tiny_spec: MakeSpec, storage_url: str, tmp_path: Path
) -> None:
    study = TEXT["study"] | {"trials": 2, "references": ["dense", "top-1"]}
    data = TEXT["data"] | {"test_fraction": 0.02}
    spec = tiny_spec(**TEXT | {"study": study, "data": data})
    request = ConfirmRequest(seeds=2, limit=1, factor=2)
    with Store.open(storage_url) as store:
        create_study(store, spec, source="test", device="cpu", num_threads=1)
        run_study(store, "tiny")
        found = confirm_study(store, "tiny", request)
        assert found.confirmation is not None
        results = {one.trial: one for one in store.tests("tiny.confirm")}
        runs = designed_runs(store, "tiny.confirm")
        (shown, wider) = read_confirmed(store, "tiny", store.candidates("tiny"))
        write_report(store, "tiny", tmp_path / "report")
    assert found.confirmation.measure.name == "perplexity"
    for design in found.confirmation.designs:
        losses = [results[one.record.trial].loss for one in runs if one.design == design.design]
        assert design.test.mean == pytest.approx(sum(losses) / 2)
        assert design.searched is None or design.searched == pytest.approx(design.validation, 0.3)
    assert shown.found == found.confirmation
    assert (wider.found, wider.scaled) == (found.scaled, found.carrying)
    page = _page(tmp_path / "report")
    assert "Perplexity on the test part (lower is better), as in the study" in page
    assert "Accuracy on the test part" not in page
