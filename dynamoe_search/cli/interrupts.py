"""Ctrl-C and SIGTERM: the first asks for a checkpoint after the current step, the second leaves at once."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SHOW_CURSOR = "\x1b[?25h"


class StopFlag:
    """Becomes true when the user asks to stop; give it as `should_stop`."""

    def __init__(self) -> None:
        self.is_set = False

    def __call__(self) -> bool:
        """Returns whether the user has asked to stop."""
        return self.is_set


@contextmanager
def stop_on_signals(hint: str) -> Iterator[StopFlag]:
    """Yields a flag that Ctrl-C and SIGTERM set.

    Args:
        hint: How to go on, said when the user asks a second time and the process ends at once.
    """
    flag = StopFlag()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if flag.is_set:
            cursor = _SHOW_CURSOR if sys.stderr.isatty() else ""
            os.write(2, f"{cursor}\nstopped at once; {hint}\n".encode())
            os._exit(1)
        flag.is_set = True
        os.write(
            2, b"\nstopping after the current step, with a checkpoint; once more to leave at once\n"
        )

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
