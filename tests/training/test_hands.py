"""Parts of a pack that several processes train side by side: the same numbers, whatever happens to a process."""

import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamoe_search.errors import CandidateError
from dynamoe_search.moe.asynchrony import running_ahead
from dynamoe_search.places import PlaceError
from dynamoe_search.records import Candidate, Progress
from dynamoe_search.training import (
    CandidateState,
    CheckpointFolder,
    DamagedError,
    Interrupted,
    Trained,
    hands,
    train_leg,
)
from dynamoe_search.training.hand import DroppedError, Line, packed, unpacked
from dynamoe_search.training.hands import HandLostError
from dynamoe_search.training.parts import divided, is_small, most_parts, number_of_parts
from dynamoe_search.training.trial_runs import TrialRun
from tests.training.populations import (
    ADAPTIVE,
    SETTINGS,
    candidate,
    differing,
    digits,
    mixed_pack,
)

TWO = replace(SETTINGS, num_threads=2)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def nobody_left() -> Iterator[None]:
    yield
    hands._pool.close()


def trained(pack: list[Candidate], num_parts: int, **options: Any) -> list[Trained]:
    until = max(one.train.epochs for one in pack)
    return train_leg(pack, digits(), TWO, until=until, num_parts=num_parts, **options)


def assert_equal(some: list[Trained], others: list[Trained]) -> None:
    for one, other in zip(some, others, strict=True):
        assert differing(one, other) == []
        assert timeless(one) == timeless(other)[-len(one.reports) :]


def timeless(one: Trained) -> list[Progress]:
    return [replace(report, seconds=0.0) for report in one.reports]


def pids() -> list[int]:
    return [hand._process.pid for hand in hands._pool.hands]


@pytest.mark.parametrize("backbone", ["mlp", "vit"])
def test_parts_come_to_the_bits_of_the_whole(
    backbone: str, caplog: pytest.LogCaptureFixture
) -> None:
    pack = mixed_pack(backbone)
    assert_equal(trained(pack, 2), trained(pack, 1))
    assert not caplog.text  # nobody was left to this process


def test_three_processes_candidates_who_leave_early_and_experts_that_come_and_go() -> None:
    adaptive = [candidate(n, experts=(3, 2), adaptive=ADAPTIVE, threshold=0.1) for n in range(3)]
    short = [candidate(n, "top-k", k=1 + n % 3, train={"epochs": 1}) for n in range(3, 7)]
    pack = [short[0], *adaptive, *short[1:], candidate(7, "relu")]
    settings = replace(SETTINGS, num_threads=3)
    several = train_leg(pack, digits(), settings, until=2, num_parts=3)
    assert len(pids()) >= 2
    assert_equal(several, trained(pack, 1))


def test_they_go_on_from_states_and_come_to_a_stand(caplog: pytest.LogCaptureFixture) -> None:
    pack = mixed_pack()[:6]
    first = train_leg(pack, digits(), TWO, until=1, num_parts=2)
    states = {one.ordinal: one.standing for one in first if one.standing is not None}
    assert len(states) == 6
    assert_equal(trained(pack, 2, start=states), trained(pack, 1))
    assert not caplog.text


def stop_after(number: int) -> Callable[[], bool]:
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(0)
        return len(asked) > number

    return should_stop


@pytest.mark.parametrize("steps", [0, 3, 6])
@pytest.mark.parametrize("later", [1, 2])
def test_a_stop_is_a_pause(steps: int, later: int, tmp_path: Path) -> None:
    pack = mixed_pack()[:5]
    folder = CheckpointFolder(tmp_path / "leg")
    with pytest.raises(Interrupted):
        trained(pack, 2, should_stop=stop_after(steps), checkpoints=folder)
    assert len(list((tmp_path / "leg").glob("part-*/epoch-*.json"))) == 2
    again = CheckpointFolder(tmp_path / "leg")
    assert_equal(trained(pack, later, checkpoints=again), trained(pack, 1))


def test_who_has_ended_before_the_stop_has_a_checkpoint_too(tmp_path: Path) -> None:
    quick = [candidate(n, "top-k", k=1, train={"epochs": 1}) for n in range(2)]
    slow = [candidate(n, "top-p", train={"epochs": 40}) for n in range(2, 4)]
    folder = CheckpointFolder(tmp_path)
    reports: list[Progress] = []

    def should_stop() -> bool:
        return max((one.epoch for one in reports), default=0) >= 12

    with pytest.raises(Interrupted):
        trained(
            [*quick, *slow],
            2,
            should_stop=should_stop,
            on_progress=reports.extend,
            checkpoints=folder,
        )
    known: list[Progress] = []
    trained([*quick, *slow], 2, checkpoints=CheckpointFolder(tmp_path), on_restore=known.extend)
    last = {one.ordinal: one.epoch for one in known}
    assert last[0] == last[1] == 1
    assert last[2] == last[3] >= 11


