"""Where a Ray cluster is, and whether anybody answers there: known before Ray is loaded, which takes seconds."""

import os
import socket
from importlib.util import find_spec

from dynamoe_search.errors import UsageError

AUTO = "auto"
"""The address that means: the cluster that this machine is part of."""
OWN = "local"
"""The address that means: start Ray on this machine, for this run."""
_CLIENT = "ray://"
_REACH_SECONDS = 10.0


def meant_by(address: str) -> str:
    """Returns the address that is meant: for `auto` that of the variable `RAY_ADDRESS`, if it is set."""
    return (os.environ.get("RAY_ADDRESS") or AUTO) if address == AUTO else address


def is_of_a_node(address: str) -> bool:
    """Says whether whoever uses an address is on a machine of the cluster."""
    return not meant_by(address).startswith(_CLIENT)


def require_ray() -> None:
    """Returns if Ray is installed; raises `UsageError` with the command that installs it."""
    if find_spec("ray") is None:
        raise UsageError(
            "--engine ray needs ray, which this environment lacks; "
            "install it with: pip install 'dynamoe-search[cluster]'"
        )


def check_reachable(address: str) -> None:
    """Returns if somebody listens at an address; Ray itself would wait for minutes.

    Raises:
        UsageError: The address is none, or nobody answers; the message says what to do.
    """
    meant = meant_by(address)
    if meant in (AUTO, OWN):
        return
    host, _, port = meant.removeprefix(_CLIENT).rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(
            f"{meant!r} is no address of a Ray cluster; write HOST:PORT, ray://HOST:PORT, auto or local"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except OSError as error:
        raise unreachable(meant, error.strerror or str(error)) from error


def unreachable(address: str, reason: str) -> UsageError:
    """Returns the error for an address where nobody answers."""
    return UsageError(
        f"nobody answers at the Ray address {address} ({reason}); check the "
        "address, and that Ray runs there (`ray status`)"
    )
