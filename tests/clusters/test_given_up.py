"""When a place on a Ray cluster is given up: no cluster is needed to decide that."""

import threading
import time
from typing import Any

import pytest

from dynamoe_search.clusters.hosts import Ended
from dynamoe_search.clusters.orders import Order
from dynamoe_search.clusters.places import (
    EARLY_SECONDS,
    MOST_EARLY_DEATHS,
    MOST_LOST_DEVICES,
    Places,
    _Place,
)
from dynamoe_search.errors import DeviceLostError

LOST, KILLED = DeviceLostError.exit_code, -9


class Trial:
    """One place whose workers end as told, and what is said of it."""

    def __init__(self) -> None:
        self.news: list[str] = []
        self.failures: list[tuple[str, int]] = []
        order = Order(
            study="tiny",
            arguments=[],
            environment={},
            folder=".",
            workers=1,
            cpus=1.0,
            gpus=1.0,
            stays_here=False,
            timeout_seconds=None,
        )
        self._places = Places(order, self._say, threading.Event())
        self._place = _Place(number=1)
        self._places._places.append(self._place)

    def _say(self, kind: str, **values: Any) -> None:
        if kind == "failure":
            self.failures.append((values["text"], values["code"]))
        else:
            self.news.append(values["text"])

    def ends(self, code: int, *, after: float) -> bool:
        """Lets a worker end with a code after some seconds; returns whether another takes its place."""
        self._place.node, self._place.since = "node7", time.monotonic() - after
        last_lines = ["error: the device cuda:0 failed (uncorrectable ECC error encountered)"]
        self._places._collect(self._place, Ended(code=code, said="", last_lines=last_lines))
        return bool(self._places._places)


@pytest.mark.parametrize("after", [1.0, EARLY_SECONDS + 1, 100_000.0])
def test_a_gpu_that_fails_again_and_again_is_given_up_however_long_it_lasts(after: float) -> None:
    trial, num = Trial(), 1
    while trial.ends(LOST, after=after):
        num += 1
        assert num <= MOST_LOST_DEVICES
    assert num == (MOST_EARLY_DEATHS if after < EARLY_SECONDS else MOST_LOST_DEVICES)
    assert trial.news == ["worker 1 on node node7 lost its device; another takes its place"] * (
        num - 1
    )
    said = (
        f"worker 1 on node node7 lost its device, as did {num - 1} before it; its GPU may be broken; given up; "
        "the last words of one: the device cuda:0 failed (uncorrectable ECC error encountered)"
    )
    assert trial.failures == [(said, LOST)]


def test_losses_of_a_device_count_in_a_row_and_workers_that_are_preempted_do_not() -> None:
    trial = Trial()
    for _ in range(3):
        assert all(trial.ends(LOST, after=100.0) for _ in range(MOST_LOST_DEVICES - 1))
        assert all(trial.ends(KILLED, after=100.0) for _ in range(20))
    assert trial.failures == []


def test_workers_that_are_killed_at_once_are_no_broken_gpu() -> None:
    trial = Trial()
    assert all(trial.ends(KILLED, after=1.0) for _ in range(MOST_EARLY_DEATHS - 1))
    assert not trial.ends(KILLED, after=1.0)
    ((said, code),) = trial.failures
    assert "was killed (signal 9), as were 4 before it; given up" in said
    assert code == KILLED
