"""Where the result page of a benchmark goes."""

import sys
from collections.abc import Iterable
from pathlib import Path


class Page:
    """A page that is shown, and written, as it grows, so that who runs out of time keeps what there is.

    Args:
        path: Where it is written too, if anywhere.
    """

    def __init__(self, path: Path | None) -> None:
        self._path, self._text = path, ""

    def add(self, lines: Iterable[str]) -> None:
        """Adds lines at the end."""
        text = "".join(f"{line}\n" for line in lines)
        self._text += text
        sys.stdout.write(text)
        sys.stdout.flush()
        if self._path is not None:
            self._path.write_text(self._text)


def tell(page: str, out: Path | None) -> None:
    """Prints a page that is complete, and writes it to a file if one is named."""
    Page(out).add(page.splitlines())
