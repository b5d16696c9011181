"""What a crew hands its workers, and how it ends them; a small program stands in for the worker."""

import json
import os
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dynamoe_search.search import Crew, devices_of, stored_device
from dynamoe_search.search.machine import resolve_device, train_settings
from dynamoe_search.search.workers import CrewEnd, seeing
from dynamoe_search.specs import StudySpec
from dynamoe_search.training.states import circumstances
from tests.store.builders import SETTINGS
from tests.training.populations import digits

PROGRAM = f"""\
#!{sys.executable}
import json, os, signal, sys, time
from pathlib import Path
told = Path(os.environ["TOLD"])
with told.open("a") as file:
    file.write(json.dumps([sys.argv[1:], dict(os.environ)]) + "\\n")
if len(told.read_text().splitlines()) == 1 and "KILLED" in os.environ:
    time.sleep(1.2)
    os.kill(os.getpid(), signal.SIGKILL)
if len(told.read_text().splitlines()) <= int(os.environ.get("LOST", 0)):
    sys.exit(3)
if "FAILS" in os.environ:
    print(json.dumps({{"ok": False, "error": "no room, " + os.environ["PGPASSWORD"]}}, indent=2))
    sys.exit(2)
def leave(*_):
    time.sleep(1)
    told.with_name("checkpoint").touch()
    sys.exit(0)
if "WAITS" in os.environ:
    signal.signal(signal.SIGTERM, leave)
    told.with_name("ready").touch()
    time.sleep(60)
print(json.dumps({{"reason": "trials"}}))
"""
Start = Callable[..., Crew]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    program = tmp_path / "program"
    program.write_text(PROGRAM)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))

    def crew(*devices: str, timeout: float | None = None, **more: str) -> Crew:
        environment = {**os.environ, "TOLD": str(tmp_path / "told"), **more}
        return Crew(
            "tiny", devices, logs=tmp_path, environment=environment, timeout_seconds=timeout
        )

    return crew


def told(folder: Path) -> list[tuple[list[str], dict[str, str]]]:
    """Arguments and environment of every worker that was started."""
    return [json.loads(line) for line in (folder / "told").read_text().splitlines()]


def test_failure_of_the_crew_leaves_workers_time_for_a_checkpoint(
    start: Start, tmp_path: Path
) -> None:
    def fail(_: int) -> None:
        if (tmp_path / "ready").exists():
            raise RuntimeError("unexpected")

    began = time.monotonic()
    with pytest.raises(RuntimeError, match="unexpected"):
        start("cpu", WAITS="1").run(lambda: False, fail)
    assert (tmp_path / "checkpoint").exists()
    assert time.monotonic() - began < 15


def test_worker_that_is_started_again_has_what_is_left_of_the_time(
    start: Start, tmp_path: Path
) -> None:
    end = start("cpu", timeout=100.0, KILLED="1").run(lambda: False)
    assert end.reason == "trials"
    first, second = (
        float(arguments[arguments.index("--timeout") + 1]) for arguments, _ in told(tmp_path)
    )
    assert first == 100.0
    assert 80.0 < second < 99.0


def test_worker_whose_device_failed_is_started_again(start: Start, tmp_path: Path) -> None:
    assert start("cpu", LOST="1").run(lambda: False) == CrewEnd(reason="trials", failures=())
    assert len(told(tmp_path)) == 2


def test_device_that_fails_again_and_again_is_told_of(start: Start, tmp_path: Path) -> None:
    end = start("cpu", LOST="9").run(lambda: False)
    assert (end.reason, end.codes) == (None, (3,))
    assert len(end.failures) == 1
    assert len(told(tmp_path)) == 4


def test_worker_whose_log_cannot_be_written_is_heard_all_the_same(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "worker-1.log").write_text("of a run before\n")
    end = start("cpu", FAILS="1", PGPASSWORD="hunter2").run(lambda: False)
    (failure,) = end.failures
    assert "worker 1 on cpu ended with status 2: error: no room, *** (see " in failure
    assert end.codes == (2,)


def test_every_worker_sees_its_own_device_only(start: Start, tmp_path: Path) -> None:
    start("cuda:1", "cuda:2", "cpu", CUDA_VISIBLE_DEVICES="5,6,7").run(lambda: False)
    seen = [environment["CUDA_VISIBLE_DEVICES"] for _, environment in told(tmp_path)]
    assert sorted(seen) == ["5,6,7", "6", "7"]


@pytest.mark.parametrize(
    ("visible", "device", "expected"),
    [
        (None, "cuda:1", "1"),
        ("", "cuda:1", "1"),
        ("3, 4", "cuda:1", "4"),
        ("GPU-a,GPU-b", "cuda:0", "GPU-a"),
        (None, "cpu", None),
    ],
)
def test_visible_devices(visible: str | None, device: str, expected: str | None) -> None:
    before = {"A": "b"} if visible is None else {"A": "b", "CUDA_VISIBLE_DEVICES": visible}
    found = seeing(before, device)
    assert found.get("CUDA_VISIBLE_DEVICES") == expected
    assert found["A"] == "b"


def have_devices(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)


@pytest.mark.parametrize("names", ["cuda:1", "cuda:1,cuda:2", "cuda:0", "auto"])
def test_study_of_a_crew_is_for_the_only_device_that_a_worker_sees(
    names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_devices(monkeypatch, 3)
    stored = stored_device(devices_of(names, None))
    assert stored == "cuda:0"
    have_devices(monkeypatch, 1)  # in the worker
    assert resolve_device(stored) == "cuda:0"
    assert stored_device(["cpu", "cpu"]) == "cpu"


def test_worker_uses_its_only_device_whatever_the_study_stores(
    monkeypatch: pytest.MonkeyPatch, tiny_spec: Callable[..., StudySpec]
) -> None:
    spec, settings = tiny_spec(), replace(SETTINGS, device="cuda:2")
    have_devices(monkeypatch, 1)
    assert train_settings(spec, settings, has_own_device=True).device == "cuda:0"
    on_cpu = replace(settings, device="cpu")
    assert train_settings(spec, on_cpu, has_own_device=True).device == "cpu"
    have_devices(monkeypatch, 3)
    assert train_settings(spec, settings).device == "cuda:2"


def test_checkpoints_of_one_cuda_device_are_good_on_another(
    monkeypatch: pytest.MonkeyPatch, tiny_spec: Callable[..., StudySpec]
) -> None:
    have_devices(monkeypatch, 2)
    facts: list[dict[str, Any]] = [
        circumstances(digits(), train_settings(tiny_spec(), replace(SETTINGS, device=device)))
        for device in ("cuda:0", "cuda:1", "cpu")
    ]
    assert facts[0] == facts[1] != facts[2]
