"""The workers of one study on a Ray cluster: placed where there is room, and placed again when they or their node die.

All wanted workers are asked for at once. Those for which there is no room wait in Ray, which is what an autoscaler
looks at; they begin when nodes are added.
"""

import json
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray import cloudpickle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dynamoe_search import credentials
from dynamoe_search.clusters import hosts
from dynamoe_search.clusters.orders import Order
from dynamoe_search.errors import DeviceLostError

MOST_EARLY_DEATHS = 5
"""A place whose workers die so often in a row, each soon after its start, is given up."""
EARLY_SECONDS = 30.0
MOST_LOST_DEVICES = 8
"""So is one whose workers lose their device so often in a row, however long they lived: a candidate at fault costs two
or three, a broken GPU has no end."""
GRACE_SECONDS = 60.0
_POLL_SECONDS = 0.5
_COUNT_SECONDS = 5.0
_PATIENCE_SECONDS = 15.0
_LEAST_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 0.5
_NOTICED_SECONDS = 5.0  # until Ray knows that a node is lost
_NOT_CLEAN = "interrupt"
_ERROR = "error: "
_MOST_LINES = 4
_LOST_CODE = DeviceLostError.exit_code
_KILLED = -signal.SIGKILL


class Say(Protocol):
    """Tells the program what happened."""

    def __call__(self, kind: str, **values: Any) -> None:
        """Tells of one thing, by its kind."""


@dataclass(kw_only=True, slots=True)
class _Place:
    number: int
    actor: Any = None
    ref: Any = None  # to what is awaited of it; None before it is asked for
    since: float = 0.0  # it was asked for, put to work, or is to be asked for
    node: str | None = None  # while the worker is at work
    node_id: str = ""  # what Ray calls it
    pid: int | None = None  # of the worker, on its node
    early_deaths: int = 0
    lost_devices: int = 0  # in a row
    last_lines: tuple[str, ...] = ()  # of the last worker that died here


