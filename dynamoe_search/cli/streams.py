"""What this program and the libraries in it print on stderr, without the passwords that it was started with."""

import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

from dynamoe_search.credentials import Mask, secrets_in


class Masked:
    """A stream that shows no secret; whatever is not about writing is the other stream's.

    Args:
        stream: Where the text goes.
        mask: Returns a text without what nobody may read.
    """

    def __init__(self, stream: TextIO, mask: Mask) -> None:
        self._stream, self._mask = stream, mask

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text; libraries give whole lines at a time, so a secret is not cut in two."""
        self._stream.write(self._mask(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes texts."""
        for line in lines:
            self.write(line)


def mask_stderr() -> None:
    """Lets nothing that is printed on stderr from now on show a secret of the environment or of the arguments.

    That includes warnings, log lines and traces of libraries, and so what is in the log files of workers.
    """
    arguments = {str(place): text for place, text in enumerate(sys.argv)}
    mask = Mask(secrets_in({**os.environ, **arguments}))
    sys.stderr = cast(TextIO, Masked(sys.stderr, mask))
