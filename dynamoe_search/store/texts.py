"""How values become text in our tables: JSON, lists of counts, folder names, times."""

import hashlib
import json
import math
import re
from collections.abc import Hashable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Any, TypeVar, cast

import numpy as np
from pydantic import TypeAdapter

Record = TypeVar("Record")
_NEXT = timedelta(milliseconds=1)


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))


def to_text(value: Any) -> str:
    """Returns a record or plain value as JSON; numbers that JSON lacks become "nan", "inf" or "-inf"."""
    plain = _adapter(cast(Hashable, type(value))).dump_python(value)
    return json.dumps(_named(plain), ensure_ascii=False, default=_scalar)


def from_text(kind: type[Record], text: str) -> Record:
    """Returns what `to_text` was given, checked to be of its kind."""
    value: Record = _adapter(cast(Hashable, kind)).validate_json(text)
    return value


def counts_to_text(counts: tuple[int, ...]) -> str:
    """Returns `8,6,4` for (8, 6, 4)."""
    return ",".join(str(count) for count in counts)


@lru_cache(maxsize=4096)
def counts_from_text(text: str) -> tuple[int, ...]:
    """Returns (8, 6, 4) for `8,6,4`."""
    return tuple(int(part) for part in text.split(",") if part)


def number(value: float | None) -> float:
    """Returns what a number column holds; databases keep a NaN as NULL."""
    return math.nan if value is None else value


def column(value: float | None) -> float | None:
    """Returns what to put into a number column."""
    return None if value is None or math.isnan(value) else float(value)


def safe_name(text: str) -> str:
    """Returns a folder name for any text: harmless on every file system, different for different texts."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:40].strip("-")
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{readable or 'study'}-{digest}"


def utc_now() -> str:
    """Returns the time as text; later times sort later."""
    return _as_text(datetime.now(UTC))


def now_after(moment: str | None) -> str:
    """Returns the time as text, or the next that sorts behind another, which a clock that is ahead may have given."""
    now = utc_now()
    with suppress(ValueError, TypeError, OverflowError):  # none, or changed by hand
        return max(now, _as_text(datetime.fromisoformat(cast(str, moment)) + _NEXT))
    return now


def _as_text(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")


def _scalar(value: Any) -> Any:
    """Returns a Python number for a numpy scalar."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be stored as JSON")


def _named(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, dict):
        return {key: _named(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_named(item) for item in value]
    return value
