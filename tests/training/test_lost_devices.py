"""Errors after which a device computes nothing more for the process: nobody fails of them but who is at fault."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dynamoe_search.errors import DeviceLostError
from dynamoe_search.records import Candidate
from dynamoe_search.training import CheckpointFolder, Trained
from dynamoe_search.training.failures import is_device_lost, is_out_of_memory
from tests.training.own_backbones import TRUSTED, importable, own, pack_of, stop_after, train
from tests.training.populations import differing, digits, train_population


@pytest.fixture(autouse=True, scope="module")
def own_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The networks of a user as a file that can be imported."""
    with importable(tmp_path_factory.mktemp("own")):
        yield


def cuda_error(code: int | None, words: str) -> RuntimeError:
    """An error as torch raises it for what CUDA answers."""
    error = torch.AcceleratorError(f"CUDA error: {words}")
    if code is not None:
        error.error_code = code  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (cuda_error(710, "device-side assert triggered"), True),
        (cuda_error(700, "an illegal memory access was encountered"), True),
        (cuda_error(719, "unspecified launch failure"), True),
        (cuda_error(214, "uncorrectable ECC error encountered"), True),
        (cuda_error(999, "unknown error"), True),
        (cuda_error(None, "an illegal memory access was encountered"), True),
        (RuntimeError("Triton Error [CUDA]: device-side assert triggered"), True),
        (cuda_error(2, "out of memory"), False),
        (cuda_error(9, "invalid configuration argument"), False),
        (cuda_error(900, "operation not permitted when stream is capturing"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("device-side assert triggered"), False),
    ],
)
def test_what_another_process_alone_can_mend(error: Exception, expected: bool) -> None:
    assert is_device_lost(error, "cpu") is expected
    assert is_device_lost(error, "cuda:0") is expected  # a device that was never used is not asked


def test_memory_that_runs_out_is_no_lost_device() -> None:
    assert is_out_of_memory(cuda_error(2, "out of memory"))


def absurd(ordinal: int) -> Candidate:
    """A candidate that is at fault."""
    rates = {"learning_rate": 15.0, "clip_norm": 0.0, "epochs": 3, "warmup_fraction": 1.0}
    one = own("LosesTheDevice", ordinal)
    return replace(one, train=replace(one.train, **rates))  # type: ignore[arg-type]


def in_processes(pack: list[Candidate], folder: CheckpointFolder) -> tuple[list[Trained], int]:
    """Trains a pack, anew after each loss of the device; returns the ends, and how many losses there were."""
    for losses in range(10):
        with suppress(DeviceLostError):
            return train_population(pack, digits(), TRUSTED, checkpoints=folder), losses
    raise AssertionError("it never ended")


def test_who_is_at_fault_fails_alone_and_the_others_lose_nothing(tmp_path: Path) -> None:
    good = pack_of("LosesTheDevice")
    whole = train(good)
    folder = CheckpointFolder(tmp_path / "leg", every_seconds=0)
    ended, losses = in_processes([*good[:2], absurd(100), *good[2:]], folder)
    failed = ended.pop(2).outcome
    assert losses == 2
    assert failed is not None
    assert (failed.status, failed.reason) == ("failed", "device-lost")
    assert (
        failed.message == "the device cpu failed 2 times while it was trained, the last time alone"
    )
    for one in ended:
        assert differing(one, whole[one.ordinal]) == []


def test_who_is_alone_has_a_second_try(tmp_path: Path) -> None:
    ended, losses = in_processes([absurd(100)], CheckpointFolder(tmp_path / "leg"))
    assert losses == 2
    assert ended[0].outcome is not None
    assert ended[0].outcome.reason == "device-lost"


def test_a_loss_by_chance_changes_no_number(tmp_path: Path) -> None:
    """It is remembered for as long as the leg, beside checkpoints that come and go."""
    pack = [own("LosesTheDevice", 3)]
    folder = CheckpointFolder(tmp_path / "leg", every_seconds=0)
    folder.write_loss("uncorrectable ECC error encountered")
    steps: list[int] = []
    ended = train_population(
        pack, digits(), TRUSTED, should_stop=stop_after(1000, steps), checkpoints=folder
    )
    assert differing(ended[0], train(pack)[3]) == []
    assert folder.num_losses == 1


def test_a_pack_of_many_is_divided_so_that_few_processes_end(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "leg")
    pack = [*(own("LosesTheDevice", i, train={"epochs": 1}) for i in range(16)), absurd(100)]
    with pytest.raises(
        DeviceLostError, match=r"17 candidates.*assert triggered\), and does nothing more"
    ):
        train_population(pack, digits(), TRUSTED, checkpoints=folder)
    _, losses = in_processes(pack, folder)
    losses += 1
    assert losses <= 3  # so often is a worker started again
