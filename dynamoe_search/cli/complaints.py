"""How an error is told: a sentence on stderr, with `--json` an object on stdout as well, and an exit code.

One rule holds for all commands:

- stderr has one line per problem, which begins with `error: ` unless somebody asked to stop;
- with `--json` stdout has one JSON document in any case: the result, or an object whose `ok` is false, with the same
  words, what kind of error it is, the exit code and every problem of a study file;
- without `--json`, stdout has only what was found before, such as the summary of a search that was stopped.
"""

import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import typer

from dynamoe_search.cli.bad_values import words_of
from dynamoe_search.cli.words import say
from dynamoe_search.errors import (
    DeviceLostError,
    DynamoeError,
    SpecError,
    StoppedError,
    in_one_line,
)

FAILED, WRONG, INTERRUPTED = 1, 2, 130
"""Exit codes; 0 is done, and 128 and a signal's number is that of a program that it ended."""
EXIT_CODES: Mapping[int, str] = {
    0: "done",
    FAILED: "failed, or stopped by the command stop",
    WRONG: "wrong usage or input",
    DeviceLostError.exit_code: "the device failed, and another process can go on",
    INTERRUPTED: "stopped by Ctrl-C",
    143: "stopped by SIGTERM",
}


def tell(error: Exception, *, program: str, as_json: bool, with_trace: bool) -> int:
    """Says what went wrong and returns the exit code.

    Args:
        error: What was raised; what is no error of this program or of its command line is called an internal one.
        program: What the program is called, for where help is.
        as_json: Whether stdout gets an object too.
        with_trace: Whether to show where in the program it came from.
    """
    if not isinstance(error, DynamoeError) and "KeyboardInterrupt" in str(error):
        error = StoppedError("stopped", exit_code=INTERRUPTED)  # pydantic says it so
    kind, message, code = _told(error, program)
    if with_trace and not isinstance(error, typer.TyperException):
        with suppress(OSError):
            traceback.print_exception(error)
    before = "" if isinstance(error, StoppedError) else "error: "
    with suppress(OSError):  # nobody reads stderr, but a script may read stdout
        for line in message.split("\n"):
            say(before + line if kind != "internal" else line, err=True)
    if as_json:
        from dynamoe_search.cli.screens import print_json

        problems = error.problems if isinstance(error, SpecError) else ()
        found: dict[str, Any] = {"ok": False, "error": message, "kind": kind, "exit_code": code}
        with suppress(OSError):
            print_json(found | {"problems": [asdict(one) for one in problems]})
    return code


def _told(error: Exception, program: str) -> tuple[str, str, int]:
    """Returns the kind of an error, its words and its exit code."""
    match error:
        case DynamoeError():
            return error.kind, str(error), error.exit_code
        case typer.TyperException():
            context = getattr(error, "ctx", None)
            command = program if context is None else context.command_path
            message = " ".join(words_of(error).split())
            return "usage", f"{message} (see {command} --help)", error.exit_code
        case typer.Abort():  # of a question that nobody answers
            return StoppedError.kind, "stopped", FAILED
        case OSError():  # a full disk, a folder that went away
            return "system", in_one_line(error), FAILED
    name, text = type(error).__name__, in_one_line(error)
    if _is_device_lost(error):
        first = str(error).strip().partition("\n")[0]
        return (
            DeviceLostError.kind,
            f"the device failed ({first}), and does nothing more for this process; run the command again",
            DeviceLostError.exit_code,
        )
    return (
        "internal",
        f"internal error: {name}: {text} (run with --debug to see where)",
        FAILED,
    )


def _is_device_lost(error: Exception) -> bool:
    """Tells whether a device failed where no candidate was in training; nothing was computed without that module."""
    failures = sys.modules.get("dynamoe_search.training.failures")
    return failures is not None and bool(failures.is_device_lost(error, "cuda"))
