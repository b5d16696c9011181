"""Study files that are wrong on purpose, for Hypothesis: made from the sections and fields that there really are."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from pydantic import BaseModel

from dynamoe_search.presets.files import MAX_BYTES
from dynamoe_search.presets.toml import to_toml
from dynamoe_search.specs import StudySpec

SECTIONS: dict[str, list[str]] = {
    name: list(field.annotation.model_fields)
    for name, field in StudySpec.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}
"""The keys of every section."""

NEVER_RIGHT: tuple[Any, ...] = (
    10**400, -(10**400), -1e308, float("nan"), float("inf"), float("-inf"),
    date(1979, 5, 27), [[1]], [{}], {"low": 2, "hihg": 3}, {"low": "a"}, [None], {"a": {"b": {}}},
)  # fmt: skip
"""Values that no key may have; None is left out when the file is written."""

OUT_OF_RANGE: tuple[tuple[str, Any], ...] = (
    ("study.trials", 0), ("study.trials", 10**12), ("study.seed", -1), ("study.seed", 2**32),
    ("study.objectives", []), ("study.objectives", ["accuracy", "accuracy"]),
    ("study.objectives", ["speed"]), ("study.constraints", {"max_speed": 1}), ("study.constraints", 5),
    ("data.validation_fraction", 1), ("data.test_fraction", 0), ("data.image_size", 3),
    ("data.max_train", 0), ("model.d_model", 6), ("model.d_model", {"low": 4, "high": 64}),
    ("model.d_model", {"low": 4, "high": 8, "step": 10**400 + 1}), ("model.d_model", [8, 8192]),
    ("model.num_layers", {"low": 4, "high": 1}), ("model.num_layers", 65), ("model.dropout", 1.0),
    ("model.backbone", "os.system"), ("model.backbone", "../x:Y"), ("schedule.max_experts", 257),
    ("schedule.cycles", 0), ("schedule.shape", "round"), ("schedule.shape", ["uniform", 1]),
    ("router.k", []), ("router.k", [1.5]), ("router.k", {"low": 1, "high": 4, "step": 0}),
    ("router.kind", "topk"), ("router.tau", {"low": 0.1, "high": 0.9, "step": 1e-300}),
    ("router.tau", {"low": 0.1, "high": 0.9, "step": 5.0}), ("router.kind", {"low": 1, "high": 2}), ("router.tau", 1.0),
    ("router.rho", {"low": 0.0, "high": 0.5, "log": True}), ("router.histogram", [0.5]),
    ("router.noise", {"low": 1e-3, "high": 1.0, "log": True, "step": 0.1}),
    ("router.histogram", [1.5, -0.5]), ("router.k", [1] * 1001), ("losses.z", 101),
    ("adaptive.enabled", {"low": 0, "high": 1}), ("adaptive.period", 0), ("train.epochs", 0),
    ("train.learning_rate", 0), ("train.clip_norm", -1), ("train.decay", "exponential"),
    ("search.sampler", "magic"), ("search.cohort_size", 1025), ("search.pruner", {"kind": "best"}),
)  # fmt: skip
"""Values that look right and are not."""

CONTRADICTIONS: tuple[dict[str, dict[str, Any]], ...] = (
    {"schedule": {"min_experts": 5, "max_experts": 4}},
    {"schedule": {"total_experts": 8}},
    {"schedule": {"match": "total", "total_experts": 2}, "model": {"num_layers": 3}},
    {"model": {"backbone": "vit", "num_heads": 3}},
    {"model": {"backbone": "vit", "patch_size": 3}},
    {"data": {"name": "npz"}},
    {"data": {"name": "folder", "path": "no/such/folder"}},
    {"data": {"name": "npz", "path": "\0.npz"}},
    {"data": {"name": "npz", "path": "~nobody-of-this-name/x.npz"}},
    {"data": {"name": "npz", "path": "x" * 5000}},
    {"data": {"max_train": 1}, "train": {"batch_size": 1}, "model": {"backbone": "a.b:C"}},
    {"model": {"backbone": "os:system"}},
    {"losses": {"efficiency": 0.1}, "router": {"kind": "top-k"}},
    {"adaptive": {"enabled": True}, "router": {"kind": "top-p"}},
    {"adaptive": {"enabled": True, "update_at": 5, "record_from": 9}, "router": {"kind": "top-any"}},
    {"adaptive": {"enabled": True, "max_experts": 2}, "schedule": {"max_experts": 8}},
    {"search": {"pruner": {"kind": "pareto"}}, "study": {"objectives": ["latency_ms"]}},
    {"search": {"pruner": {"kind": "pareto", "rungs": [4, 2]}}},
    {"search": {"pruner": {"kind": "median", "rungs": [7]}}, "train": {"epochs": 7}},
)  # fmt: skip
"""Sections that are right by themselves and do not fit together, or not to this machine."""

NAMES = ("", " ", "../../x", "a/b", "a\\b", "~", "~root", "-rf", ".", "..", "a" * 101, "a\nb", "a\0", "a'b;", "*",
         "\x1b]0;x\x07", "\u202ea", "\U0001f600", "a\u2028b", "[red]a[/red]", "a:b", "%s", "{0}", "<b>")  # fmt: skip
"""Names that no study may have."""

_ODD = st.text(
    st.sampled_from(
        "a.\"'\\\n\t\x00\x07\x1b\x7f\x9b\u00a0\u202e\u2028\ufeff\U0001f600\u0301 []{}=#%"
    ),
    min_size=1,
    max_size=12,
)


@dataclass(frozen=True, kw_only=True)
class BadFile:
    """Something that is no good study file.

    Attributes:
        kind: What is wrong with it.
        content: What stands in it.
        make: Puts something else than a file with this content there.
        name: How it is called.
    """

    kind: str
    content: bytes
    make: Callable[[Path], None] | None = None
    name: str = "bad.toml"

    def write(self, folder: Path) -> Path:
        """Puts it into a folder and returns its path."""
        path = folder / self.name
        if self.make is None:
            path.write_bytes(self.content)
        elif not os.path.lexists(path):
            self.make(path)
        return path

    def shown(self, path: Path) -> str:
        """Returns what a message has to say of where it is: its path, or the beginning of one that is too long."""
        return str(path)[:100] if str(path).isprintable() else ""


def _text(tables: dict[str, Any]) -> bytes:
    return to_toml(_without_none(tables)).encode("utf-8")


def _without_none(value: Any) -> Any:
    """Returns a value in which None, which TOML lacks, is an empty table."""
    if isinstance(value, dict):
        return {key: _without_none(one) for key, one in value.items()}
    return (
        [_without_none(one) for one in value]
        if isinstance(value, list)
        else {}
        if value is None
        else value
    )


def _study(**sections: dict[str, Any]) -> dict[str, Any]:
    return {**sections, "study": {"name": "a", **sections.get("study", {})}}


@st.composite
def _wrong_tables(draw: st.DrawFn) -> BadFile:
    """A file in which one to four things are wrong."""
    tables: dict[str, Any] = _study()
    most = draw(st.sampled_from([1, 1, 1, 4]))
    kinds = draw(st.lists(st.sampled_from(list(_WRONGS)), min_size=1, max_size=most))
    tables["study"]["seed"] = draw(st.integers(0, 999))
    for kind in kinds:
        _WRONGS[kind](draw, tables)
    return BadFile(kind=kinds[0] if len(kinds) == 1 else "several of these", content=_text(tables))


def _put(tables: dict[str, Any], section: str, key: str, value: Any) -> None:
    table = tables.setdefault(section, {})
    if isinstance(table, dict):
        table[key] = value


def _wrong_type(draw: st.DrawFn, tables: dict[str, Any]) -> None:
    section = draw(st.sampled_from(list(SECTIONS)))
    key = draw(st.sampled_from(SECTIONS[section]))
    _put(tables, section, key, draw(st.sampled_from(NEVER_RIGHT)))


def _out_of_range(draw: st.DrawFn, tables: dict[str, Any]) -> None:
    path, value = draw(st.sampled_from(OUT_OF_RANGE))
    _put(tables, *path.split("."), value)


def _unknown_key(draw: st.DrawFn, tables: dict[str, Any]) -> None:
    section = draw(st.sampled_from(list(SECTIONS)))
    _put(tables, section, draw(st.sampled_from(SECTIONS[section])) + "s_", 1)


def _unknown_section(draw: st.DrawFn, tables: dict[str, Any]) -> None:
    name = draw(st.sampled_from(list(SECTIONS))) + draw(st.sampled_from("sx_"))
    tables[name] = draw(st.sampled_from([{}, {"a": 1}, 1, [1], "text"]))


def _no_section(draw: st.DrawFn, tables: dict[str, Any]) -> None:
    tables[draw(st.sampled_from(list(SECTIONS)))] = draw(st.sampled_from([1, "a", [], [{}], True]))


def _odd_key(draw: st.DrawFn, tables: dict[str, Any]) -> None:
    _put(tables, draw(st.sampled_from(list(SECTIONS))), draw(_ODD) + "\x1b", draw(_ODD))


def _odd_name(draw: st.DrawFn, tables: dict[str, Any]) -> None:
    _put(
        tables, "study", "name", draw(st.sampled_from(NAMES) | _ODD.map(lambda text: f"{text}\x1b"))
    )


def _odd_value(draw: st.DrawFn, tables: dict[str, Any]) -> None:
    keys = ["router.kind", "train.decay", "search.sampler", "schedule.shape", "model.backbone"]
    _put(tables, *draw(st.sampled_from(keys)).split("."), draw(_ODD))


_WRONGS: dict[str, Callable[[st.DrawFn, dict[str, Any]], None]] = {
    "wrong type": _wrong_type,
    "out of range": _out_of_range,
    "unknown key": _unknown_key,
    "unknown section": _unknown_section,
    "value for a section": _no_section,
    "odd characters in a key": _odd_key,
    "name that no study may have": _odd_name,
    "odd characters in a value": _odd_value,
}


@st.composite
def _contradictions(draw: st.DrawFn) -> BadFile:
    """A file whose sections contradict each other, with a seed that makes it another file than the last."""
    tables = _study(**draw(st.sampled_from(CONTRADICTIONS)))
    tables["study"] = {**tables["study"], "seed": draw(st.integers(0, 999))}
    return BadFile(kind="contradiction", content=_text(tables))


@st.composite
def _no_toml(draw: st.DrawFn) -> BadFile:
    """A file that is no TOML, no text, or too much of it."""
    good = f'[study]\nname = "a"\nseed = {draw(st.integers(0, 999))}\n'
    num = draw(st.integers(33, 3000))
    texts = {
        "duplicate key": 'name = "b"',
        "duplicate section": "[study]",
        "deep nesting": "x = " + "[" * num + "]" * num,
        "deep tables": "x = " + "{a = " * num + "1" + "}" * num,
        "key of many parts": ".".join("a" * num) + " = 1",
        "key of many parts in a table": "x = {" + ".".join("a" * 9 * num) + " = 1}",
        "key of many quoted parts": ".".join(['"="'] * 9 * num) + " = 1",
        "number of many digits": "trials = " + "9" * (4300 + num),
        "null byte": "#\0",
        "byte order mark in the middle": "\ufeff[model]",
        "escaped surrogate": 'description = "\\ud800"',
        "control characters": f'description = "{chr(num % 8 + 1)}"',
        "open quote": 'description = "' + "x" * num,
        "open text": 'description = """' + "x\n" * num,
        "many unknown keys": "\n".join(f"k{i} = 1" for i in range(num)),
        "long unknown key": "k" * num * 9 + " = 1",
        "random text": f"{draw(_ODD)}\x1b",
    }
    contents = {kind: f"{good}{text}".encode() for kind, text in texts.items()} | {
        "UTF-16": good.encode("utf-16"),
        "UTF-32": good.encode("utf-32"),
        "Latin-1": f"{good}# \xe9".encode("latin-1"),
        "surrogates": good.encode() + b"# \xed\xa0\x80",
        "other format": f"study:\n  name: a\n  seed: {num}\n".encode(),
        "JSON": f'{{"study": {{"name": "a", "seed": {num}}}}}'.encode(),
        "too large": b"#" * (MAX_BYTES + num),
        "random bytes": draw(st.binary(min_size=1, max_size=64)) + b"\x80",
    }
    kind = draw(st.sampled_from(list(contents)))
    return BadFile(kind=kind, content=contents[kind])


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


