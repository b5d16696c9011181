"""Models that leave a study, and one architecture trained alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dynamoe_search.errors import UsageError
from dynamoe_search.search import create_study, export_candidate, run_study, train_one
from dynamoe_search.search.exporting import Exported
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from dynamoe_search.training.export import load_config, load_model, load_validation, save_model

MakeSpec = Callable[..., StudySpec]


def accuracy_of(folder: Path) -> float:
    """What a stranger measures who loads the folder."""
    model, validation = load_model(folder), load_validation(folder)
    with torch.no_grad():
        logits, _ = model(validation.x)
    return float((logits.argmax(1) == validation.y).double().mean())


def test_members_of_the_front_and_others_can_be_exported(
    tiny_spec: MakeSpec, storage_url: str, tmp_path: Path
) -> None:
    spec = tiny_spec(
        study={"trials": 4},
        router={"kind": ["top-k", "top-any"]},
        train={"learning_rate": [0.01, 1e-6]},
    )
    exported: dict[int, Exported] = {}
    with Store.open(storage_url) as store:
        create_study(store, spec, source="test", device="cpu", num_threads=1)
        run_study(store, "tiny")
        members = {member.trial for member in store.front("tiny")}
        for record in store.candidates("tiny"):
            out = tmp_path / str(record.trial)
            exported[record.trial] = export_candidate(store, "tiny", record.trial, out)
            assert load_config(out).candidate == record.candidate
    assert members < exported.keys()  # some are kept, some are trained again
    for trial, export in exported.items():
        assert export.is_retrained == (trial not in members)
        own = export.metrics["accuracy"]
        assert own == export.stored["accuracy"] == accuracy_of(tmp_path / str(trial))


def test_a_trial_that_is_not_complete_has_no_model(
    tiny_spec: MakeSpec, storage_url: str, tmp_path: Path
) -> None:
    with Store.open(storage_url) as store:
        create_study(store, tiny_spec(), source="test", device="cpu", num_threads=1)
        with pytest.raises(UsageError):
            export_candidate(store, "tiny", 0, tmp_path)
        asked: list[bool] = []
        run_study(store, "tiny", should_stop=lambda: len(asked) > 2 or bool(asked.append(True)))
        with pytest.raises(UsageError, match="is running and has no model"):
            export_candidate(store, "tiny", 0, tmp_path)


def test_one_architecture_is_trained_and_saved(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    trained = train_one(tiny_spec(), device="cpu", num_threads=1)
    assert trained.outcome.status == "complete"
    assert trained.candidate.experts_per_layer == (3, 3)
    save_model(tmp_path, trained.config, trained.state)
    assert accuracy_of(tmp_path) == trained.outcome.metrics["accuracy"]


def test_open_values_are_named(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(router={"kind": "top-p", "p": [0.3, 0.5]}, model={"d_model": [8, 16]})
    with pytest.raises(UsageError, match=r"model.d_model, router.p can take several"):
        train_one(spec)