class Places:
    """Keeps the workers of an order at work.

    Args:
        order: What is wanted.
        say: Told `alive` (workers at work, workers that wait for room), `news` (a sentence), `failure` (a sentence,
            and the exit code of the worker), `reason` (why a worker ended), and `dead` (machine and process of a
            worker that is gone with its node).
        is_over: Once set, the workers write a checkpoint and leave.
    """

    def __init__(self, order: Order, say: Say, is_over: threading.Event) -> None:
        self._order, self._say, self._is_over = order, say, is_over
        self._begin = time.monotonic()
        self._places: list[_Place] = []
        self._next_number = 1
        self._count_at = self._begin
        self._has_ended = False  # one found that nothing is left to do
        self._leave_until: float | None = None
        self._has_told_of_waiting = False
        self._num_given_up = 0  # places of those that `_wanted` counts
        self._lost: list[
            tuple[str, str, int]
        ] = []  # node as Ray calls it, its name, process of the worker
        self._mask = credentials.Mask(credentials.secrets_in(order.environment))
        for module in (hosts, credentials):
            cloudpickle.register_pickle_by_value(module)
        self._host = ray.remote(hosts.WorkerHost)

    def run(self) -> None:
        """Returns when all have ended."""
        try:
            for _ in range(self._wanted()):
                self._add()
            while self._places:
                self._listen()
                if self._is_over.is_set() and self._leave_until is None:
                    self._tell_to_leave()
                if self._leave_until is not None and time.monotonic() > self._leave_until:
                    break
                self._follow()
                alive = sum(place.node is not None for place in self._places)
                self._say("alive", alive=alive, waiting=len(self._places) - alive)
            if self._lost:
                time.sleep(_NOTICED_SECONDS)
                self._tell_of_dead()
        finally:
            for place in self._places:
                self._kill(place)

    def _wanted(self) -> int:
        """Returns how many workers there should be."""
        if self._order.workers is not None:
            return self._order.workers
        gpus = [node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"]]
        return max(1, sum(int(number) for number in gpus) * int(1 / self._order.gpus + 1e-9))

    def _follow(self) -> None:
        """Adds places as the cluster grows, takes those away that wait for what will not come, tells who waits."""
        now = time.monotonic()
        if now < self._count_at:
            return
        self._count_at = now + _COUNT_SECONDS
        self._tell_of_dead()
        if self._left() <= 0 and any(place.node is None for place in self._places):
            self._say("reason", reason="timeout")
            self._drop_waiting()
        if self._has_ended or self._leave_until is not None:
            return
        if self._order.workers is None:
            missing = self._wanted() - len(self._places)
            self._num_given_up = max(0, min(self._num_given_up, missing))
            missing -= self._num_given_up
            for _ in range(missing):
                self._add()
            waiting = [place for place in self._places if place.node is None]
            for place in waiting[: max(0, -missing)]:
                self._remove(place)
        self._tell_of_waiting(now)

    def _tell_of_dead(self) -> None:
        """Tells of workers that are gone with their node: to others they would look alive for a minute.

        If only their Ray process is gone they leave by themselves, with a checkpoint.
        """
        if not self._lost:
            return
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        for node_id, host, pid in [one for one in self._lost if one[0] not in alive]:
            self._lost.remove((node_id, host, pid))
            self._say("dead", host=host, pid=pid)

    def _left(self) -> float:
        """Returns how many seconds the workers have left."""
        limit = self._order.timeout_seconds
        return float("inf") if limit is None else limit - (time.monotonic() - self._begin)

    def _tell_of_waiting(self, now: float) -> None:
        waiting = [one for one in self._places if one.node is None]
        is_long = any(now - one.since > _PATIENCE_SECONDS for one in waiting)
        if is_long and not self._has_told_of_waiting:
            needs = f"{self._order.gpus:g} GPU and " if self._order.gpus else ""
            words = "1 worker waits" if len(waiting) == 1 else f"{len(waiting)} workers wait"
            found = ray.cluster_resources()
            self._say(
                "news",
                text=f"{words} for room: each takes {needs}{self._order.cpus:g} CPU, and the "
                f"Ray cluster has {found.get('GPU', 0):g} GPU and {found.get('CPU', 0):g} CPU in all",
            )
        self._has_told_of_waiting = is_long

    def _add(self) -> None:
        number, self._next_number = self._next_number, self._next_number + 1
        self._places.append(_Place(number=number))
        self._ask_for(self._places[-1])

    def _ask_for(self, place: _Place) -> None:
        """Asks Ray for room for a worker."""
        options: dict[str, Any] = {"num_cpus": self._order.cpus, "num_gpus": self._order.gpus}
        if self._order.stays_here:
            here = ray.get_runtime_context().get_node_id()
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=False)
        host = self._host.options(max_concurrency=2, max_restarts=0, **options)
        place.actor = host.remote(self._order.study, place.number)
        place.ref = place.actor.node.remote()
        place.since = time.monotonic()

    def _listen(self) -> None:
        """Waits for a moment for what happens to the workers, and acts on it."""
        for place in self._places:
            if place.ref is None and time.monotonic() > place.since:
                self._ask_for(place)
        found = {place.ref: place for place in self._places if place.ref is not None}
        if not found:
            time.sleep(_POLL_SECONDS)
            return
        ready, _ = ray.wait(list(found), num_returns=len(found), timeout=_POLL_SECONDS)
        for ref in ready:
            place = found[ref]
            if place not in self._places:  # taken away because of what another one said just now
                continue
            try:
                value = ray.get(ref)
            except RayError:
                if place.node is not None and place.pid is not None:
                    self._lost.append((place.node_id, place.node, place.pid))
                self._replace(place, "was lost with its node or its Ray process")
                continue
            self._follow_up(place, value)

    def _follow_up(self, place: _Place, value: Any) -> None:
        """Acts on what a worker's actor has answered: where it is, which process it began, or how that ended."""
        if place.node is None:
            self._set_to_work(place, *value)
        elif place.pid is not None:
            self._collect(place, value)
        elif value is None:
            self._remove(place)
        else:
            place.pid, place.ref = value, place.actor.end.remote()

    def _set_to_work(self, place: _Place, node: str, node_id: str) -> None:
        arguments = ["worker", self._order.study, "--json", *self._order.arguments]
        if (left := self._left()) < float("inf"):
            arguments += ["--timeout", f"{max(left, _LEAST_SECONDS):.3f}"]
        place.node, place.node_id, place.since = node, node_id, time.monotonic()
        place.ref = place.actor.begin.remote(
            arguments, self._order.environment, self._order.folder, self._mask
        )

    def _collect(self, place: _Place, ended: hosts.Ended) -> None:
        """Keeps what a worker that ended has to say."""
        code, reason = ended["code"], None
        with suppress(ValueError, KeyError, TypeError, IndexError):
            reason = str(json.loads(ended["said"].strip().splitlines()[-1])["reason"])
        is_leaving = self._leave_until is not None
        if reason is not None and (is_leaving or reason != _NOT_CLEAN):
            self._say("reason", reason=reason)
            self._has_ended = True
            self._remove(place)
            self._drop_waiting()
        elif reason is not None:
            self._replace(place, "was told to leave by somebody else")
        elif code < 0:
            place.last_lines = _last(ended["last_lines"])
            self._replace(place, f"was killed (signal {-code})")
        elif code == _LOST_CODE:
            place.last_lines = _last(ended["last_lines"])
            self._replace(place, "lost its device", lost_device=True)
        else:
            lines = _last(ended["last_lines"]) or ("it said nothing",)
            self._fail(place, f"ended with status {code}: {' | '.join(lines)}", code)

    def _replace(self, place: _Place, how: str, *, lost_device: bool = False) -> None:
        """Asks for another worker in the place of one that died."""
        has_lived = place.node is not None and time.monotonic() - place.since > EARLY_SECONDS
        place.early_deaths = 0 if has_lived else place.early_deaths + 1
        place.lost_devices = place.lost_devices + 1 if lost_device else 0
        if self._leave_until is not None or self._has_ended or self._left() <= 0:
            self._remove(place)
        elif place.lost_devices >= MOST_LOST_DEVICES or place.early_deaths >= MOST_EARLY_DEATHS:
            self._give_up(place, how)
        else:
            if place.node is not None:
                self._say("news", text=f"{_title(place)} {how}; another takes its place")
            self._kill(place)
            pause = _FIRST_PAUSE_SECONDS * 2 ** max(0, place.early_deaths - 1)
            place.actor = place.ref = place.node = place.pid = None
            place.since = time.monotonic() + pause  # a lost node is not at once known as such

    def _give_up(self, place: _Place, how: str) -> None:
        said = f"given up; the last words of one: {' | '.join(place.last_lines) or 'nothing'}"
        if place.lost_devices >= min(MOST_LOST_DEVICES, MOST_EARLY_DEATHS):
            before = f"as did {place.lost_devices - 1} before it"
            self._fail(place, f"{how}, {before}; its GPU may be broken; {said}", _LOST_CODE)
        else:
            self._fail(place, f"{how}, as were {place.early_deaths - 1} before it; {said}", _KILLED)

    def _fail(self, place: _Place, how: str, code: int) -> None:
        self._say("failure", text=f"{_title(place)} {how}", code=code)
        self._num_given_up += 1
        self._remove(place)

    def _drop_waiting(self) -> None:
        for place in [one for one in self._places if one.node is None]:
            self._remove(place)

    def _tell_to_leave(self) -> None:
        self._leave_until = time.monotonic() + GRACE_SECONDS + _PATIENCE_SECONDS
        self._drop_waiting()
        for place in self._places:
            place.actor.leave.remote(GRACE_SECONDS)

    def _remove(self, place: _Place) -> None:
        self._places.remove(place)
        self._kill(place)

    def _kill(self, place: _Place) -> None:
        if place.actor is None:
            return
        with suppress(RayError, ValueError):
            ray.kill(place.actor, no_restart=True)


def _last(lines: Sequence[str]) -> tuple[str, ...]:
    """Returns the sentence with which this program ends, or, of whatever ended otherwise, the last few lines."""
    if lines and lines[-1].startswith(_ERROR):
        return (lines[-1].removeprefix(_ERROR),)
    return tuple(lines[-_MOST_LINES:])


def _title(place: _Place) -> str:
    return f"worker {place.number}" + (f" on node {place.node}" if place.node else "")
