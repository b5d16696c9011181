"""Colours that people with any colour vision tell apart, and the marks that say the same without colour.

Source: Okabe and Ito, 2008, "Color Universal Design" (the eight colours); Nuñez et al., 2018, "Optimizing colormaps
with consideration for color vision deficiency" (cividis, for heat maps).
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How a group of candidates is drawn."""

    light: str  # on a light ground
    dark: str  # on a dark ground
    symbol: str  # plotly's name
    marker: str  # matplotlib's name
    size: int


LOOKS = {
    "front": Look(light="#0072B2", dark="#56B4E9", symbol="circle", marker="o", size=11),
    "reference": Look(light="#D55E00", dark="#F0894A", symbol="diamond", marker="D", size=10),
    "complete": Look(light="#8A8F98", dark="#8A93A0", symbol="circle-open", marker="o", size=7),
    "stopped": Look(light="#B87A00", dark="#E69F00", symbol="x-thin", marker="x", size=7),
    "paused": Look(light="#009E73", dark="#2BC79A", symbol="square-open", marker="s", size=8),
    "running": Look(light="#CC79A7", dark="#E39CC4", symbol="triangle-up-open", marker="^", size=8),
    "failed": Look(light="#5B4B8A", dark="#B6A5E8", symbol="cross-thin", marker="+", size=8),
}

SERIES_LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B4B8A")
SERIES_DARK = ("#56B4E9", "#F0894A", "#2BC79A", "#E39CC4", "#E69F00", "#9AD0F5", "#B6A5E8")
"""Colours of things without an order, such as studies or objectives."""

SERIES_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "pentagon")
SERIES_MARKERS = ("o", "D", "s", "^", "P", "*", "p")

SCALE = "Cividis"
"""Colours of an amount, in a heat map; plotly's name, matplotlib's in lower case."""


def variables(is_dark: bool) -> dict[str, str]:
    """Returns the colours of a theme by the names that `plots` uses for them, without their `@`."""
    looks = {name: look.dark if is_dark else look.light for name, look in LOOKS.items()}
    series = SERIES_DARK if is_dark else SERIES_LIGHT
    return {**looks, **{f"series{place}": colour for place, colour in enumerate(series)}}
