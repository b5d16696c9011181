"""How errors are told: the same words on stderr and, with `--json`, as one object on stdout."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynamoe_search.cli.complaints import tell
from dynamoe_search.cli.crew import AskedTeam
from dynamoe_search.cli.screens import print_json
from dynamoe_search.errors import UsageError
from dynamoe_search.wording import counted, similar
from tests.cli.conftest import Run
from tests.cli.processes import ROOT

WRONG = {
    "check digits --set train.epochs=0": "study-file",
    "check digits --set data.name=npz --set data.path=no.npz": "data",
    "check digits --device cuda:99 --no-measure": "device",
    "check digits --device tpu": "device",
    "check": "usage",
    "bench digits --packs 0": "usage",
    "train digits --device cuda:99": "usage",
    "list --storage here": "storage",
    "status nobody --storage {searched}": "usage",
    "show tiny 99 --storage {searched}": "usage",
    "front tiny --at-most speed=1 --storage {searched}": "usage",
    "export tiny 99 --out {folder}/x --storage {searched}": "usage",
    "report nobody --storage {searched}": "usage",
    "confirm nobody --storage {searched}": "usage",
    "audit tiny --claims speed --storage {searched}": "usage",
    "worker nobody --storage {searched}": "usage",
    "doctor nobody --storage {searched}": "usage",
    "gc --cache-days nan --storage {searched}": "usage",
    "sample {folder}": "usage",
    "presets DIGITS": "usage",
    "schedules --layers 0": "usage",
}


@pytest.mark.parametrize("line", WRONG)
def test_with_json_stdout_says_what_stderr_says(
    line: str, cli: Run, searched: str, tmp_path: Path
) -> None:
    words = line.format(searched=searched, folder=tmp_path).split()
    plain, found = cli(*words), cli(*words, "--json")
    assert (plain.exit_code, plain.stdout) == (2, "")
    told = json.loads(found.stdout)
    assert told.keys() == {"ok", "error", "kind", "exit_code", "problems"}
    assert (told["ok"], told["kind"], told["exit_code"]) == (False, WRONG[line], found.exit_code)
    assert found.stderr == "".join(f"error: {one}\n" for one in told["error"].split("\n"))
    assert found.stderr == plain.stderr
    assert bool(told["problems"]) == (told["kind"] == "study-file")


def test_names_in_another_case_are_known(cli: Run, searched: str) -> None:
    assert "did you mean 'tiny'?" in cli("status", "TINY", "--storage", searched).stderr
    assert "did you mean digits?" in cli("presets", "DIGITS").stderr
    assert similar("TRAILS", ["trials", "Trials", "epochs"], most=2) == ["trials", "Trials"]
    assert similar("x", []) == []
    assert [counted(number, "study", "studies") for number in (0, 1, 2000)] == [
        "0 studies",
        "1 study",
        "2,000 studies",
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--devices", "auto,cpu"), "--devices auto takes every device, so it stands alone"),
        (("--devices", "cpu,cuda:0"), "a study is trained on one kind of them"),
        (("--devices", "cpu", "--device", "cpu"), "are both given"),
        (("--device", "cpu,cpu"), "unknown device 'cpu,cpu'"),
        (("--workers", "1_000"), "workers are too many for this machine"),
        (("--gpus-per-worker", "nan", "--engine", "ray"), "--gpus-per-worker must be"),
        (("--timeout", "9" * 400), "is longer than a hundred years"),
    ],
)
def test_workers_that_make_no_sense(
    options: tuple[str, ...], words: str, study_file: Path, storage_url: str, cli: Run
) -> None:
    result = cli("run", study_file, "--storage", storage_url, *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_a_device_is_that_of_its_workers() -> None:
    asked = AskedTeam("local", 3, None, None, None)
    assert asked.on("cuda:1").devices == "cuda:1"
    assert asked.on("auto") is asked
    assert asked._replace(workers=None).on("cpu").devices is None
    asked._replace(devices="cuda:0,cuda:0,cuda:1").check()  # twice as many on the first
    with pytest.raises(UsageError, match="too few for 2 devices"):
        asked._replace(workers=1, devices="cpu,cpu").check()


def test_json_of_a_terminal_with_few_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    print_json({"name": "Å→𝄞"})
    sys.stdout.flush()
    assert json.loads(raw.getvalue()) == {"name": "Å→𝄞"}


def _ended(command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    program = f"{sys.executable} {ROOT / 'cli.py'}"
    return subprocess.run(
        ["bash", "-c", command.format(program=program)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    "command",
    [
        "{program} presets --json | head -1 >/dev/null",
        "{program} schema | true",
        "{program} presets >&-",
        "{program} presets digits 2>&-",
    ],
)
def test_nobody_who_reads_is_no_trace(command: str) -> None:
    assert _ended(command).stderr == ""


def test_a_full_disk_behind_stdout_is_a_sentence() -> None:
    done = _ended("{program} schema > /dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_full_disk_behind_stderr_changes_nothing_for_a_script() -> None:
    done = _ended("{program} presets no-such --json 2>/dev/full")
    assert done.returncode == 2
    assert json.loads(done.stdout)["exit_code"] == 2


def test_few_characters_are_enough() -> None:
    done = _ended("{program} schedules --layers 3", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "uniform" in done.stdout


def test_ctrl_c_that_a_library_wraps_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    error = ValueError("error building `literal` serializer: KeyboardInterrupt: ")
    code = tell(error, program="dynamoe-search", as_json=True, with_trace=False)
    said = capsys.readouterr()
    assert (code, said.err) == (130, "stopped\n")
    assert json.loads(said.out)["kind"] == "stopped"
