"""The sentence on command, machine and versions that stands above every table of this folder."""

import os
import platform
import sys
from importlib.metadata import version

import torch

from dynamoe_search.wording import counted

_OPENMP = ("OMP_", "GOMP_")


def run_as_users_do(module: str) -> None:
    """Starts the benchmark anew without the variables that tell OpenMP what to do, if there are any.

    With `OMP_WAIT_POLICY=PASSIVE`, which this program sets for itself, threads sleep between operations, and on an idle
    machine waking them makes a loop over experts two to three times as slow. Nobody who runs such a loop sets it.
    """
    clean = {name: own for name, own in os.environ.items() if not name.startswith(_OPENMP)}
    if len(clean) < len(os.environ):
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], clean)  # noqa: S606


def conditions(module: str, device: str) -> str:
    """Returns the sentence for a benchmark that is run as `python -m module`."""
    command = " ".join([f"python -m {module}", *sys.argv[1:]])
    name = f"{counted(os.cpu_count() or 1, 'CPU core')} ({platform.machine()})"
    if device.startswith("cuda"):
        name = f"{torch.cuda.get_device_name()}, {name}"
    busy = os.getloadavg()[0]
    told = [f"{name}={own}" for name, own in sorted(os.environ.items()) if name.startswith(_OPENMP)]
    return (
        f"Command: `{command}`. {name}, {counted(torch.get_num_threads(), 'thread')}, torch "
        f"{torch.__version__}, Python {platform.python_version()}, dynamoe_search {_own_version()}; "
        f"{' '.join(told) or 'OpenMP as it is'}; load of the machine before the start {busy:.1f}.\n"
    )


def _own_version() -> str:
    try:
        return version("dynamoe-search")
    except ModuleNotFoundError:
        return "from a clone"