def test_a_killed_process_costs_nothing_but_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pack = mixed_pack()[:5]
    expected = trained(pack, 1)

    def kill_once(_: list[Progress]) -> None:
        if not killed:
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    for folder in (None, CheckpointFolder(tmp_path, every_seconds=0)):
        killed: list[int] = []
        trained(pack, 2)
        (pid, *_) = pids()
        with caplog.at_level(logging.WARNING):
            ends = trained(pack, 2, on_progress=kill_once, checkpoints=folder)
        assert killed
        assert_equal(ends, expected)
    assert "trained a part of the pack is gone" in caplog.text
    hands._pool.losses = 0
    trained(pack, 2)
    assert killed[0] not in pids()


def test_what_is_wrong_in_another_process_is_told() -> None:
    pack = mixed_pack()[:4]
    first = train_leg(pack, digits(), TWO, until=1, num_parts=1)
    states = {one.ordinal: one.standing for one in first if one.standing is not None}
    theirs = divided(pack, 2)[1][0].ordinal
    own = dict(states[theirs].tensors)
    own.popitem()
    states[theirs] = replace(states[theirs], tensors=own)
    with pytest.raises(DamagedError) as error:
        trained(pack, 2, start=states)
    assert error.value.ordinal == theirs
    assert_equal(trained(pack, 2), trained(pack, 1))  # nobody is still at it


def test_a_candidate_that_fails_fails_alone() -> None:
    bad = candidate(3, train={"learning_rate": 1e30})
    pack = [*(candidate(n) for n in range(3)), bad]
    ends = trained(pack, 2)
    assert [one.outcome.status for one in ends if one.outcome is not None] == [
        *("complete",) * 3,
        "failed",
    ]
    assert_equal(ends[:3], trained(pack, 1)[:3])


def test_an_error_of_the_caller_ends_all_parts() -> None:
    def lost(_: list[Progress]) -> None:
        raise LookupError("the database is gone")

    with pytest.raises(LookupError, match="database"):
        trained(mixed_pack(), 2, on_progress=lost)
    assert not any(hand.is_busy for hand in hands._pool.hands)


def say_something(line: Line, words: str) -> str:
    logging.getLogger("dynamoe_search.elsewhere").warning("%s", words)
    line.tell("heard", words)
    return words


def raise_something(_: Line) -> None:
    class OwnError(Exception):
        pass

    raise OwnError("cannot be pickled")


def test_what_another_process_says_is_heard_here(caplog: pytest.LogCaptureFixture) -> None:
    (hand,) = hands.hands(1)
    heard: list[tuple[str, object]] = []
    hand.begin(say_something, "hello")
    while not hand.has_ended:
        hands.wait_for([hand], 1.0)
        hand.listen(lambda *said: heard.append(said))
    assert hand.release() == "hello"
    assert heard == [("heard", "hello")]
    assert "hello" in caplog.text
    hand.begin(raise_something)
    hand.line.poll(20)
    with pytest.raises(RuntimeError, match="cannot be pickled"):
        hand.listen(hands.ignore)


