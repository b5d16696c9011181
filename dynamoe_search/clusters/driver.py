"""The process that speaks to Ray: `python -m dynamoe_search.clusters.driver ADDRESS`.

Says what the cluster has, reads an order from its standard input, keeps its workers at work, and ends them when the
input ends: when the program asks for it, or is gone. Nothing of a run is on its command line, which Ray shows.
"""

import logging
import os
import platform
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from typing import IO, Any

import ray
from ray.exceptions import RayError

from dynamoe_search.clusters.addresses import (
    AUTO,
    OWN,
    check_reachable,
    is_of_a_node,
    meant_by,
    unreachable,
)
from dynamoe_search.clusters.orders import Cluster, Order, send, told
from dynamoe_search.clusters.places import Places
from dynamoe_search.errors import UsageError

_STORE_BYTES = 10**8  # of a cluster of ours; nothing large is kept there
_VERSIONS = re.compile(r"^ *(Ray|Python): (\S+)$", re.M)  # of the cluster, and of this process


def main() -> None:
    """Runs until its workers have ended."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever Ray prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    is_over = threading.Event()
    address = meant_by(sys.argv[1])
    try:
        check_reachable(address)
        with _connected(address) as cluster:
            signal.signal(signal.SIGTERM, lambda *_: is_over.set())  # Ray's own ends at once
            send(answers, "cluster", **asdict(cluster))
            if line := sys.stdin.readline():
                threading.Thread(target=_await_end, args=(is_over,), daemon=True).start()
                order = Order(**told(line)[1])
                Places(order, partial(_say, answers), is_over).run()
                _say(answers, "end")
    except UsageError as error:
        _say(answers, "error", text=str(error))
        sys.exit(1)
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
            is_near=is_of_a_node(address),
        )
    finally:
        ray.shutdown()


def _sentence(address: str, error: Exception) -> str:
    """Returns what went wrong, and what to do."""
    if len(found := _VERSIONS.findall(str(error))) == 4:
        there, here = (" and ".join(" ".join(one) for one in found[at : at + 2]) for at in (0, 2))
        return (
            f"the Ray cluster at {address} runs {there}, and {platform.node()} has {here}; "
            "install the same on all machines"
        )
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")
    if address == AUTO and isinstance(error, ConnectionError):
        return (
            "no Ray cluster runs on this machine; start one with `ray start --head`, name one with "
            "--ray-address HOST:PORT, or have one started for this run with --ray-address local"
        )
    if isinstance(error, OSError):
        return str(unreachable(address, error.strerror or reason))
    return f"the Ray cluster at {address} cannot be used: {reason}"


if __name__ == "__main__":
    main()
