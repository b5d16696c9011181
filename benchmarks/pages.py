"""Where the result page of a benchmark goes."""

import sys
from pathlib import Path


def tell(page: str, out: Path | None) -> None:
    """Prints a page, and writes it to a file if one is named."""
    sys.stdout.write(page)
    if out is not None:
        out.write_text(page)
