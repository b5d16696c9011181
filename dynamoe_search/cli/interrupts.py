"""Ctrl-C and SIGTERM: the first asks for a checkpoint after the current step, the second leaves at once."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from dynamoe_search.errors import StoppedError

_SHOW_CURSOR = "\x1b[?25h"


class StopFlag:
    """Becomes true when the user asks to stop; give it as `should_stop`."""

    def __init__(self) -> None:
        self.number = 0  # of the signal

    @property
    def is_set(self) -> bool:
        """Whether a signal came."""
        return self.number != 0

    @property
    def exit_code(self) -> int:
        """What a program returns that was stopped so: 130 by Ctrl-C, 143 by SIGTERM, 1 by the command stop."""
        return 128 + self.number if self.number else 1

    def __call__(self) -> bool:
        """Returns whether the user has asked to stop."""
        return self.is_set


@contextmanager
def stop_on_signals(hint: str, *, has_checkpoints: bool = True) -> Iterator[StopFlag]:
    """Yields a flag that Ctrl-C and SIGTERM set.

    Args:
        hint: How to go on, said when the user asks a second time and the process ends at once.
        has_checkpoints: Whether one is written after the current step.
    """
    flag = StopFlag()
    how = ", with a checkpoint" if has_checkpoints else ""

    def say(text: str) -> None:
        with suppress(OSError):  # nobody reads it any more
            os.write(2, text.encode())

    def handle(number: int, _frame: FrameType | None) -> None:
        if flag.is_set:
            cursor = _SHOW_CURSOR if sys.stderr.isatty() else ""
            say(f"{cursor}\nstopped at once; {hint}\n")
            os._exit(flag.exit_code)
        flag.number = number
        say(f"\nstopping after the current step{how}; once more to leave at once\n")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def all_or_nothing() -> Iterator[StopFlag]:
    """Yields a flag as `stop_on_signals` does, for a training that leaves nothing behind if it is stopped.

    Raises:
        StoppedError: It was stopped.
    """
    from dynamoe_search.training import Interrupted  # loads torch

    with stop_on_signals("nothing was written", has_checkpoints=False) as flag:
        try:
            yield flag
        except Interrupted as error:
            message = f"{error}; nothing was written"
            raise StoppedError(message, exit_code=flag.exit_code) from None
