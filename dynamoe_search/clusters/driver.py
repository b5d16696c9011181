"""The process that speaks to Ray: `python -m dynamoe_search.clusters.driver ADDRESS`.

Says what the cluster has, reads an order from its standard input, keeps its workers at work, and ends them when the
input ends: when the program asks for it, or is gone. Nothing of a run is on its command line, which Ray shows.
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from typing import IO, Any

import ray
from ray.exceptions import RayError

from dynamoe_search.clusters.orders import AUTO, OWN, Cluster, Order, send, told
from dynamoe_search.clusters.places import Places

_REACH_SECONDS = 10.0
_CLIENT = "ray://"
_STORE_BYTES = 10**8  # of a cluster of ours; nothing large is kept there


def main() -> None:
    """Runs until its workers have ended."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever Ray prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    is_over = threading.Event()
    address = sys.argv[1]
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS") or AUTO
    try:
        _check_reachable(address)
        with _connected(address) as cluster:
            signal.signal(signal.SIGTERM, lambda *_: is_over.set())  # Ray's own ends at once
            send(answers, "cluster", **asdict(cluster))
            if line := sys.stdin.readline():
                threading.Thread(target=_await_end, args=(is_over,), daemon=True).start()
                order = Order(**told(line)[1])
                Places(order, partial(_say, answers), is_over).run()
                _say(answers, "end")
    except (ImportError, OSError, RuntimeError, ValueError, RayError) as error:
        _say(answers, "error", text=_sentence(address, error))
        sys.exit(1)


def _say(answers: IO[str], kind: str, **values: Any) -> None:
    with suppress(BrokenPipeError):  # the program is gone; its workers still get time to leave
        send(answers, kind, **values)


def _await_end(is_over: threading.Event) -> None:
    while sys.stdin.readline():
        pass
    is_over.set()


def _check_reachable(address: str) -> None:
    """Fails soon where Ray itself would wait for minutes.

    Raises:
        OSError: Nobody answers.
        ValueError: The address is none.
    """
    if address in (AUTO, OWN):
        return
    host, _, port = address.removeprefix(_CLIENT).rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("write HOST:PORT, ray://HOST:PORT, auto or local")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()


@contextmanager
def _connected(address: str) -> Iterator[Cluster]:
    """Yields what the cluster has; leaves it, or ends it if it was started here."""
    is_ours = address == OWN
    options = {"include_dashboard": False, "object_store_memory": _STORE_BYTES} if is_ours else {}
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    try:
        resources = ray.cluster_resources()
        yield Cluster(
            nodes=sum(bool(node["Alive"]) for node in ray.nodes()),
            cpus=resources.get("CPU", 0.0),
            gpus=resources.get("GPU", 0.0),
            is_ours=is_ours,
            is_near=not address.startswith(_CLIENT),
        )
    finally:
        ray.shutdown()


def _sentence(address: str, error: Exception) -> str:
    """Returns what went wrong, and what to do."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")
    if address == AUTO and isinstance(error, ConnectionError):
        return (
            "no Ray cluster runs on this machine; start one with `ray start --head`, name one with "
            "--ray-address HOST:PORT, or have one started for this run with --ray-address local"
        )
    if isinstance(error, OSError):
        return (
            f"nobody answers at the Ray address {address} ({error.strerror or reason}); check the "
            "address, and that Ray runs there (`ray status`)"
        )
    return f"the Ray cluster at {address} cannot be used: {reason}"


if __name__ == "__main__":
    main()
