"""The command that measures how fast this machine trains: bench."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from dynamoe_search.cli.options import AsJson, Changes, Device, Threads, TrustCode, duration

_LARGEST_PACK = 1024


def bench(
    file: Annotated[
        str,
        typer.Argument(metavar="[FILE|PRESET]", help="Whose designs and data are used."),
    ] = "digits",
    packs: Annotated[
        str,
        typer.Option("--packs", metavar="SIZES", help="How many candidates to train together."),
    ] = "1,4,16,32",
    seconds: Annotated[
        float,
        typer.Option(
            "--time",
            metavar="TIME",
            parser=duration,
            help="How long to measure, e.g. 30s or 2m.",
        ),
    ] = "30s",  # type: ignore[assignment]
    changes: Changes = None,
    device: Device = "auto",
    threads: Threads = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Measure how fast this machine trains candidates together, against one at a time.

    The size to put into `search.cohort_size` is the smallest that comes within 5 % of the fastest.
    """
    from dynamoe_search.cli import estimates, screens
    from dynamoe_search.presets import read_study

    sizes = _sizes(packs)
    spec = read_study(file, changes or ()).spec

    import torch

    from dynamoe_search.search import measure_speed

    if threads is not None:
        torch.set_num_threads(threads)
    found = measure_speed(spec, sizes, device=device, seconds=seconds, trust_code=trust_code)
    if as_json:
        screens.print_json(asdict(found))
    else:
        estimates.show_speed(found)


def _sizes(text: str) -> list[int]:
    """Returns pack sizes from text such as `1,4,16`."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and 1 <= int(part) <= _LARGEST_PACK for part in parts):
        raise typer.BadParameter(
            f"--packs must be numbers from 1 to {_LARGEST_PACK} such as 1,4,16, got {text!r}"
        )
    return [int(part) for part in parts]


COMMANDS: dict[str, Any] = {"bench": bench}
