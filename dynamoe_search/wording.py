"""Words that every part of the program needs: how a number of things is said, and which known word was meant."""

import difflib
from collections.abc import Iterable


def counted(number: int, one: str, several: str = "") -> str:
    """Returns a number with its noun: `1 thread`, `2,048 threads`, `3 studies`.

    Args:
        number: How many.
        one: What one of them is called.
        several: What several are called; nothing is `one` with an s.
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def similar(word: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Returns the known words that somebody may have meant, the closest first; case has no say.

    Args:
        word: What was written.
        known: What could have been.
        most: How many to return.
        cutoff: How alike they must be, from 0 to 1.
    """
    by_lower: dict[str, list[str]] = {}
    for one in known:
        by_lower.setdefault(one.lower(), []).append(one)
    close = difflib.get_close_matches(word.lower(), by_lower, n=most, cutoff=cutoff)
    return [one for lower in close for one in by_lower[lower]][:most]