def test_nobody_outlives_the_process_that_runs_a_study(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, sys, time
        from dynamoe_search.training import hands
        (hand,) = hands.hands(1)
        while not hands.are_ready(1):
            time.sleep(0.05)
        print(hand._process.pid, hand._folder, flush=True)
        time.sleep(60)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        pid, folder = process.stdout.readline().split()
        process.kill()
    end = time.monotonic() + 20
    while is_running(int(pid)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(int(pid))
    assert not Path(folder).exists()


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_where_no_process_can_be_started_this_one_trains_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pack = mixed_pack()[:4]
    expected = trained(pack, 1)
    hands._pool.close()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert_equal(trained(pack, 2), expected)
    assert hands.hands(1) == []
    hands._pool.losses = 0


def test_a_process_that_cannot_import_the_program_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pack = mixed_pack()[:4]
    expected = trained(pack, 1)
    hands._pool.close()
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(hands, "_START", "raise SystemExit(3)")
    assert_equal(trained(pack, 2), expected)
    assert "exit code 3" in caplog.text
    hands._pool.losses = 0


@given(st.lists(st.integers(1, 6), min_size=1, max_size=20), st.integers(2, 5))
def test_work_is_divided_evenly(experts: list[int], number: int) -> None:
    pack = [
        candidate(n, ("top-k", "top-p")[n % 2], (most, most), **({"k": 2} if n % 2 == 0 else {}))
        for n, most in enumerate(experts)
    ]
    parts = divided(pack, number)
    assert sorted(one.ordinal for part in parts for one in part) == list(range(len(pack)))
    assert 1 <= len(parts) <= number
    work = [
        sum(2 * (1 + min(one.router.k or 6, one.slots_per_layer[0])) for one in part)
        for part in parts
    ]
    assert max(work) <= sum(work) / number + 14  # of the heaviest candidate


def test_only_what_gains_is_divided() -> None:
    pack = mixed_pack()
    assert most_parts(pack, digits(), TWO) == 2
    assert most_parts(pack, digits(), replace(SETTINGS, num_threads=16)) == 7
    assert most_parts(pack[:2], digits(), TWO) == 1
    assert most_parts(pack, digits(), replace(TWO, num_threads=1)) == 1
    assert most_parts(pack, digits(), replace(TWO, measure=frozenset({"latency_ms"}))) == 1
    assert most_parts(pack, digits(), replace(TWO, device="cuda")) == 1
    assert number_of_parts(pack, digits(), TWO, 2, are_started=False) == 1
    assert number_of_parts(pack, digits(), TWO, 2000, are_started=False) == 2
    assert number_of_parts(pack, digits(), TWO, 100, are_started=True) == 2


def test_large_networks_and_other_devices_are_left_to_threads() -> None:
    small = candidate(0)
    large = replace(small, model=replace(small.model, d_model=4096, d_expert=4096))
    assert is_small(small, (1, 8, 8), CPU)
    assert not is_small(large, (1, 8, 8), CPU)
    assert not is_small(small, (1, 8, 8), torch.device("cuda"))
    own = replace(small, model=replace(small.model, backbone="my.module:Net"))
    assert not is_small(own, (1, 8, 8), CPU)
    with running_ahead():
        assert not is_small(small, (1, 8, 8), CPU)


def test_a_trial_run_goes_on_in_all_parts() -> None:
    pack = mixed_pack()[:6]
    run = TrialRun(pack, digits(), TWO)
    run.train_epoch()
    run.train_epoch()
    assert run.num_parts == 2
    assert run.population.epoch == 2


@pytest.mark.parametrize(
    "error",
    [
        DamagedError("torn", ordinal=3),
        PlaceError("s3://a is away", "timeout", may_pass=True),
        CandidateError("nan", "no number"),
        Interrupted("stopped"),
    ],
)
def test_errors_come_over_as_they_are(error: Exception) -> None:
    other = unpacked(pickle.loads(pickle.dumps(packed(error))))
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert {**vars(other), "__notes__": None} == {**vars(error), "__notes__": None}


def test_a_result_that_cannot_be_handed_on_costs_only_time() -> None:
    pack = mixed_pack()[:4]
    expected = trained(pack, 1)
    (hand,) = hands.hands(1)
    hand.begin(remove_folder, hand._folder)
    hand.line.poll(20)
    with pytest.raises(HandLostError):
        hand.listen(hands.ignore)
    assert_equal(trained(pack, 2), expected)


def remove_folder(_: Line, folder: str) -> str:
    shutil.rmtree(folder)
    return "done"


def test_what_lies_in_the_present_folder_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "socket.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    hands._pool.close()
    monkeypatch.chdir(tmp_path)
    (hand,) = hands.hands(1)
    hand.begin(say_something, "hello")
    while not hand.has_ended:
        hands.wait_for([hand], 1.0)
        hand.listen(hands.ignore)
    assert hand.release() == "hello"
    assert not (tmp_path / "ran").exists()


def test_a_hand_waits_for_a_process_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, its = Pipe()
    line = Line(its)
    monkeypatch.setattr("dynamoe_search.training.hand.SILENT_SECONDS", 0.05)
    assert line.should_stop() is False
    time.sleep(0.1)
    Timer(0.3, ours.send, ["beat"]).start()
    begin = time.monotonic()
    assert line.should_stop() is False
    assert time.monotonic() - begin > 0.1
    ours.close()
    with pytest.raises(DroppedError):
        line.should_stop()


def test_a_trial_run_that_fails_leaves_nobody_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = mixed_pack()[:6]
    run = TrialRun(pack, digits(), TWO)

    def no_memory() -> None:
        raise MemoryError

    monkeypatch.setattr(run.population, "train_epoch", no_memory)
    with pytest.raises(MemoryError):
        run.train_epoch()
    assert not any(hand.is_busy for hand in hands._pool.hands)
    assert_equal(trained(pack, 2), trained(pack, 1))


def test_a_checkpoint_within_an_epoch_is_used_whoever_set_the_threads(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    pack = mixed_pack()[:2]
    folder = CheckpointFolder(tmp_path)
    with pytest.raises(Interrupted):
        train_leg(pack, digits(), SETTINGS, until=2, should_stop=stop_after(7), checkpoints=folder)
    known: list[Progress] = []
    again = CheckpointFolder(tmp_path)
    train_leg(pack, digits(), SETTINGS, until=2, checkpoints=again, on_restore=known.extend)
    assert {one.epoch for one in known} == {1}


def test_an_order_that_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (hand,) = hands.hands(1)
    monkeypatch.setattr(hand, "_folder", "/nowhere")
    with pytest.raises(HandLostError):
        hand.begin(say_something, "hello")
    assert not hand.is_busy


def test_states_of_another_company_are_read() -> None:
    pack = mixed_pack()[:5]
    first = train_leg(pack, digits(), TWO, until=1, num_parts=2)
    states: dict[int, CandidateState] = {
        one.ordinal: one.standing for one in first if one.standing is not None
    }
    ends = [
        one
        for group in (pack[:1], pack[1:])
        for one in train_leg(group, digits(), TWO, until=2, start=states, num_parts=1)
    ]
    for one, other in zip(ends, trained(pack, 2), strict=True):
        assert differing(one, other) == []
