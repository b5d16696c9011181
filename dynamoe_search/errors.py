"""Every error that this program raises on purpose.

    DynamoeError                    root; exit code 1
    ├── InputError (ValueError)     what the user gave is wrong; exit code 2
    │   ├── SpecError               a study file, with every problem in it
    │   ├── UsageError              an option, a study name, a trial number
    │   ├── DataError               a data set that is missing, broken or of the wrong shape
    │   ├── StorageError            a database that cannot be opened, read or written
    │   └── DeviceError             a device that this machine does not have
    ├── DeviceLostError             the device fails in a way that only another process can mend; exit code 3
    ├── StoppedError                somebody asked to stop; exit code 130 for Ctrl-C, 143 for SIGTERM, else 1
    └── CandidateError (RuntimeError)   one candidate cannot go on; stored with its reason, the search goes on

A message says what was wrong, what was got and what to do, in one sentence.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class DynamoeError(Exception):
    """Root of all errors of this package.

    `exit_code` is what the command line ends with, `kind` a short stable word for scripts.
    """

    exit_code = 1
    kind = "failed"


class InputError(DynamoeError, ValueError):
    """What the user gave cannot be used."""

    exit_code = 2
    kind = "input"


class UsageError(InputError):
    """An option, a study name or a trial number that does not fit."""

    kind = "usage"


class DataError(InputError):
    """A data set that is missing, broken or of the wrong shape."""

    kind = "data"


class StorageError(InputError):
    """A database that cannot be opened, read or written."""

    kind = "storage"


class LeaseLostError(StorageError):
    """Another worker has taken over what this one was working on; its results are not stored."""


class DeviceError(InputError):
    """A device that this machine does not have."""

    kind = "device"


class DeviceLostError(DynamoeError):
    """The device failed, and computes nothing more for this process; another one can go on."""

    kind = "device"
    exit_code = 3


class StoppedError(DynamoeError):
    """Somebody asked to stop; what was not stored is not lost, but done again.

    Args:
        message: What was done, and how to go on.
        exit_code: What the command line ends with.
    """

    kind = "stopped"

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class CandidateError(DynamoeError, RuntimeError):
    """One candidate cannot go on, for example because its loss is not finite.

    `reason` is a short stable word for tables (`nan`, `out-of-memory`, `device-lost`, `exception`); the message is for
    people.
    """

    kind = "candidate"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong in a study file."""

    path: str  # dotted, as the user would write it in --set: "router.k"
    got: str
    allowed: str

    def __str__(self) -> str:
        where = self.path or "the file"
        return f"{where}: got {self.got}; {self.allowed}"


class SpecError(InputError):
    """A study file that cannot be used; carries all of its problems at once.

    Args:
        source: The file, preset or option that was read.
        problems: Everything that is wrong with it.
    """

    kind = "study-file"

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{source}: {problem}" for problem in self.problems))


def in_one_line(error: BaseException) -> str:
    """Returns the text of an error without line breaks, or its kind where it has no text."""
    return " ".join(str(error).split()) or f"not in the expected format ({type(error).__name__})"