_PLACES: dict[str, Callable[[Path], None]] = {
    "folder": Path.mkdir,
    "pipe that nobody writes to": os.mkfifo,
    "link to itself": lambda path: path.symlink_to(path),
    "link to nothing": lambda path: path.symlink_to(path.with_name("nothing.toml")),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "socket": _bind,
    "nothing there": lambda _: None,
    "10 MB": lambda path: path.write_bytes(b"# x\n" * 2_500_000) and None,
    "empty file": Path.touch,
}


@st.composite
def _no_file(draw: st.DrawFn) -> BadFile:
    """Something that is no file with text in it."""
    kind = draw(st.sampled_from(list(_PLACES)))
    names = [
        "bad.toml",
        "b\x1b[31m.toml",
        "b\n.toml",
        "[red].toml",
        "\u202e.toml",
        "-b.toml",
        " .toml",
    ]
    name = draw(st.sampled_from(names))
    return BadFile(kind=kind, content=name.encode(), make=_PLACES[kind], name=name)


def bad_files() -> st.SearchStrategy[BadFile]:
    """Generates everything that is no good study file; most of it is TOML with something wrong in it."""
    tables, contradictions = _wrong_tables(), _contradictions()
    return st.one_of(*[tables] * 5, contradictions, _no_toml(), _no_toml(), _no_file())
