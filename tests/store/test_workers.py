"""Several processes on one study: every leg once, the dead are succeeded, the living are never robbed."""

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from dynamoe_search.errors import LeaseLostError, UsageError
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store, tables, workers
from dynamoe_search.store.runs import Runner, Watcher, lives_here, this_process
from tests.store.builders import SETTINGS, add, leg_of
from tests.store.working import EPOCHS, close, next_leg, work

CONTEXT = multiprocessing.get_context("spawn")
NUM_CANDIDATES = 20


def start(url: str, log: Path, *more: int) -> "multiprocessing.context.SpawnProcess":
    process = CONTEXT.Process(target=work, args=(url, "tiny", log, *more))
    process.start()
    return process


def wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def check_all_done(store: Store, name: str, log: Path) -> None:
    legs = store.legs(name)
    assert {leg.state for leg in legs} == {"done"}
    assert len(legs) == NUM_CANDIDATES * EPOCHS
    assert Counter(leg.trials for leg in legs) == {(n,): EPOCHS for n in range(NUM_CANDIDATES)}
    logged = [int(line) for line in log.read_text().split()]
    assert len(logged) == len(set(logged))
    assert {one.status for one in store.standings(name)} == {"complete"}
    assert len(store.progress(name)) == NUM_CANDIDATES * EPOCHS
    theirs = optuna.load_study(study_name=name, storage=store.storage_for_optuna())
    assert {trial.state for trial in theirs.trials} == {TrialState.COMPLETE}
    assert store.zombies(name) == []
    store.refresh_front(name)
    assert {one.level for one in store.check()} == {"ok"}


@pytest.mark.slow
def test_four_processes_do_every_leg_once_though_one_is_killed(
    store: Store, study: str, tmp_path: Path
) -> None:
    for ordinal in range(NUM_CANDIDATES):
        add(store, study, ordinal)
    log = tmp_path / "log"
    killed = start(store.url, log, 3, signal.SIGKILL)
    others = [start(store.url, log) for _ in range(3)]
    for process in (killed, *others):
        process.join()
    assert killed.exitcode == -signal.SIGKILL
    assert [process.exitcode for process in others] == [0, 0, 0]
    check_all_done(store, study, log)
    assert len(store.workers(study)) == 4
    assert store.study(study).state == "finished"


@pytest.mark.slow
def test_stopped_process_is_not_robbed(store: Store, study: str, tmp_path: Path) -> None:
    for ordinal in range(NUM_CANDIDATES):
        add(store, study, ordinal)
    log = tmp_path / "log"
    asleep = start(store.url, log, 0, signal.SIGSTOP)
    wait(lambda: bool(store.legs(study)))
    (leg,) = store.legs(study)
    assert leg.worker is not None
    other = start(store.url, log)
    wait(lambda: len(store.legs(study, state="done")) == (NUM_CANDIDATES - 1) * EPOCHS)
    (left,) = store.legs(study, state="open")
    assert left == leg
    assert not store.take_leg(study, store.join(study), leg.number)
    assert next(one.id for one in store.workers(study) if one.is_alive) == leg.worker
    assert asleep.pid is not None
    os.kill(asleep.pid, signal.SIGCONT)
    asleep.join()
    other.join()
    assert (asleep.exitcode, other.exitcode) == (0, 0)
    check_all_done(store, study, log)


def set_worker(store: Store, worker: str, **values: object) -> None:
    with store._database.write() as connection:
        for column, value in values.items():
            connection.execute(
                tables.workers.update()
                .where(tables.workers.c.worker == worker)
                .values({column: value})
            )


def rival(store: Store) -> Store:
    """Another observer of the same database, as on another machine: nothing in common but the file."""
    other = Store.open(store.url)
    other._watcher = Watcher(silence_seconds=0.3)
    return other


@pytest.fixture
def away(store: Store, study: str) -> str:
    """A worker of another machine with an open leg."""
    add(store, study, 0)
    worker = store.join(study)
    leg_of(store, study, worker, [0], end=1)
    set_worker(store, worker, host="elsewhere")
    return worker


