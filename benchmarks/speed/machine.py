"""The sentence on command, machine and versions that stands above every table of this folder, and how a table grows."""

import os
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import torch


def conditions(module: str, device: str) -> str:
    """Returns the sentence for a benchmark that is run as `python -m module`."""
    command = " ".join([f"python -m {module}", *sys.argv[1:]])
    name = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    if device.startswith("cuda"):
        name = f"{torch.cuda.get_device_name()}, {name}"
    busy = os.getloadavg()[0]
    return (
        f"Command: `{command}`. {name}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, Python {platform.python_version()}, dynamoe_search {_own_version()}; "
        f"load of the machine before the start {busy:.1f}.\n"
    )


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


def _own_version() -> str:
    try:
        return version("dynamoe-search")
    except ModuleNotFoundError:
        return "from a clone"
