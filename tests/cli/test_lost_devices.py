"""A device that fails under a process: the process ends with a sentence, and another one goes on."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dynamoe_search.store import Store
from tests.cli.conftest import Run as Cli

ROOT = Path(__file__).parents[2]
NETWORK = '''
import torch
from torch import nn


class Asserts(nn.Module):
    """Fails in training as a GPU's kernel does, if its first layer has one expert."""

    def __init__(self, input_shape, num_classes, config, layers):
        super().__init__()
        self.embed = nn.Linear(input_shape[1] * input_shape[2], config.d_model)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(config.d_model, num_classes)
        self.register_buffer("num_experts", torch.tensor(float(len(layers[0].is_open))))

    def forward(self, x):
        if self.training and self.num_experts < 2:
            error = torch.AcceleratorError("CUDA error: device-side assert triggered")
            error.error_code = 710
            raise error
        h, routings = self.embed(x.flatten(1)), []
        for layer in self.layers:
            h, routing = layer(h)
            routings.append(routing)
        return self.head(h), routings
'''


Run = Callable[..., "subprocess.CompletedProcess[str]"]
ENDS_AT_ONCE = f"""
import os, sys
if "worker" in sys.argv:
    os._exit(CODE)
{NETWORK}"""


def runner(study_file: Path, storage_url: str, network: str) -> Run:
    """Puts a network into a study, and returns what runs a command of the program beside it."""
    folder = study_file.parent
    (folder / "own_asserts.py").write_text(network)
    study_file.write_text(
        study_file.read_text().replace("[model]", '[model]\nbackbone = "own_asserts:Asserts"')
    )

    def run(*words: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "dynamoe_search", *map(str, words), "--storage", storage_url],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    return run


@pytest.mark.slow  # processes that load torch
@pytest.mark.parametrize(("code", "restarts"), [(3, 3), (1, 0)])
def test_command_ends_as_its_only_worker_did(
    code: int, restarts: int, study_file: Path, storage_url: str
) -> None:
    run = runner(study_file, storage_url, ENDS_AT_ONCE.replace("CODE", str(code)))
    done = run("run", study_file, "--trust-code", "--quiet", "--workers", 1)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("worker 1 lost cpu; started again") == restarts
    assert done.stderr.splitlines()[-1].startswith(
        f"error: worker 1 on cpu ended with status {code}: it said nothing"
    )


@pytest.mark.slow
def test_other_processes_go_on_and_only_who_is_at_fault_fails(
    study_file: Path, storage_url: str
) -> None:
    run = runner(study_file, storage_url, NETWORK)
    first = run("run", study_file, "--trust-code", "--quiet", "--threads", 1)
    assert first.returncode == 3, first.stderr
    assert first.stderr.splitlines()[-1] == (
        "error: the device cpu failed while 3 candidates were trained (CUDA error: device-side assert triggered), "
        "and does nothing more for this process; resume goes on from the checkpoints, in another one"
    )
    with Store.open(storage_url) as store:
        assert {one.status for one in store.candidates("tiny")} == {"running"}
    second = run("resume", "tiny", "--trust-code", "--workers", 1)
    assert second.returncode == 0, second.stderr
    assert second.stderr.count("worker 1 lost cpu; started again") == 1
    with Store.open(storage_url) as store:
        candidates = store.candidates("tiny")
    ends = {one.candidate.experts_per_layer[0] > 1: one.outcome for one in candidates}
    failed = [one for one in candidates if one.status == "failed"]
    assert [one.candidate.reference for one in failed] == ["dense"]
    assert ends[False] is not None
    assert ends[False].reason == "device-lost"
    assert {one.status for one in candidates} == {"failed", "complete"}
    assert len(candidates) == 6


def test_commands_that_train_nobody_say_it_in_the_same_way(
    study_file: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"own_{study_file.parent.name}"  # modules are kept by their names
    network = NETWORK.replace("self.num_experts < 2", "True")
    network = network.replace("triggered", "triggered\\nand more")  # as torch tells of CUDA
    (study_file.parent / f"{name}.py").write_text(network)
    monkeypatch.syspath_prepend(study_file.parent)
    own = ("--set", f"model.backbone={name}:Asserts", "--trust-code", "--device", "cpu")
    done = cli("bench", study_file, *own, "--packs", "1", "--time", "1s", "--json")
    assert done.exit_code == 3, done.output
    assert done.stderr == (
        "error: the device failed (CUDA error: device-side assert triggered), and does nothing more for this process; "
        "run the command again\n"
    )
    told = json.loads(done.stdout)
    assert (told["kind"], told["exit_code"]) == ("device", 3)
