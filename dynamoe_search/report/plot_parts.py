"""What every plot of the page is made of."""

import html
import math
from typing import Any

from dynamoe_search.report.colours import SERIES_SYMBOLS
from dynamoe_search.report.words import label, measure

Plot = dict[str, Any]
"""A plotly figure: `data`, `layout` and `height`."""


def plain(text: str) -> str:
    """Returns text that plotly shows as it is, without taking it for markup."""
    return html.escape(text)


def axis(name: str) -> dict[str, Any]:
    """Returns the axis of a measure."""
    formats = {"share": ".4~p", "count": "~s", "real": "~r"}
    return {"title": {"text": label(name)}, "tickformat": formats[measure(name).unit]}


def colour(place: int) -> str:
    """Returns the colour of the so-manieth of several things without an order."""
    return f"@series{place % len(SERIES_SYMBOLS)}"


def rounded(value: float) -> float | None:
    """Returns six digits, which are enough for a picture and keep the page small; None for what is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