def test_worker_of_another_machine_is_robbed_when_it_is_silent(
    store: Store, study: str, away: str
) -> None:
    with rival(store) as other:
        me = other.join(study)
        began = time.monotonic()
        wait(lambda: other.take_leg(study, me, 0), 5)
        assert time.monotonic() - began > 0.25
        (leg,) = store.legs(study)
        with pytest.raises(LeaseLostError, match="was taken over"):
            close(store, study, away, leg)
        close(other, study, me, leg)
        assert other.standings(study)[0].checkpoint == "0-1"


def test_worker_that_is_known_to_be_gone_is_succeeded_at_once(
    store: Store, study: str, away: str
) -> None:
    with Store.open(store.url) as other:
        me = other.join(study)
        for host, pid in (("elsewhere", os.getpid() + 1), (this_process().host, os.getpid())):
            other.bury(study, host, pid)  # somebody else; this process, which can be seen
        assert not other.take_leg(study, me, 0)
        other.bury(study, "elsewhere", os.getpid())
        other.bury(study, "elsewhere", os.getpid())  # a second time
        assert other.take_leg(study, me, 0)
        (leg,) = store.legs(study)
        with pytest.raises(LeaseLostError):  # it was not gone after all
            close(store, study, away, leg)
        assert {one.id for one in store.workers(study) if one.is_alive} == {me}
        other.leave(study, me, "interrupted")
    assert store.study(study).state == "interrupted"


def test_worker_that_is_heard_is_not_robbed(store: Store, study: str, away: str) -> None:
    with rival(store) as other:
        me = other.join(study)
        for _ in range(20):
            set_worker(store, away, beats=time.monotonic_ns())
            assert not other.take_leg(study, me, 0)
            time.sleep(0.05)


@pytest.mark.parametrize(
    "moment", ["2001-01-01T00:00:00.000+00:00", "2999-01-01T00:00:00.000+00:00"]
)
def test_clocks_have_no_say(store: Store, study: str, away: str, moment: str) -> None:
    set_worker(store, away, heartbeat_at=moment, started_at=moment)
    with rival(store) as other:
        me = other.join(study)
        assert not other.take_leg(study, me, 0)
        wait(lambda: other.take_leg(study, me, 0), 5)


@pytest.mark.usefixtures("away")
def test_observer_that_saw_nothing_for_long_robs_nobody(store: Store, study: str) -> None:
    with rival(store) as other:
        me = other.join(study)
        assert not other.take_leg(study, me, 0)
        time.sleep(0.5)  # the database was out of reach, so to say
        assert not other.take_leg(study, me, 0)


def test_dead_process_of_this_machine_is_known_at_once(store: Store, study: str) -> None:
    process = CONTEXT.Process(target=os.getpid)
    process.start()
    process.join()
    add(store, study, 0)
    with Store.open(store.url) as other:
        theirs = other.join(study)
        leg = leg_of(other, study, theirs, [0], end=1)
        assert not store.take_leg(study, store.join(study), leg.number)
        set_worker(store, theirs, pid=process.pid)
        assert store.take_leg(study, store.join(study), leg.number)
        assert store.take_leg(study, store.join(study), leg.number)
        assert store.legs(study)[0].worker == store.join(study)


def test_marks_tell_machines_containers_and_starts_apart() -> None:
    here = this_process()
    if not here.mark:
        pytest.skip("this system does not say when a process started")
    machine, boot, namespace, start_ = here.mark.split(":")

    def judged(mark: str, pid: int = here.pid) -> bool | None:
        return lives_here(Runner(host=here.host, pid=pid, mark=mark))

    assert judged(here.mark) is True
    assert judged(f"{machine}:{boot}:{namespace}:1{start_}") is False
    assert judged(f"{machine}:{boot}:other:{start_}") is None
    assert judged(f"other:other:{namespace}:{start_}") is None
    assert judged(f"{machine}:other:{namespace}:{start_}") is (False if machine else None)
    assert lives_here(Runner(host="elsewhere", pid=here.pid, mark=here.mark)) is None


