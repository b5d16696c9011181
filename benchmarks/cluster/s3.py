"""A study whose files are in a bucket, over HTTP, killed again and again: is it the same, and what does a bucket cost?

    pip install s3fs 'moto[server]'
    python -m benchmarks.cluster.s3 > benchmarks/cluster/results/s3_2-cores.md

The server is moto's, in a process of its own on this machine, so that times say what the program and the protocol take,
and not how far away a bucket is. Both packages are not part of the tests: with all that they need they take 125 MB.
"""

import argparse
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import torch

from benchmarks.faults.small_studies import NAME, facts, small_studies
from dynamoe_search.places import AnyPath, place_of, remove_tree
from dynamoe_search.search import run_study, weights
from dynamoe_search.store import Store
from dynamoe_search.wording import counted

FILES = "DYNAMOE_SEARCH_FILES"
KILLS = (3, 7, 12, 18, 25, 33)
MEGABYTES = (1, 16, 160)


@contextmanager
def bucket() -> Iterator[None]:
    """Starts a server with one bucket, and lets this process and its children know of it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        for _ in range(240):
            try:
                fsspec.filesystem("s3").mkdir("studies")
                break
            except OSError:
                time.sleep(0.25)
        yield
    finally:
        server.kill()
        server.wait()


def run(url: str, steps: int | None) -> None:
    """Runs a study with a checkpoint after every step; is killed after asking so often whether to stop."""
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        if asked == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    with Store.open(url) as store:
        run_study(store, NAME, should_stop=should_stop, checkpoint_seconds=0)


def seconds(act: Callable[[], object]) -> float:
    """Returns the median of three times."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return sorted(times)[1]


def cost(place: AnyPath, megabytes: int) -> tuple[float, float]:
    """Returns how long it takes to write and to read weights of this size."""
    state = {"a": torch.rand(megabytes * 250_000)}
    written = seconds(lambda: weights.save(place, 1, state))
    read = seconds(lambda: weights.load(place, 1, None))
    remove_tree(place)
    return written, read


def main() -> None:
    """Runs the study on a disk and in a bucket, and prints what differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--victim", nargs=2, metavar=("URL", "STEPS"))
    given = parser.parse_args()
    study = small_studies()[0]
    if given.victim:
        run(given.victim[0], int(given.victim[1]))
        return
    with tempfile.TemporaryDirectory() as name, bucket():
        folder = Path(name)
        urls = [f"sqlite:///{folder / file}" for file in ("disk.db", "bucket.db")]
        study.create(urls[0])
        run(urls[0], None)
        expected = facts(urls[0])
        os.environ[FILES] = "s3://studies/files"
        study.create(urls[1])
        killed = 0
        for steps in KILLS:
            command = [
                sys.executable,
                "-m",
                "benchmarks.cluster.s3",
                "--victim",
                urls[1],
                str(steps),
            ]
            killed += subprocess.run(command, check=False).returncode == -signal.SIGKILL  # noqa: S603
        run(urls[1], None)
        found = facts(urls[1])
        differing = [key for key in expected if key != "files" and found[key] != expected[key]]
        places = (place_of("s3://studies/cost", FILES), folder / "cost")
        rows = [(size, *(cost(place, size) for place in places)) for size in MEGABYTES]
    print("# A study whose files are in a bucket\n")
    print(
        f"Command: `python -m benchmarks.cluster.s3`. {platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, torch {torch.__version__}, fsspec {fsspec.__version__}; moto's S3 server on the "
        "same machine; beside other work.\n"
    )
    print(
        f"{study.title}, a checkpoint after every step; killed {counted(killed, 'time')} (SIGKILL), then resumed.\n"
    )
    print(
        f"Differs from the study on a disk that nothing happened to: {', '.join(differing) or 'nothing'}.\n"
    )
    print("| weights | to the bucket | from it | to the disk | from it |\n|--:|--:|--:|--:|--:|")
    for size, there, here in rows:
        print(f"| {size} MB | " + " | ".join(f"{one:.3f} s" for one in (*there, *here)) + " |")


if __name__ == "__main__":
    main()
