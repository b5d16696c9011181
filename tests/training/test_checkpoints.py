"""Checkpoints of a pack in training: going on to the same bits, and what happens to damaged or foreign ones."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dynamoe_search.records import Candidate, Progress
from dynamoe_search.training import CheckpointFolder, Interrupted, Trained, TrainSettings, train_leg
from tests.training.populations import (
    ADAPTIVE,
    SETTINGS,
    candidate,
    differing,
    digits,
    mixed_pack,
)

EPOCHS = 4
STEPS = 5  # of an epoch


class Crash(BaseException):
    """What a killed process looks like from inside."""


def small_pack() -> list[Candidate]:
    """Three routers; one with dropout, one with experts added and removed; two end before the others."""
    return [
        candidate(0, "top-k", train={"epochs": EPOCHS}),
        candidate(1, "top-p", (3, 2), dropout=0.2, train={"epochs": 2}),
        candidate(2, experts=(1, 2), adaptive=ADAPTIVE, train={"epochs": EPOCHS}),
        candidate(3, experts=(2, 2), train={"epochs": 1}),
    ]


def train(
    pack: Sequence[Candidate],
    folder: CheckpointFolder | None = None,
    *,
    crash_in: int | None = None,
    settings: TrainSettings = SETTINGS,
    until: int = EPOCHS,
) -> tuple[list[Trained], list[Progress], list[Progress]]:
    """Trains; returns the ends, what was reported and what was restored."""
    reports: list[Progress] = []
    restored: list[Progress] = []

    def on_progress(new: list[Progress]) -> None:
        if new[0].epoch == crash_in:
            raise Crash
        reports.extend(new)

    ends = train_leg(
        pack,
        digits(),
        settings,
        until=until,
        on_progress=on_progress,
        checkpoints=folder,
        on_restore=restored.extend,
    )
    return ends, reports, restored


def interrupt(pack: Sequence[Candidate], folder: CheckpointFolder, steps: int) -> None:
    """Trains and is asked to stop after so many steps."""
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(1)
        return len(asked) == steps

    with pytest.raises(Interrupted):
        train_leg(
            pack, digits(), SETTINGS, until=EPOCHS, should_stop=should_stop, checkpoints=folder
        )


def checkpoints(path: Path) -> CheckpointFolder:
    return CheckpointFolder(path / "pack", every_seconds=0)


def crash(pack: Sequence[Candidate], path: Path, epoch: int) -> None:
    """Trains a pack until an epoch is over but not yet in a checkpoint."""
    with pytest.raises(Crash):
        train(pack, checkpoints(path), crash_in=epoch)


def names(path: Path) -> list[str]:
    return sorted(one.name for one in (path / "pack").iterdir())


def same(pack: Sequence[Trained], other: Sequence[Trained]) -> bool:
    return not any(differing(*both) for both in zip(pack, other, strict=True))


@pytest.fixture(scope="module")
def undisturbed() -> list[Trained]:
    return train(small_pack())[0]


@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
def test_training_goes_on_to_the_same_bits(
    undisturbed: list[Trained], tmp_path: Path, epoch: int
) -> None:
    crash(small_pack(), tmp_path, epoch)
    ends, reports, restored = train(small_pack(), checkpoints(tmp_path))
    assert same(ends, undisturbed)
    assert {report.epoch for report in reports} == set(range(epoch, EPOCHS + 1))
    assert {report.epoch for report in restored} == set(range(1, epoch))
    assert [end.outcome.pack_size for end in ends] == [4] * 4


def test_every_kind_of_router_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    pack = mixed_pack()
    whole = train(pack)[0]
    crash(pack, tmp_path, 2)
    ends, reports, _ = train(pack, checkpoints(tmp_path))
    assert same(ends, whole)
    assert {report.epoch for report in reports} == {2}


@pytest.mark.parametrize("steps", [1, 3, 5, 6, 19, 20])
def test_a_stopped_pack_goes_on_amid_an_epoch(
    undisturbed: list[Trained], tmp_path: Path, steps: int
) -> None:
    folder = CheckpointFolder(tmp_path / "pack", every_seconds=3600)
    interrupt(small_pack(), folder, steps)
    epoch, step = divmod(steps - 1, STEPS)
    assert f"epoch-{epoch:06d}-step-{step + 1:06d}.json" in names(tmp_path)
    ends, reports, _ = train(small_pack(), checkpoints(tmp_path))
    assert same(ends, undisturbed)
    assert {report.epoch for report in reports} == set(range(epoch + 1, EPOCHS + 1))


def test_a_lone_adaptive_candidate_with_augmentation_is_stopped_again_and_again(
    tmp_path: Path,
) -> None:
    options = {"epochs": EPOCHS, "augment": True}
    pack = [candidate(5, adaptive=ADAPTIVE, dropout=0.1, train=options)]
    whole = train(pack)[0]
    for _ in range(3):
        interrupt(pack, CheckpointFolder(tmp_path / "pack", every_seconds=3600), 4)
    crash(pack, tmp_path, 4)
    ends, reports, _ = train(pack, checkpoints(tmp_path))
    assert same(ends, whole)
    assert [report.epoch for report in reports] == [4]
    assert [report.epoch for report in ends[0].reports] == [1, 2, 3, 4]


def test_time_adds_up_over_interruptions(tmp_path: Path) -> None:
    pack = small_pack()[:1]
    interrupt(pack, checkpoints(tmp_path), 3)
    ends, _, _ = train(pack, checkpoints(tmp_path))
    assert ends[0].outcome is not None
    seconds = [report.seconds for report in ends[0].reports]
    assert ends[0].outcome.seconds == pytest.approx(sum(seconds))
    assert len(seconds) == EPOCHS


def test_a_pack_that_has_ended_is_not_trained_again(
    undisturbed: list[Trained], tmp_path: Path
) -> None:
    train(small_pack(), checkpoints(tmp_path))
    ends, reports, restored = train(small_pack()[1:3], checkpoints(tmp_path))
    assert same(ends, undisturbed[1:3])
    assert reports == []
    assert {report.ordinal for report in restored} == {1, 2}


def test_a_leg_that_is_over_stands_where_it_stood(tmp_path: Path) -> None:
    pack = [small_pack()[0], small_pack()[2]]
    first = train(pack, checkpoints(tmp_path), until=2)[0]
    again, reports, _ = train(pack, checkpoints(tmp_path), until=2)
    assert reports == []
    for one, other in zip(first, again, strict=True):
        assert one.standing is not None
        assert other.standing is not None
        assert (one.standing.epoch, other.standing.seconds) == (2, one.standing.seconds)
        assert one.standing.tensors.keys() == other.standing.tensors.keys()
        for name, tensor in one.standing.tensors.items():
            assert torch.equal(tensor, other.standing.tensors[name])


def test_those_who_are_left_go_on_without_the_others(
    undisturbed: list[Trained], tmp_path: Path
) -> None:
    crash(small_pack(), tmp_path, 3)
    rest = [small_pack()[1], small_pack()[2]]
    with pytest.raises(Crash):
        train(rest, checkpoints(tmp_path), crash_in=4)
    ends, reports, _ = train(rest, checkpoints(tmp_path))
    assert same(ends, undisturbed[1:3])
    assert {(report.ordinal, report.epoch) for report in reports} == {(2, 4)}


def test_a_candidate_that_failed_stays_failed(tmp_path: Path) -> None:
    wild = candidate(7, train={"epochs": 3, "learning_rate": 1e30})
    pack = [wild, candidate(8, train={"epochs": 3})]
    whole = train(pack)[0]
    assert whole[0].outcome.status == "failed"
    crash(pack, tmp_path, 3)
    ends, _, _ = train(pack, checkpoints(tmp_path))
    assert replace(ends[0].outcome, seconds=0.0) == replace(whole[0].outcome, seconds=0.0)
    assert ends[0].state is None
    assert same(ends[1:], whole[1:])


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    crash(small_pack(), tmp_path, 4)
    (tmp_path / "pack" / ".epoch-000003-step-000000.json.x.partial").write_text("half")
    assert names(tmp_path)[1:] == [
        "end-1.safetensors",
        "end-3.safetensors",
        "epoch-000003-step-000004.json",
        "epoch-000003-step-000004.safetensors",
        "epoch-000003-step-000005.json",
        "epoch-000003-step-000005.safetensors",
    ]
    train(small_pack(), checkpoints(tmp_path))
    assert not [name for name in names(tmp_path) if name.endswith(".partial")]


def test_a_manifest_knows_the_reports_of_its_own_leg_only(tmp_path: Path) -> None:
    pack = [small_pack()[0], small_pack()[2]]
    first = train(pack, until=2)[0]
    states = {one.ordinal: one.standing for one in first}
    train_leg(pack, digits(), SETTINGS, until=3, start=states, checkpoints=checkpoints(tmp_path))
    (last,) = sorted((tmp_path / "pack").glob("epoch-000003-*.json"))
    content = json.loads(last.read_text())["content"]
    assert [(one["ordinal"], one["epoch"]) for one in content["reports"]] == [(0, 3), (2, 3)]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_cut, _flip, _empty, Path.unlink])
@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_of_a_damaged_checkpoint_the_one_before_is_used(
    undisturbed: list[Trained],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    suffix: str,
) -> None:
    crash(small_pack(), tmp_path, 4)
    path = tmp_path / "pack" / f"epoch-000003-step-000005.{suffix}"
    damage(path)
    with caplog.at_level(logging.WARNING):
        ends, reports, _ = train(small_pack(), checkpoints(tmp_path))
    assert same(ends, undisturbed)
    if not (damage is Path.unlink and suffix == "json"):  # as if killed before it was written
        assert "is not used" in caplog.text
    assert {report.epoch for report in reports} == {4}


def test_without_a_whole_checkpoint_training_starts_again(
    undisturbed: list[Trained], tmp_path: Path
) -> None:
    crash(small_pack(), tmp_path, 4)
    for path in (tmp_path / "pack").glob("epoch-*.safetensors"):
        _flip(path)
    ends, reports, _ = train(small_pack(), checkpoints(tmp_path))
    assert same(ends, undisturbed)
    assert len({report.epoch for report in reports}) == EPOCHS


def test_damaged_weights_of_an_end_make_both_checkpoints_useless(
    undisturbed: list[Trained], tmp_path: Path
) -> None:
    crash(small_pack(), tmp_path, 4)
    _flip(tmp_path / "pack" / "end-3.safetensors")
    ends, reports, _ = train(small_pack(), checkpoints(tmp_path))
    assert same(ends, undisturbed)
    assert len({report.epoch for report in reports}) == EPOCHS


@pytest.mark.parametrize(
    "text", ["[]", "null", '{"format": 2}', "[" * 5000, '{"content": {}}', "NaN", "\x00"]
)
def test_something_else_in_the_place_of_a_manifest_is_ignored(
    undisturbed: list[Trained], tmp_path: Path, text: str
) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "epoch-000009-step-000000.json").write_text(text)
    with pytest.raises(Crash):
        train(small_pack(), checkpoints(tmp_path), crash_in=3)
    ends, reports, _ = train(small_pack(), checkpoints(tmp_path))
    assert same(ends, undisturbed)
    assert {report.epoch for report in reports} == {3, 4}


def test_checkpoints_of_others_are_ignored(tmp_path: Path) -> None:
    crash(small_pack(), tmp_path, 3)
    others = [replace(one, train=replace(one.train, learning_rate=1e-4)) for one in small_pack()]
    assert train(others, checkpoints(tmp_path))[2] == []
    crash(small_pack(), tmp_path, 3)
    wider = replace(SETTINGS, num_slots=SETTINGS.num_slots + 1)
    assert train(small_pack(), checkpoints(tmp_path), settings=wider)[2] == []


def test_without_room_training_goes_on(
    undisturbed: list[Trained], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "pack").write_text("a file where the folder should be")
    ends, _, _ = train(small_pack(), checkpoints(tmp_path))
    assert same(ends, undisturbed)
    assert "no checkpoint could be written" in caplog.text


def test_time_decides_when_a_checkpoint_is_written(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        train(small_pack(), CheckpointFolder(tmp_path / "pack", every_seconds=3600), crash_in=3)
    assert not (tmp_path / "pack").exists()


def test_checkpoints_of_another_leg_are_ignored(tmp_path: Path) -> None:
    pack = [small_pack()[0]]
    crash(pack, tmp_path, 4)
    assert train(pack, checkpoints(tmp_path), until=2)[2] == []
    (first,) = train(pack, until=1)[0]
    assert first.standing is not None
    crash(pack, tmp_path, 4)
    restored: list[Progress] = []
    train_leg(
        pack,
        digits(),
        SETTINGS,
        until=4,
        start={0: first.standing},
        checkpoints=checkpoints(tmp_path),
        on_restore=restored.extend,
    )
    assert restored == []


def test_a_split_that_cannot_be_read_is_made_again(
    undisturbed: list[Trained],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def parts() -> list[Trained]:
        return train_leg(
            small_pack(),
            digits(),
            SETTINGS,
            until=EPOCHS,
            checkpoints=checkpoints(tmp_path),
            max_pack=2,
        )

    parts()
    _flip(tmp_path / "pack" / "split.json")
    with caplog.at_level(logging.WARNING):
        assert same(parts(), undisturbed)
    assert "split.json is not used" in caplog.text
    assert names(tmp_path) == ["part-000", "part-001", "split.json"]


def test_a_stop_at_the_very_end_leaves_a_checkpoint_of_the_end(
    undisturbed: list[Trained], tmp_path: Path
) -> None:
    """Whoever trained may be unable to store the results; then nothing is trained again for them."""
    folder = CheckpointFolder(tmp_path / "pack", every_seconds=3600)
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(1)
        return len(asked) > EPOCHS * STEPS

    ends = train_leg(
        small_pack(), digits(), SETTINGS, until=EPOCHS, should_stop=should_stop, checkpoints=folder
    )
    assert same(ends, undisturbed)
    again, reports, restored = train(small_pack(), checkpoints(tmp_path))
    assert same(again, undisturbed)
    assert reports == []
    assert {report.epoch for report in restored} == set(range(1, EPOCHS + 1))
