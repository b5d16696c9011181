"""Options that several commands share, and how their values are read."""

import json
import math
import os
import re
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from dynamoe_search.errors import DeviceError, UsageError

STORAGE_VARIABLE = "DYNAMOE_SEARCH_STORAGE"
FILES_VARIABLE = "DYNAMOE_SEARCH_FILES"
LOGS_VARIABLE = "DYNAMOE_SEARCH_LOGS"
"""The logs of a worker that another process started, as JSON: their URLs may hold passwords."""
_MOST_CONFIG_BYTES = 10_000_000  # of an exported model; a usual one has a few thousand
MOST = 1_000_000_000
"""Of trials and epochs, as in study files."""
_MOST_SECONDS = 100 * 365 * 86400.0
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SCALES = {"": 1.0, "%": 0.01, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}


def countable(number: int | None) -> int | None:
    """Returns a number as it is, if it is none that no database keeps."""
    if number is not None and number > MOST:
        raise typer.BadParameter(f"must be at most {MOST:,}, got {number}")
    return number


def finite(number: float | None) -> float | None:
    """Returns a number as it is, if it is one: a range lets nan and inf through."""
    if number is not None and not math.isfinite(number):
        raise typer.BadParameter(f"must be a finite number, got {number}")
    return number


def duration(text: str) -> float:
    """Returns a length of time in seconds from text such as `45s`, `30m`, `1h30m`, `2d` or a number of seconds."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise typer.BadParameter(f"{text!r} is no length of time; write 45s, 30m, 1h30m or 2d")
    if len(parts) > 1 and not all(unit for _, unit in parts):
        raise typer.BadParameter(
            f"{text!r} has a number without a unit; write 45s, 30m, 1h30m or 2d"
        )
    seconds = sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
    if not seconds:
        raise typer.BadParameter(f"{text!r} must be longer than nothing")
    if seconds > _MOST_SECONDS:
        raise typer.BadParameter(f"{text[:20]!r} is longer than a hundred years")
    return seconds


def quantity(text: str) -> float:
    """Returns a number from text such as `50k`, `1.5M`, `90%` or `0.9`."""
    match = re.fullmatch(r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(%|k|K|M|G)?", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no number; write 50000, 50k, 1.5M, 0.9 or 90%")
    number = float(match[1]) * _SCALES[match[2] or ""]
    if not math.isfinite(number):
        raise typer.BadParameter(f"{text[:20]!r} is too large a number")
    return number


def bound(text: str) -> tuple[str, float]:
    """Returns a measure and a number from text such as `activated_params=50k`."""
    name, equals, number = text.partition("=")
    if not equals or not name.strip():
        raise typer.BadParameter(
            f"{text!r} must be MEASURE=NUMBER, for example activated_params=50k"
        )
    return name.strip(), quantity(number.strip())


LOG_LIBRARIES = {"tensorboard": "tensorboard", "mlflow": "mlflow"}
"""What each kind of log needs; all are in the extra `loggers`."""


def log_target(text: str) -> tuple[str, str]:
    """Returns kind and place of a log from text such as `tensorboard=runs` or `mlflow=sqlite:///mlflow.db`.

    Raises:
        UsageError: Its library is not installed; the message has the command that installs it.
    """
    kind, _, place = text.partition("=")
    if kind not in LOG_LIBRARIES or not place:
        from dynamoe_search.store import masked

        raise UsageError(f"--log {masked(text)!r} must be tensorboard=DIR or mlflow=URI")
    if find_spec(LOG_LIBRARIES[kind]) is None:
        raise UsageError(
            f"--log {kind} needs {LOG_LIBRARIES[kind]}, which this environment lacks; "
            "install it with: pip install 'dynamoe-search[loggers]'"
        )
    return kind, place


def handed_logs(environment: MutableMapping[str, str]) -> list[str]:
    """Returns the logs that a worker was handed by who started it, and takes them out of the environment."""
    return list(json.loads(environment.pop(LOGS_VARIABLE, "[]")))


def check_folder(path: Path) -> None:
    """Makes sure, before hours of training, that a model can be written to a folder; leaves nothing behind.

    Raises:
        UsageError: It is a file, cannot be written, or holds something else than an earlier export: the
            model of another program, which is called the same, or links, through which others' files would be written.
    """
    missing = [one for one in (path, *path.parents) if not one.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        entries = list(path.iterdir())
        is_ours = not entries or _is_exported(path / "config.json")
        is_writable = os.access(path, os.W_OK)
        with suppress(OSError):  # somebody else writes there meanwhile
            for one in missing:
                one.rmdir()
    except OSError as error:
        raise UsageError(f"--out {path} cannot be a folder: {error.strerror}") from error
    if not is_ours:
        raise UsageError(f"--out {path} is not empty and no earlier export; name a new folder")
    if links := [entry.name for entry in entries if entry.is_symlink()]:
        raise UsageError(f"--out {path} holds the link {links[0]}; name a new folder")
    if not is_writable:
        raise UsageError(f"--out {path} cannot be written; check its permissions")


def _is_exported(path: Path) -> bool:
    """Tells whether a file is the configuration of a model that this program wrote."""
    if not path.is_file() or path.stat().st_size > _MOST_CONFIG_BYTES:
        return False
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(config, dict) and {"format", "candidate", "outcome"} <= config.keys()


Study = Annotated[
    str, typer.Argument(metavar="STUDY", help="Name of the study.", show_default=False)
]
Trial = Annotated[
    int,
    typer.Argument(
        metavar="TRIAL",
        help="Number of the trial, as in `front`.",
        callback=countable,
        show_default=False,
    ),
]
StudyFile = Annotated[
    str,
    typer.Argument(
        metavar="FILE|PRESET", help="A TOML file, or a preset's name.", show_default=False
    ),
]


def _lasting(storage: str | None) -> str | None:
    """Refuses files in the memory of a process for every command that has a database."""
    if (place := os.environ.get(FILES_VARIABLE, "")).startswith("memory:"):
        raise UsageError(
            f"{FILES_VARIABLE}={place} is the memory of one process, and gone when it ends; name a folder, or a bucket"
        )
    return storage


Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        envvar=STORAGE_VARIABLE,
        help="Database of the studies, as SQLAlchemy and Optuna write it: sqlite:///FILE, postgresql://… "
        "Default: a SQLite file in your data folder.",
        show_default=False,
        callback=_lasting,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON with stable keys.")]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a value of the study file, e.g. router.kind=top-k or train.epochs=5; may be repeated.",
        show_default=False,
    ),
]


def device_name(text: str) -> str:
    """Returns the text if it names a device; whether that is here takes torch to know.

    Raises:
        DeviceError: It names something else.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", text):
        raise DeviceError(f"unknown device {text!r}; use auto, cpu, cuda or cuda:N")
    return text


