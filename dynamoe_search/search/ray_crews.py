"""The workers of one study on a Ray cluster, as the program sees them: through a process that speaks to Ray.

See `dynamoe_search.clusters` for that process. If it ends, or its input does, Ray ends the workers, which write
checkpoints first.
"""

import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import IO, Any, get_args

from dynamoe_search.clusters.addresses import require_ray
from dynamoe_search.clusters.orders import Cluster, Order, send, told
from dynamoe_search.credentials import Mask, secrets_in
from dynamoe_search.errors import UsageError
from dynamoe_search.search.events import EndReason
from dynamoe_search.search.workers import CrewEnd

_CONNECT_SECONDS = 60.0
_POLL_SECONDS = 0.5
_LEAVE_SECONDS = 90.0  # the workers get 60 of them
_END_SECONDS = 30.0
_NO_TOKEN = re.compile("InvalidAuthToken|Unauthenticated|authentication token", re.I)


@contextmanager
def ray_cluster(address: str, hidden: Collection[str] = ()) -> Iterator["RayCluster"]:
    """Yields a connection to a Ray cluster; at its end nothing of ours is left there.

    Args:
        address: `auto`, `HOST:PORT`, `ray://HOST:PORT`, or `local` for a cluster of this machine only, for this run.
        hidden: Environment variables that Ray must not see, since they may hold passwords.

    Raises:
        UsageError: Ray is not installed, nobody answers, or the cluster cannot be used; the message says what to do.
    """
    require_ray()
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "dynamoe_search.clusters.driver", address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={name: value for name, value in os.environ.items() if name not in hidden}
            | {"RAY_USAGE_STATS_ENABLED": "0"},
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which tells the workers
        )
        cluster = RayCluster(address, process, log)
        try:
            cluster.connect()
            yield cluster
        finally:
            cluster.close()


class RayCluster:
    """A Ray cluster that a process of ours speaks to; see `ray_cluster`.

    Args:
        address: As the user gave it.
        process: The one that speaks to Ray.
        log: What it and Ray print.
    """

    def __init__(self, address: str, process: "subprocess.Popen[str]", log: IO[str]) -> None:
        self._address, self._process, self._log = address, process, log
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._has: Cluster | None = None
        self._mask = Mask(secrets_in(os.environ))
        self._listener = threading.Thread(target=self._hear, daemon=True)
        self._listener.start()

    @property
    def has(self) -> Cluster:
        """What there was when it was connected."""
        assert self._has is not None
        return self._has

    def connect(self) -> None:
        """Waits for the cluster.

        Raises:
            UsageError: It cannot be used, or does not answer in time.
        """
        try:
            answer = self._next(_CONNECT_SECONDS)
        except (KeyboardInterrupt, UsageError):  # Ray's own end may take half a minute
            self._kill()
            raise
        if answer is None:
            self._kill()
            raise UsageError(
                self._about_token()
                or f"Ray did not answer at {self._address} within {_CONNECT_SECONDS:.0f} seconds; check the address, "
                "and that Ray runs there (`ray status`)"
            )
        self._has = Cluster(**answer[1])

    def run(
        self,
        order: Order,
        should_stop: Callable[[], bool],
        on_poll: Callable[[int, int], None],
        on_news: Callable[[str], None],
        on_dead: Callable[[str, int], None] = lambda _host, _pid: None,
    ) -> CrewEnd:
        """Has workers placed and returns when all have ended.

        Args:
            order: Which.
            should_stop: Asked twice a second; the workers then write a checkpoint and leave.
            on_poll: Told twice a second how many are at work, and how many wait for room.
            on_news: Told in one sentence what happened to a worker.
            on_dead: Told machine and process of a worker that is gone with its node.

        Raises:
            UsageError: The connection to Ray was lost.
        """
        failures: list[str] = []
        codes: list[int] = []
        reasons: set[str] = set()
        kill_at: float | None = None
        self._mask = Mask(secrets_in({**os.environ, **order.environment}))
        self._tell(order)
        while kill_at is None or time.monotonic() < kill_at:
            if kill_at is None and should_stop():
                kill_at = time.monotonic() + _LEAVE_SECONDS
                self._hang_up()
            answer = self._next(_POLL_SECONDS)
            if answer is None:
                continue
            kind, values = answer
            if kind == "end":
                break
            if kind == "alive":
                on_poll(values["alive"], values["waiting"])
            elif kind == "reason":
                reasons.add(values["reason"])
            elif kind == "dead":
                on_dead(values["host"], values["pid"])
            else:
                on_news(values["text"])
                if kind == "failure":
                    failures.append(values["text"])
                    codes.append(values["code"])
        found = next((one for one in get_args(EndReason) if one in reasons), None)
        return CrewEnd(
            reason=found if kill_at is None else "interrupt",
            failures=tuple(failures),
            codes=tuple(codes),
        )

    def close(self) -> None:
        """Ends the process, and with it whatever it still has on the cluster."""
        self._hang_up()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()
        self._listener.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _tell(self, order: Order) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it says why it ended
            send(self._process.stdin, "order", **asdict(order))

    def _hang_up(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def _hear(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _next(self, seconds: float) -> tuple[str, dict[str, Any]] | None:
        """Returns the next answer, or None if there is none in time.

        Raises:
            UsageError: The answer is that something is wrong, or the process ended without one.
        """
        try:
            line = self._answers.get(timeout=seconds)
        except queue.Empty:
            return None
        if not line:
            self._log.seek(0)
            log = self._mask(self._log.read()).splitlines()
            lines = [one.strip() for one in log if one.strip()] or ["it said nothing"]
            reason = re.sub(r"^\[[^]]*\] *", "", lines[-1]).partition(". ")[
                0
            ]  # after time and process
            raise UsageError(
                f"the connection to Ray at {self._address} was lost, so that the workers leave ({reason}); "
                "resume goes on with the study"
            )
        kind, values = told(line)
        if kind == "error":
            raise UsageError(self._about_token() or self._mask(values["text"]))
        return kind, values

    def _about_token(self) -> str | None:
        """Returns what to say if the cluster wants a token: Ray itself says only that it could not connect."""
        self._log.seek(0)
        if not _NO_TOKEN.search(self._log.read()):
            return None
        return (
            f"the Ray cluster at {self._address} wants the token that it was started with; set RAY_AUTH_MODE=token, "
            "and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, as on its nodes"
        )
