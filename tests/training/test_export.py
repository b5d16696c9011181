"""A model that leaves is the module that was written: weights and text, no pickle, the stored numbers again."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dynamoe_search.errors import UsageError
from dynamoe_search.moe.layer import MoELayer
from dynamoe_search.records import Candidate
from dynamoe_search.specs import DataSection
from dynamoe_search.training import Trained
from dynamoe_search.training.export import (
    CARD,
    CONFIG,
    FORMAT,
    WEIGHTS,
    ExportedConfig,
    load_config,
    load_model,
    load_state,
    load_validation,
    save_model,
)
from tests.training.populations import SETTINGS, candidate, digits, mixed_pack, train_population


def config_of(design: Candidate, trained: Trained) -> ExportedConfig:
    data = digits()
    return ExportedConfig(
        format=FORMAT,
        study="a study",
        trial=3,
        input_shape=data.input_shape,
        num_classes=data.num_classes,
        candidate=design,
        outcome=trained.outcome,
        data=DataSection(max_train=200),
        mean=data.mean,
        std=data.std,
        versions={"torch": torch.__version__},
    )


@pytest.mark.parametrize("backbone", ["mlp", "vit"])
def test_the_loaded_module_has_the_stored_accuracy(backbone: str, tmp_path: Path) -> None:
    pack = mixed_pack(backbone)
    closed = 0
    for design, trained in zip(pack, train_population(pack, digits(), SETTINGS), strict=True):
        folder = tmp_path / str(design.ordinal)
        assert trained.state is not None
        save_model(folder, config_of(design, trained), trained.state)
        assert sorted(path.name for path in folder.iterdir()) == sorted((WEIGHTS, CONFIG, CARD))
        model, split = load_model(folder), load_validation(folder)
        assert not model.training
        with torch.no_grad():
            logits, routings = model(split.x)
        correct = int((logits.argmax(1) == split.y).sum())
        assert correct / len(split.y) == trained.outcome.metrics["accuracy"]
        for layer, routing in zip(trained.outcome.routing, routings, strict=True):
            assert layer.mean_k == pytest.approx(routing.mask.sum(1).double().mean().item())
            assert routing.mask.shape[1] == design.slots_per_layer[layer.layer]
        layers = [module for module in model.modules() if isinstance(module, MoELayer)]
        closed += sum(int((~layer.is_open).sum()) for layer in layers)
        assert load_config(folder) == config_of(design, trained)
    assert closed > 0  # adaptive candidates leave with their closed slots


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes a folder of its own with the same small model."""
    design = candidate(0, train={"epochs": 1})
    (trained,) = train_population([design], digits(), SETTINGS)

    def make() -> Path:
        folder = tmp_path_factory.mktemp("model")
        assert trained.state is not None
        save_model(folder, config_of(design, trained), trained.state)
        return folder

    return make


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / CONFIG).read_text())
    change(content)
    (folder / CONFIG).write_text(json.dumps(content))


SPOILS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / CONFIG).unlink(), "holds no exported model"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "there are no weights at"),
    "weights cut off": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100]),
        "not a safetensors file",
    ),
    "weights of nothing": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "not a safetensors"),
    "a pickle": (
        lambda folder: torch.save({"a": torch.ones(1)}, folder / WEIGHTS),
        "not a safetensors file",
    ),
    "config of nothing": (lambda folder: (folder / CONFIG).write_text("{}"), "not the config"),
    "config cut off": (lambda folder: (folder / CONFIG).write_text('{"format": 1,'), "not the con"),
    "not text": (lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe\x00"), "not the config"),
    "another format": (
        lambda folder: edit(folder, lambda c: c.update(format=FORMAT + 1)),
        f"has format {FORMAT + 1}, and this version reads format {FORMAT}",
    ),
    "another width": (
        lambda folder: edit(folder, lambda c: c["candidate"]["model"].update(d_model=20)),
        "do not fit",
    ),
    "a router that is none": (
        lambda folder: edit(folder, lambda c: c["candidate"]["router"].update(kind="top-secret")),
        "describes no model",
    ),
    "heads that do not divide": (
        lambda folder: edit(
            folder, lambda c: c["candidate"]["model"].update(backbone="vit", num_heads=3)
        ),
        "describes no model",
    ),
    "a width below nothing": (
        lambda folder: edit(folder, lambda c: c["candidate"]["model"].update(d_model=-4)),
        "describes no model",
    ),
    "code that is not trusted": (
        lambda folder: edit(folder, lambda c: c["candidate"]["model"].update(backbone="os:system")),
        "--trust-code",
    ),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_what_cannot_be_loaded_is_one_sentence(spoil: str, exported: Callable[[], Path]) -> None:
    folder = exported()
    load_model(folder)
    change, message = SPOILS[spoil]
    change(folder)
    with pytest.raises(UsageError, match=message) as caught:
        load_model(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_that_is_missing_or_cannot_be_made(
    tmp_path: Path, exported: Callable[[], Path]
) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="there is no folder"):
        load_validation(tmp_path / "nowhere")
    folder = exported()
    config, state = load_config(folder), load_state(folder / WEIGHTS)
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="cannot be written to"):
            save_model(place, config, state)


def test_the_card_says_what_it_is_and_acts_on_nothing(tmp_path: Path) -> None:
    design = candidate(0, train={"epochs": 1})
    (trained,) = train_population([design], digits(), SETTINGS)
    config = replace(config_of(design, trained), study="<script>[x](y)`$(a)`", trial=None)
    save_model(tmp_path, config, trained.state or {})
    card = (tmp_path / CARD).read_text()
    assert "`top-any`" in card
    assert f"| accuracy | {trained.outcome.metrics['accuracy']:,.4f} |" in card
    assert not set("<>[$") & set(card.splitlines()[0])


def test_the_card_of_a_confirmed_model_does_not_say_that_the_test_part_was_left_alone(
    tmp_path: Path,
) -> None:
    design = candidate(0)
    (trained,) = train_population([design], digits(), SETTINGS)
    for purpose, is_told in (("search", True), ("confirm", False), ("audit", True)):
        config = replace(config_of(design, trained), purpose=purpose)
        save_model(tmp_path / purpose, config, trained.state or {})
        card = (tmp_path / purpose / CARD).read_text()
        assert ("the test part was not" in card) == is_told
        assert load_config(tmp_path / purpose) == config