def may_plan(store: Store, name: str, worker: str) -> bool:
    return store._database.transact(
        lambda found: workers.try_to_plan(found, name, worker, store._watcher)
    )


def test_one_plans_at_a_time_and_a_dead_planner_is_succeeded(store: Store, study: str) -> None:
    me = store.join(study)
    with Store.open(store.url) as other:
        theirs = other.join(study)
        with store.planning(study, me):
            assert not may_plan(other, study, theirs)
            with pytest.raises(LeaseLostError, match="does not plan"):
                other.open_leg(study, theirs, [0], start=0, end=1, pack_key="x")
        with other.planning(study, theirs):
            set_worker(store, theirs, host="elsewhere")
            store._watcher.silence_seconds = 0.3
            with store.planning(study, me):  # waits until the other is silent for long enough
                pass
            assert may_plan(store, study, me)
        assert not may_plan(other, study, theirs)  # what ended was not the planning of another


def test_state_is_running_while_somebody_works(store: Store, study: str) -> None:
    assert store.study(study).state == "created"
    me = store.join(study)
    assert store.join(study) == me
    found = store.study(study)
    assert (found.state, found.pid, found.host) == ("running", os.getpid(), this_process().host)
    with Store.open(store.url) as other:
        theirs = other.join(study)
        store.leave(study, me, "finished", 2.5)
        assert store.study(study).state == "running"
        other.leave(study, theirs, "interrupted", 1.5)
    found = store.study(study)
    assert (found.state, found.pid, found.seconds_spent) == ("interrupted", None, 4.0)
    assert [one.is_alive for one in store.workers(study)] == [False, False]
    store.leave(study, me, "finished")  # a second time
    assert store.study(study).state == "interrupted"


def test_store_that_is_closed_leaves(store: Store, study: str) -> None:
    with Store.open(store.url) as other:
        other.join(study)
        assert store.study(study).state == "running"
    assert store.study(study).state == "interrupted"


def test_study_is_not_deleted_under_a_live_worker(
    store: Store, study: str, away: str, tiny_spec: Callable[..., StudySpec]
) -> None:
    with rival(store) as other:
        other._watcher.silence_seconds = 30.0
        alive = CONTEXT.Process(target=beat_for_a_while, args=(store.url, away))
        alive.start()
        with pytest.raises(UsageError, match="on elsewhere; stop it before deleting it"):
            other.delete_study(study)
        alive.terminate()
        alive.join()
        other._watcher = Watcher(silence_seconds=0.3)
        other.delete_study(study)  # silent now
        other.create_study(tiny_spec(), source="x", settings=SETTINGS)


def beat_for_a_while(url: str, worker: str) -> None:
    with Store.open(url) as store:
        for beats in range(1, 600):
            set_worker(store, worker, beats=beats)
            time.sleep(0.1)


def test_next_leg_of_a_worker_that_left_is_refused(store: Store, study: str) -> None:
    add(store, study, 0)
    me = store.join(study)
    store.leave(study, me, "interrupted")
    with pytest.raises(LeaseLostError, match="does not work on"):
        next_leg(store, study, me)


@pytest.mark.parametrize(
    "clock",
    [
        "2999-01-01T00:00:00.000+00:00",
        "1999-01-01T00:00:00.000+00:00",
        "noon",
        "9999-12-31T23:59:59.999+00:00",
    ],
)
def test_workers_stand_in_the_order_in_which_they_came_by_any_clock(
    clock: str, store: Store, study: str
) -> None:
    came = []
    for _ in range(3):
        with Store.open(store.url) as other:
            came.append(other.join(study, {"torch": str(len(came))}))
            if len(came) == 1:
                with other._database.write() as connection:
                    connection.execute(tables.workers.update().values(started_at=clock))
    found = [worker.id for worker in store.workers(study)]
    assert sorted(found) == sorted(came)
    if clock[:4].isdigit() and clock < "9999":
        assert found == came