Device = Annotated[
    str,
    typer.Option(
        "--device", help="Where to train: auto, cpu, cuda or cuda:1, …", callback=device_name
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=1024,
        help="CPU threads of torch; a study keeps its number. Default: as many as torch would use.",
        show_default=False,
    ),
]


def _look_in_this_folder(trusted: bool) -> bool:
    """Lets a backbone be imported from the current folder, as `python -m` would."""
    if trusted and "" not in sys.path:
        sys.path.insert(0, "")
    return trusted


TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Import the Python class that the study file names as its backbone.",
        callback=_look_in_this_folder,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Logs = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        metavar="KIND=PLACE",
        help="Log every candidate as a run of its own: tensorboard=DIR or mlflow=URI; may be repeated.",
        show_default=False,
    ),
]
Trials = Annotated[
    int | None,
    typer.Option(
        "--trials",
        min=1,
        help="Candidates of the whole study, the finished ones included.",
        callback=countable,
        show_default=False,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="TIME",
        parser=duration,
        help="Stop this run after this time, e.g. 45s, 30m, 1h30m.",
        show_default=False,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        "--epochs",
        min=1,
        help="Training budget: epochs of all candidates of the study together.",
        callback=countable,
        show_default=False,
    ),
]
TimeBudget = Annotated[
    float | None,
    typer.Option(
        "--time-budget",
        metavar="TIME",
        parser=duration,
        help="Time of the whole study, earlier runs and other workers included.",
        show_default=False,
    ),
]
