"""How to repeat a study: its file, the command, versions, seeds and everything else that could change a number."""

import json
import shlex
from typing import Any

from dynamoe_search.presets.toml import to_toml
from dynamoe_search.report.comparing import Comparison
from dynamoe_search.report.reading import StudyData
from dynamoe_search.report.words import NONE, real
from dynamoe_search.wording import counted

PROGRAM = "dynamoe-search"


def study_file(data: StudyData) -> tuple[str, str]:
    """Returns the name and the text of the study's file: TOML, or JSON if this version cannot read it."""
    if data.spec is None:
        return "study.json", _indented(data.record.spec_json)
    tables = _without_none(data.spec.model_dump(mode="json"))
    tables["search"]["expert_backend"] = (
        data.record.settings.expert_backend
    )  # whatever `auto` came to
    return "study.toml", f"# The study {data.name!r}, as it was run.\n\n{to_toml(tables)}"


def of_study(data: StudyData) -> dict[str, Any]:
    """Returns what the page says about repeating a study."""
    name, text = study_file(data)
    settings = data.record.settings
    words = [PROGRAM, "run", name, "--name", f"{data.name} again"]
    words += ["--device", settings.device, "--threads", str(settings.num_threads)]
    if data.spec is not None and data.record.trials != data.spec.study.trials:
        words += ["--trials", str(data.record.trials)]
    if data.record.max_epochs is not None:
        words += ["--epochs", str(data.record.max_epochs)]
    found = {
        "Seed": data.spec.study.seed if data.spec else NONE,
        "Came from": data.record.source,
        "Device": f"{settings.device}, {counted(settings.num_threads, 'thread')}, "
        f"expert backend {settings.backend_words}",
        "Packs": f"cohorts of {settings.cohort_size}, padded to {counted(settings.num_slots, 'expert')}",
        "Versions": ", ".join(f"{key} {value}" for key, value in settings.versions.items()) or NONE,
        "Data": f"{data.spec.data.name if data.spec else NONE}, checksum {settings.data_hash or 'unknown'}",
        "Reference point": ", ".join(real(bound) for bound in settings.reference_point) or NONE,
        "Begun": data.record.created_at,
        "Last change": data.record.updated_at,
        "Database": data.database,
    }
    return {
        "study_file": name,
        "study_text": text,
        "command": shlex.join(words),
        "provenance": [(key, str(value)) for key, value in found.items()],
    }


def of_comparison(compared: Comparison) -> dict[str, Any]:
    """Returns what the page says about repeating a comparison."""
    names = [one.name for one in compared.studies]
    lines = [shlex.join([PROGRAM, "report", name, "--out", f"{name}-report"]) for name in names]
    found = {
        one.name: f"seed {one.spec.study.seed if one.spec else NONE}, {one.record.settings.device}, "
        f"{', '.join(f'{key} {value}' for key, value in one.record.settings.versions.items())}"
        for one in compared.studies
    }
    found["Database"] = compared.studies[0].database
    return {"command": "\n".join(lines), "provenance": list(found.items())}


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value


def _indented(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"
    except ValueError:
        return text
