"""Study files: a TOML file or a preset, with `--set` changes, becomes a `StudySpec`; every problem is told at once.

files.py        finds and reads a study file or a preset
overrides.py    `--set key=value` on the raw tables
toml.py         writes raw tables as TOML again, so that a study can be stored as it was run
problems.py     what pydantic found, in plain words
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.json_schema import models_json_schema

from dynamoe_search.errors import SpecError
from dynamoe_search.presets.files import find_study, preset_names, preset_text, presets_folder
from dynamoe_search.presets.overrides import apply_overrides
from dynamoe_search.presets.problems import explain, readable, with_origins
from dynamoe_search.presets.toml import parse_toml, to_toml, to_toml_value
from dynamoe_search.specs import StudySpec, useless

__all__ = [
    "LoadedStudy",
    "Preset",
    "json_schema",
    "preset_names",
    "preset_text",
    "presets",
    "presets_folder",
    "read_study",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedStudy:
    """A study file that has been read and checked."""

    spec: StudySpec
    text: str  # TOML as run: the file's own text, or the changed tables if there were overrides
    source: str  # what the user gave: a path or a preset's name


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A study that comes with the program."""

    name: str
    question: str
    data: str
    trials: int
    epochs: int


def read_study(source: str, overrides: Sequence[str] = (), name: str | None = None) -> LoadedStudy:
    """Reads a study file or a preset and checks it.

    Args:
        source: Path of a TOML file, or the name of a preset.
        overrides: Changes as `section.key=value`; the value is TOML, or plain text where it is not TOML.
        name: Name of the study instead of the one in the file.

    Raises:
        UsageError: The file or the preset cannot be found or read.
        SpecError: What it says cannot be used; carries every problem at once.
    """
    found = find_study(source)
    raw = parse_toml(found.label, found.text)
    changed: dict[tuple[str, ...], str] = {}
    original = copy.deepcopy(raw)
    problems = apply_overrides(raw, overrides, changed)
    if name is not None:
        problems += apply_overrides(raw, [f"study.name={to_toml_value(name)}"], changed, "--name")
    _anchor_path(raw)
    try:
        spec = StudySpec.model_validate(raw)
        problems += with_origins(useless(spec), changed)
    except ValidationError as error:
        problems += explain(error, raw, changed)
    if problems:
        raise SpecError(found.label, readable(problems))
    text = found.text if raw == original else _as_run(found.text, overrides, raw)
    return LoadedStudy(spec=spec, text=text, source=source)


def _anchor_path(raw: dict[str, Any]) -> None:
    """Makes the paths of the data absolute, so that a study can be resumed from another folder."""
    data = raw.get("data")
    if not isinstance(data, dict):
        return
    for key in ("path", "repo", "tokenizer_path"):
        path = data.get(key)
        if not isinstance(path, str) or not path or path.startswith("~"):
            continue
        if key == "path" or _is_folder(path):  # the others may be names as well
            data[key] = str(Path(path).absolute())


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):  # too long, or a zero byte
        return False


def _as_run(text: str, overrides: Sequence[str], raw: dict[str, Any]) -> str:
    """Returns the changed tables as TOML under the comment that opened the file."""
    opening = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        opening.append(line)
    opening += [f"# changed by --set {' '.join(override.split())}" for override in overrides]
    return "\n".join([*opening, "", to_toml(raw)]).lstrip("\n")


def presets() -> list[Preset]:
    """Returns all presets, in alphabetical order.

    Raises:
        SpecError: A preset does not fit this version of the program.
    """
    specs = {name: read_study(name).spec for name in preset_names()}
    return [
        Preset(
            name=name,
            question=spec.study.description,
            data=spec.data.name,
            trials=spec.study.trials,
            epochs=spec.train.epochs,
        )
        for name, spec in specs.items()
    ]


def json_schema() -> dict[str, Any]:
    """Returns the JSON schema of study files, which editors complete and check TOML with."""
    _, schema = models_json_schema(
        [(StudySpec, "validation")], title="A study file of dynamoe-search"
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "$ref": "#/$defs/StudySpec",
    }
