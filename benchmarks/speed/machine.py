"""The sentence on command, machine and versions that stands above every table of this folder."""

import os
import platform
import sys
from importlib.metadata import version

import torch

from dynamoe_search.wording import counted


def conditions(module: str, device: str) -> str:
    """Returns the sentence for a benchmark that is run as `python -m module`."""
    command = " ".join([f"python -m {module}", *sys.argv[1:]])
    name = f"{counted(os.cpu_count() or 1, 'CPU core')} ({platform.machine()})"
    if device.startswith("cuda"):
        name = f"{torch.cuda.get_device_name()}, {name}"
    busy = os.getloadavg()[0]
    return (
        f"Command: `{command}`. {name}, {counted(torch.get_num_threads(), 'thread')}, torch "
        f"{torch.__version__}, Python {platform.python_version()}, dynamoe_search {_own_version()}; "
        f"load of the machine before the start {busy:.1f}.\n"
    )


def _own_version() -> str:
    try:
        return version("dynamoe-search")
    except ModuleNotFoundError:
        return "from a clone"
