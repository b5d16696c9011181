"""Exported models of somebody else are data, and nothing is written over what others own."""

import json
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from dynamoe_search.cli.options import check_folder
from dynamoe_search.errors import UsageError
from dynamoe_search.records import Candidate, Outcome
from dynamoe_search.specs import DataSection
from dynamoe_search.training.export import (
    CARD,
    CONFIG,
    FORMAT,
    WEIGHTS,
    ExportedConfig,
    load_model,
    save_model,
)
from tests.cli.conftest import STUDY, invoke
from tests.security.bombs import Bomb
from tests.training.populations import candidate


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """An exported model that loads."""
    from dynamoe_search.moe.backbones import build_model

    design = candidate(0)
    folder = tmp_path / "model"
    config = ExportedConfig(
        format=FORMAT, study="s", trial=0, input_shape=(1, 8, 8), num_classes=10, candidate=design,
        outcome=outcome(design), data=DataSection(), mean=(0.0,), std=(1.0,), versions={},
    )  # fmt: skip
    save_model(folder, config, build_model(design, (1, 8, 8), 10).state_dict())
    load_model(folder)
    return folder


def outcome(design: Candidate) -> Outcome:
    return Outcome(
        ordinal=design.ordinal, status="complete", metrics={"accuracy": 0.5}, routing=(), epochs=1,
        seconds=1.0, device="cpu", pack_size=1,
    )  # fmt: skip


def with_config(folder: Path, **model: Any) -> None:
    path = folder / CONFIG
    config = json.loads(path.read_text())
    config["candidate"]["model"] |= model
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("form", ["pickle", "torch", "zip"])
def test_weights_that_are_a_pickle_are_refused(form: str, exported: Path, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", exported / WEIGHTS
    if form == "pickle":
        path.write_bytes(pickle.dumps(Bomb(canary)))
    elif form == "torch":
        torch.save(Bomb(canary), path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Bomb(canary)))
    with pytest.raises(UsageError, match="not a safetensors file"):
        load_model(exported)
    assert not canary.exists()


@pytest.mark.parametrize("backbone", ["os:system", "posix:system", "builtins:exec", "canary:Model"])
def test_a_config_that_names_code_is_refused(
    backbone: str, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "ran"
    (tmp_path / "canary.py").write_text(f"open({str(canary)!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with_config(exported, backbone=backbone)
    with pytest.raises(UsageError, match="trust-code"):
        load_model(exported)
    assert not canary.exists()


def test_a_study_file_that_names_code_is_refused(
    tmp_path: Path, storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary, path = tmp_path / "ran", tmp_path / "study.toml"
    (tmp_path / "canary.py").write_text(f"open({str(canary)!r}, 'w')\n")
    path.write_text(STUDY.replace("d_model = 8", 'backbone = "canary:Model"\nd_model = 8'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for command in ("check", "run", "train"):
        storage = ("--storage", storage_url) if command == "run" else ()
        result = invoke(command, path.name, *storage)
        assert result.exit_code == 2, result.output
        assert "canary" not in sys.modules
    assert not canary.exists()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"a":' * 100_000,
        "{}",
        "null",
        "1" * 10_000,
        '{"format": 1}',
        "\x00",
        "[1]" * 9,
    ],
)
def test_a_config_that_is_none_is_refused(text: str, exported: Path) -> None:
    (exported / CONFIG).write_text(text)
    with pytest.raises(UsageError, match="not the configuration of an exported model"):
        load_model(exported)


@pytest.mark.parametrize(
    "model",
    [
        {"d_model": -4},
        {"d_model": 32},
        {"d_expert": 10**12},
        {"d_expert": -1},
        {"backbone": "../x"},
    ],
)
def test_a_config_that_describes_no_model_is_refused(model: dict[str, Any], exported: Path) -> None:
    with_config(exported, **model)
    with pytest.raises(UsageError):
        load_model(exported)


@pytest.mark.parametrize("content", ['{"model_type": "bert"}', "{}", "[", "[]", "[" * 100_000])
def test_the_model_of_another_program_is_not_overwritten(content: str, tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(content)
    (tmp_path / WEIGHTS).write_text("theirs")
    with pytest.raises(UsageError, match="no earlier export"):
        check_folder(tmp_path)


def test_an_earlier_export_may_be_overwritten(exported: Path) -> None:
    check_folder(exported)


@pytest.mark.parametrize("name", [CARD, WEIGHTS, CONFIG])
def test_nothing_is_written_through_a_link(name: str, exported: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    (exported / name).rename(target)
    (exported / name).symlink_to(target)
    with pytest.raises(UsageError, match="link"):
        check_folder(exported)
