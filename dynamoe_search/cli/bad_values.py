"""What is wrong with an option or an argument, by its name and with what it may be."""

import typer
from pydantic import ValidationError


def words_of(error: typer.TyperException) -> str:
    """Returns what is wrong with a command line; of a number that does not fit, with the range that would.

    Args:
        error: As the library raised it, whose own message names neither the range nor what was got.
    """
    param, cause = getattr(error, "param", None), error.__cause__
    text = error.format_message().replace("Value error, ", "").removeprefix("Invalid value: ")
    if param is None or not text.startswith("Invalid value for "):
        return text
    name = max(param.opts, key=len) if param.param_type_name == "option" else param.metavar
    kind = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    if kind in (int, float) and isinstance(cause, ValidationError):
        got = cause.errors()[0]["input"]
        return f"{name} must be {_allowed(kind is int, param.min, param.max)}, got {got!r}"
    message = text.partition(": ")[2]
    return f"{name} {message}" if message.startswith("must ") else f"{name}: {message}"


def _allowed(is_whole: bool, least: float | None, most: float | None) -> str:
    """Returns which numbers an option takes: `a whole number from 1 to 64`."""
    number = "a whole number" if is_whole else "a number"
    match least, most:
        case None, None:
            return number
        case _, None:
            return f"{number} of at least {_shown(least)}"
        case None, _:
            return f"{number} of at most {_shown(most)}"
    return f"{number} from {_shown(least)} to {_shown(most)}"


def _shown(bound: float | None) -> str:
    return f"{bound:,.0f}" if bound is not None and float(bound).is_integer() else f"{bound}"
