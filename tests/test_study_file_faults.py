"""Bad study files, in short: what `benchmarks/faults` tries with thousands. And what it found, one by one."""

import tempfile
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.faults.bad_study_files import NAMES, NEVER_RIGHT, SECTIONS
from benchmarks.faults.study_files import (
    Tally,
    compare_processes,
    mutants,
    refuse_generated,
    samples,
    try_mutant,
)
from dynamoe_search.errors import InputError, SpecError
from dynamoe_search.presets import read_study
from dynamoe_search.presets.overrides import apply_overrides
from dynamoe_search.presets.toml import to_toml_value
from dynamoe_search.specs import StudySpec

STUDY = '[study]\nname = "a"\n'


def message(folder: Path, text: str, *changes: str) -> str:
    path = folder / "bad.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(SpecError) as caught:
        read_study(str(path), changes)
    return str(caught.value)


def test_generated_files_are_refused_in_clear_words() -> None:
    tally = Tally()
    refuse_generated(150, tally)
    assert len(tally.seen) == 150
    assert len(tally.kinds) > 20


def test_damaged_presets_are_refused_or_right() -> None:
    tally = Tally()
    for file in mutants(60):
        with tempfile.TemporaryDirectory() as name:
            try_mutant(file, Path(name), tally)
    assert sum(tally.ends.values()) == 60
    assert {end.rpartition(", ")[2] for end in tally.ends} == {"refused", "still right"}


@pytest.mark.slow
def test_a_process_of_its_own_says_the_same() -> None:
    compare_processes(samples(3))


@pytest.mark.parametrize("section", SECTIONS)
def test_no_key_takes_what_is_never_right(section: str) -> None:
    for key in SECTIONS[section]:
        for value in NEVER_RIGHT:
            raw = {"study": {"name": "a"}, **({} if section == "study" else {section: {}})}
            raw[section] = {**raw[section], key: value}
            with pytest.raises(ValidationError):
                StudySpec.model_validate(raw)


@pytest.mark.parametrize("name", NAMES)
def test_names_that_no_study_may_have(name: str, tmp_path: Path) -> None:
    assert "study.name" in message(tmp_path, f"[study]\nname = {to_toml_value(name)}\n")


@pytest.mark.parametrize(
    "key", ['"="' + '."="' * 20_000, "x = {a" + ".a" * 300_000, "[a" + ".a" * 100_000 + "]"]
)
def test_keys_of_very_many_parts_take_no_time(key: str, tmp_path: Path) -> None:
    began = time.monotonic()
    assert "too many parts" in message(tmp_path, f"{STUDY}{key} = 1")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("line", ["# " + "." * 300, f'description = "{"." * 300}"'])
def test_dots_that_are_no_key_are_fine(line: str, tmp_path: Path) -> None:
    path = tmp_path / "good.toml"
    path.write_text(f"{STUDY}{line}\n", "utf-8")
    assert read_study(str(path)).spec.study.name == "a"


def test_control_characters_of_keys_and_values_are_shown_as_escapes(tmp_path: Path) -> None:
    text = '"a\\n\\u001b]0;x\\u0007" = 1\n"" = 2\n[study]\nname = "\\u009b31m\\u202e"\n'
    lines = message(tmp_path, text).splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert "\\n\\x1b]0;x\\x07: got 1" in lines[1]
    assert '"": got 2' in lines[2]
    assert 'study.name: got "\\u009b31m\\u202e"' in lines[0]


def test_very_many_problems_are_counted(tmp_path: Path) -> None:
    text = STUDY + "\n".join(f"key{i} = 1" for i in range(5000))
    lines = message(tmp_path, text).splitlines()
    assert len(lines) == 51
    assert "4,950 further problems; mend those above first" in lines[-1]


def test_very_long_keys_and_numbers_are_cut(tmp_path: Path) -> None:
    text = f"{STUDY}{'k' * 100_000} = 1\n[model]\nd_model = {'9' * 4000}\n"
    assert len(message(tmp_path, text)) < 2000


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("constraints = 5", "must be a table such as {max_activated_params = 50000}"),
        (f"trials = {10**400}", "at most 1e+09"),
        (f"[model]\nd_model = {{low = 4, high = 8, step = {10**400}}}", "longer than the range"),
        ("[router]\ntau = {low = 0.1, high = 0.9, step = 1e-300}", "the step is too short"),
        (f"[model]\nd_model = {{low = 4, high = {10**401}, step = {10**400}}}", "at most 4096"),
        (f"[router]\nk = {[1] * 1001}", "at most 1000 entries"),
        (f'[data]\npath = "{"x" * 5000}"', "at most 1000 characters"),
        (f'[model]\nbackbone = "a.b:{"c" * 300}"', "at most 200 characters"),
    ],
)
def test_what_the_fuzz_found(lines: str, words: str, tmp_path: Path) -> None:
    assert words in message(tmp_path, STUDY + lines + "\n")


def test_deep_changes_are_refused() -> None:
    raw: dict[str, object] = {}
    deep = [
        "a" + ".a" * 3000 + "=1",
        "a.b=" + "[" * 300 + "]" * 300,
        "a.b=" + "{x=" * 50 + "1" + "}" * 50,
    ]
    assert len(apply_overrides(raw, deep, {})) == 3
    with pytest.raises(InputError):
        read_study("digits", deep)
