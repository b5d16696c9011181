"""Numbers, times, sizes and texts of others as people read them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from dynamoe_search.wording import counted

if TYPE_CHECKING:  # loads pydantic
    from dynamoe_search.records import Leg


def printable(text: str, *, lines: bool = False) -> str:
    """Returns text that does nothing to a terminal: whatever does not print is shown as its escape.

    Args:
        text: Of unknown origin: a name or a message from a database or a file.
        lines: Whether line breaks and tabs may stay.
    """
    kept = "\n\t" if lines else ""
    return "".join(
        one if one.isprintable() or one in kept else one.encode("unicode_escape").decode()
        for one in text
    )


def say(text: str, *, err: bool = False) -> None:
    """Prints text, which may quote a database or a file, on stdout or stderr."""
    typer.echo(printable(text, lines=True), err=err)


def cell(value: Any) -> str:
    """Returns a value as people read it."""
    match value:
        case None:
            text = "-"
        case bool():
            text = "yes" if value else "no"
        case float():
            text = _real(value)
        case int():
            text = f"{value:,}"
        case list() | tuple():
            text = " ".join(cell(item) for item in value)
        case Mapping():
            text = ", ".join(f"{cell(name)}={cell(item)}" for name, item in value.items())
        case _:
            text = printable(str(value), lines=True)
    return text


def _real(value: float) -> str:
    if value.is_integer() and abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def seconds(value: float | None) -> str:
    """Returns a length of time as people say it: 48 s, 12 min, 3.5 h."""
    if value is None:
        return "-"
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if value < limit:
            return f"{value / divisor:.3g} {unit}"
    return f"{value / 86400:.3g} days"


def ago(moment: str, now: datetime | None = None) -> str:
    """Returns a moment as people say it: 3 min ago, 5 h ago, 2026-11-22; a text that is none stays as it is.

    Args:
        moment: ISO 8601, with its distance to UTC.
        now: None is the clock's.
    """
    try:
        then = datetime.fromisoformat(moment)
        passed = ((now or datetime.now(UTC)) - then).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return moment
    if passed < -60:  # another machine's clock is ahead
        return f"{then:%Y-%m-%d %H:%M} UTC"
    for limit, divisor, unit in ((60, 1, ""), (7200, 60, "min"), (172800, 3600, "h")):
        if passed < limit:
            return f"{passed / divisor:.0f} {unit} ago" if unit else "just now"
    return f"{then:%Y-%m-%d}"


def size(number: float | None) -> str:
    """Returns a number of bytes as people say it."""
    if number is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} TiB"


def quality_words(metrics: Mapping[str, float]) -> str:
    """Returns how good a model is: `accuracy 0.9567`, or `perplexity 8.06, 3.01 bits per byte` of one of text."""
    if "perplexity" in metrics:
        return (
            f"perplexity {metrics['perplexity']:.4g}, {metrics['bits_per_byte']:.3f} bits per byte"
        )
    return f"accuracy {metrics['accuracy']:.4f}"


def words_of(leg: "Leg") -> str:
    """Returns what a leg does, for people."""
    candidates = counted(len(leg.trials), "candidate")
    epochs = (
        f"epoch {leg.end}" if leg.end == leg.start + 1 else f"epochs {leg.start + 1} to {leg.end}"
    )
    return f"leg {leg.number}: {candidates}, {epochs}"
