"""Checkpoints of a pack in training: going on to the same bits, and what happens to damaged or foreign ones."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dynamoe_search.records import Candidate, Progress
from dynamoe_search.training import CheckpointFolder, Trained, TrainSettings, train_population
from tests.training.populations import ADAPTIVE, SETTINGS, candidate, differing, digits, mixed_pack

EPOCHS = 4
STOPPED = {1: 2, 3: 1}  # ordinal -> after which epoch


class Crash(BaseException):
    """What a killed process looks like from inside."""


def small_pack() -> list[Candidate]:
    """Three routers; one with dropout, one with experts added and removed."""
    return [
        candidate(0, "top-k", train={"epochs": EPOCHS}),
        candidate(1, "top-p", (3, 2), dropout=0.2, train={"epochs": EPOCHS}),
        candidate(2, experts=(1, 2), adaptive=ADAPTIVE, train={"epochs": EPOCHS}),
        candidate(3, experts=(2, 2), train={"epochs": EPOCHS}),
    ]


def train(
    pack: Sequence[Candidate],
    folder: CheckpointFolder | None = None,
    *,
    crash_in: int | None = None,
    settings: TrainSettings = SETTINGS,
) -> tuple[list[Trained], list[Progress], list[Progress]]:
    """Trains, stopping some on the way; returns the ends, what was reported and what was restored."""
    reports: list[Progress] = []
    restored: list[Progress] = []

    def on_progress(new: list[Progress]) -> set[int]:
        if new[0].epoch == crash_in:
            raise Crash
        reports.extend(new)
        return {one.ordinal for one in new if STOPPED.get(one.ordinal) == one.epoch}

    ends = train_population(
        pack, digits(), settings, on_progress, checkpoints=folder, on_restore=restored.extend
    )
    return ends, reports, restored


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


def test_a_lone_candidate_and_many_crashes(tmp_path: Path) -> None:
    pack = [candidate(5, adaptive=ADAPTIVE, dropout=0.1, train={"epochs": EPOCHS})]
    whole = train(pack)[0]
    for epoch in (2, 3, 4):
        crash(pack, tmp_path, epoch)
    ends, reports, _ = train(pack, checkpoints(tmp_path))
    assert same(ends, whole)
    assert [report.epoch for report in reports] == [4]


def test_a_pack_that_has_ended_is_not_trained_again(
    undisturbed: list[Trained], tmp_path: Path
) -> None:
    train(small_pack(), checkpoints(tmp_path))
    ends, reports, restored = train(small_pack()[1:3], checkpoints(tmp_path))
    assert same(ends, undisturbed[1:3])
    assert reports == []
    assert {report.ordinal for report in restored} == {1, 2}


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
    (tmp_path / "pack" / ".epoch-000003.json.x.partial").write_text("half")
    assert names(tmp_path)[1:] == [
        "end-1.safetensors",
        "end-3.safetensors",
        "epoch-000002.json",
        "epoch-000002.safetensors",
        "epoch-000003.json",
        "epoch-000003.safetensors",
    ]
    train(small_pack(), checkpoints(tmp_path))
    assert not [name for name in names(tmp_path) if name.endswith(".partial")]


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
    path = tmp_path / "pack" / f"epoch-000003.{suffix}"
    damage(path)
    with caplog.at_level(logging.WARNING):
        ends, reports, _ = train(small_pack(), checkpoints(tmp_path))
    assert same(ends, undisturbed)
    if not (damage is Path.unlink and suffix == "json"):  # as if killed before it was written
        assert "is not used" in caplog.text
    assert {report.epoch for report in reports} == {3, 4}


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
    "text", ["[]", "null", '{"format": 1}', "[" * 5000, '{"manifest": {}}', "NaN", "\x00"]
)
def test_something_else_in_the_place_of_a_manifest_is_ignored(
    undisturbed: list[Trained], tmp_path: Path, text: str
) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "epoch-000009.json").write_text(text)
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


def test_a_folder_is_for_one_pack(tmp_path: Path) -> None:
    pack = [candidate(0), candidate(1, train={"batch_size": 32})]
    with pytest.raises(ValueError, match="one pack"):
        train(pack, checkpoints(tmp_path))
