"""What pydantic found wrong with a study file, in plain words: dotted path, value got, what is allowed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from dynamoe_search.errors import Problem
from dynamoe_search.presets.toml import to_toml_value
from dynamoe_search.specs import FloatRange, StudySpec, conflicts, useless
from dynamoe_search.wording import similar

_TAGS = ("value", "choice", "range")  # names of the three forms, which pydantic adds to the path
_LONGEST = 60
_MOST = 50  # problems in one message
_LONGEST_PART = {"path": 120, "got": 200, "allowed": 400}  # characters of a message

_PLAIN = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text in quotes",
    "model_type": "must be a section with keys of its own",
    "dict_type": "must be a table such as {{max_activated_params = 50000}}",
    "tuple_type": "must be a list",
    "too_short": "must have at least {min_length} entry",
    "string_too_long": "must have at most {max_length} characters",
    "string_unicode": "must be text in UTF-8",
    "too_long": "must have at most {max_length} entries",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "missing": "must be given",
    "union_tag_invalid": "cannot be a range; give one value or a list",
}


def explain(
    error: ValidationError, raw: Mapping[str, Any], changed: Mapping[tuple[str, ...], str]
) -> list[Problem]:
    """Returns one problem for everything that is wrong, within sections and between them.

    Args:
        error: What pydantic raised for the whole study.
        raw: The tables that were validated.
        changed: Paths that came from an option rather than from the file, and which option.
    """
    problems = [
        _explain_one(details, raw)
        for details in error.errors(include_url=False)
        if details["type"] != "conflicts"
    ]
    problems += _conflicts_of_sound_sections(raw)
    return with_origins(problems, changed)


def with_origins(
    problems: Iterable[Problem], changed: Mapping[tuple[str, ...], str]
) -> list[Problem]:
    """Returns problems that say of which option their value came, if it was one; see `explain`."""
    return [_with_origin(problem, changed) for problem in problems]


def readable(problems: Sequence[Problem]) -> list[Problem]:
    """Returns problems as they are shown: each once, on one line, without control characters, and not too many."""
    found = list(dict.fromkeys(problems))
    shown = [_readable(problem) for problem in found[:_MOST]]
    if len(found) > _MOST:
        more = f"{len(found) - _MOST:,} further problems"
        shown.append(Problem(path="", got=more, allowed="mend those above first"))
    return shown


def _readable(problem: Problem) -> Problem:
    parts = {}
    for name, most in _LONGEST_PART.items():
        text: str = getattr(problem, name)
        text = text if len(text) <= most else f"{text[: most - 1]}…"
        parts[name] = "".join(
            one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
        )
    return Problem(**parts)


def _conflicts_of_sound_sections(raw: Mapping[str, Any]) -> Iterator[Problem]:
    """Yields the conflicts that pydantic looks for only once every section is right by itself."""
    sound: dict[str, Any] = {}
    broken: list[str] = []
    for name, field in StudySpec.model_fields.items():
        section: Any = field.annotation
        try:
            if name in raw or field.is_required():
                sound[name] = section.model_validate(raw.get(name))
        except ValidationError:
            broken.append(name)
    study = StudySpec.model_construct(**sound)
    yield from conflicts(study, without=broken)
    yield from useless(study, without=broken)


def _explain_one(details: ErrorDetails, raw: Mapping[str, Any]) -> Problem:
    keys = _without_tags(details["loc"], raw)
    return Problem(
        path=_dotted(keys),
        got="nothing" if details["type"] == "missing" else shorten(details["input"]),
        allowed=_allowed(details, keys),
    )


def _with_origin(problem: Problem, changed: Mapping[tuple[str, ...], str]) -> Problem:
    for parts, origin in changed.items():
        key = ".".join(parts)
        if problem.path == key or problem.path.startswith((f"{key}.", f"{key}[")):
            return Problem(
                path=problem.path, got=f"{problem.got} (from {origin})", allowed=problem.allowed
            )
    return problem


def _without_tags(location: Sequence[int | str], raw: Any) -> tuple[int | str, ...]:
    """Returns a location without the names of forms, which are no keys of the file."""
    keys: list[int | str] = []
    here = raw
    for part in location:
        is_key = isinstance(here, Mapping) and part in here
        if part in _TAGS and not is_key:
            continue
        keys.append(part)
        if is_key or (isinstance(part, int) and isinstance(here, list)):
            here = here[part]
    return tuple(keys)


def _dotted(keys: Iterable[int | str]) -> str:
    text = ""
    for key in keys:
        name = key or '""'
        text += f"[{key}]" if isinstance(key, int) else f".{name}" if text else str(name)
    return text


def shorten(value: Any) -> str:
    """Returns a value as the user would write it, on one line and cut to a readable length."""
    text = " ".join(to_toml_value(value).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _allowed(details: ErrorDetails, keys: Sequence[int | str]) -> str:
    kind = details["type"]
    context = details.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(keys)
    if kind == "literal_error":
        return _one_of(context["expected"], details["input"])
    if kind == "string_pattern_mismatch":
        field = _field(keys)
        return f"must be as described: {field.description}" if field else details["msg"]
    words = _PLAIN.get(kind)
    if words is None:
        return details["msg"]
    return words.format(**context) + _or_many(details)


def _or_many(details: ErrorDetails) -> str:
    """Returns the other forms that a value may have, if pydantic met a plain value where all are possible."""
    if details["loc"][-1] != "value" or details["type"] == "missing":
        return ""
    if details["type"] == "bool_type":
        return ", or a list of both"
    return ", a list of them, or a range {low = ..., high = ...}"


def _one_of(expected: str, got: Any) -> str:
    """Returns the allowed words, from pydantic's "'a', 'b' or 'c'"."""
    words = expected.replace(" or ", ", ").replace("'", "").split(", ")
    close = similar(got, words) if isinstance(got, str) else []
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}must be {'one of ' if len(words) > 1 else ''}{', '.join(words)}"


def _unknown_key(keys: Sequence[int | str]) -> str:
    known = list(_fields(keys[:-1]))
    close = similar(str(keys[-1]), known)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"there is no such key; {hint}known are {', '.join(known)}"


def _field(keys: Sequence[int | str]) -> FieldInfo | None:
    return _fields(keys[:-1]).get(str(keys[-1]))


def _fields(keys: Sequence[int | str]) -> dict[str, FieldInfo]:
    """Returns the fields of the study, of a section, or of a range inside a section."""
    model: type[BaseModel] = StudySpec
    for key in keys:
        field = model.model_fields.get(str(key))
        if field is None:
            return {}
        inner = field.annotation
        is_section = isinstance(inner, type) and issubclass(inner, BaseModel)
        model = inner if is_section else FloatRange  # type: ignore[assignment]
    return dict(model.model_fields)
