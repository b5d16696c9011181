"""A user's own backbone goes on from checkpoints, in legs and in parts, as if it had not been interrupted."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dynamoe_search.records import Progress
from dynamoe_search.training import CheckpointFolder, Interrupted, StateFolder, train_leg
from tests.training.own_backbones import TRUSTED, importable, own, pack_of, stop_after, train
from tests.training.populations import (
    differing,
    digits,
    in_legs,
    train_population,
)


@pytest.fixture(autouse=True, scope="module")
def own_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The networks of a user as a file that can be imported."""
    with importable(tmp_path_factory.mktemp("own")):
        yield


OWN = ["Plain", "OwnRouterThatBranches", "TorchDropout", "DashedName"]


@pytest.mark.parametrize("name", OWN)
def test_own_networks_go_on_from_a_checkpoint(tmp_path: Path, name: str) -> None:
    pack = pack_of(name)
    whole = train(pack)
    options = {"checkpoints": CheckpointFolder(tmp_path, every_seconds=0)}
    asked: list[int] = []
    with pytest.raises(Interrupted):
        train_population(pack, digits(), TRUSTED, should_stop=stop_after(7, asked), **options)
    restored: list[Progress] = []
    again = train_population(pack, digits(), TRUSTED, on_restore=restored.extend, **options)
    assert {report.epoch for report in restored} == {1}
    for one in again:
        assert differing(one, whole[one.ordinal]) == []


@pytest.mark.parametrize("name", OWN)
def test_own_networks_are_trained_in_legs(tmp_path: Path, name: str) -> None:
    pack = pack_of(name)
    whole = train(pack)
    states = in_legs(pack, TRUSTED, StateFolder(tmp_path), [[[0, 3, 1], [4, 2]]])
    for company in ([4], [2, 0, 3], [1]):
        own = [pack[i] for i in company]
        for one in train_leg(own, digits(), TRUSTED, until=2, start=states):
            assert differing(one, whole[one.ordinal]) == []


def test_a_pack_that_is_halved_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    pack = [*pack_of("Explodes")[:2], own("Explodes", 100)]
    rates = {"learning_rate": 15.0, "clip_norm": 0.0, "epochs": 3, "warmup_fraction": 1.0}
    pack[2] = replace(pack[2], train=replace(pack[2].train, **rates))  # type: ignore[arg-type]
    folder = CheckpointFolder(tmp_path / "checkpoints", every_seconds=0)
    steps: list[int] = []
    ended = train_population(
        pack, digits(), TRUSTED, should_stop=stop_after(1000, steps), checkpoints=folder
    )
    whole = train(pack)
    assert ended[2].outcome.reason == whole[100].outcome.reason == "exception"
    for one in ended[:2]:
        assert differing(one, whole[one.ordinal]) == []
    assert len(steps) < 2 * 5 + 3 * 5 / 2  # nobody's steps were made twice, but the last
    assert sorted(path.name for path in folder.path.glob("*"))[-1] == "split.json"


def test_parts_are_found_again(tmp_path: Path) -> None:
    """Modules of two sorts make two parts; training stops in the second, and the first is not trained again."""
    pack = [own("Rate", i, dropout=(0.1, 0.3)[i % 2]) for i in range(4)]
    whole = train(pack)
    folder = CheckpointFolder(tmp_path / "checkpoints", every_seconds=3600)
    with pytest.raises(Interrupted):
        train_population(
            pack, digits(), TRUSTED, should_stop=stop_after(13, []), checkpoints=folder
        )
    folder = CheckpointFolder(tmp_path / "checkpoints", every_seconds=3600)
    steps: list[int] = []
    again = train_population(
        pack, digits(), TRUSTED, should_stop=stop_after(1000, steps), checkpoints=folder
    )
    assert len(steps) == 2 * 2 * 5 - 13
    for one in again:
        assert differing(one, whole[one.ordinal]) == []


def test_memory_that_ran_out_is_told_and_the_next_pack_begins_smaller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="dynamoe_search")
    pack = [*pack_of("OutOfMemory"), own("OutOfMemory", 5), own("OutOfMemory", 6)]
    sizes: list[int] = []
    halved = train_population(pack, digits(), TRUSTED, on_memory=sizes.append)
    assert sizes == [3]  # 7 = 3 + 4, and 4 = 2 + 2
    assert [one.outcome.pack_size for one in halved] == [3, 3, 3, 2, 2, 2, 2]
    assert {one.outcome.pack_mode for one in halved} == {"vmap"}
    assert len(caplog.records) == 2
    caplog.clear()
    chunked = train_population(pack, digits(), TRUSTED, on_memory=sizes.append, max_pack=sizes[0])
    assert [one.outcome.pack_size for one in chunked] == [2, 2, 2, 2, 3, 3, 3]
    assert caplog.records == []
    assert sizes == [3]
    for one, other in zip(halved, chunked, strict=True):
        assert differing(one, other) == []


def test_memory_that_ran_out_is_remembered_with_the_checkpoints(tmp_path: Path) -> None:
    pack = pack_of("OutOfMemory")
    folder = CheckpointFolder(tmp_path / "checkpoints", every_seconds=3600)
    with pytest.raises(Interrupted):
        train_population(pack, digits(), TRUSTED, should_stop=stop_after(2, []), checkpoints=folder)
    sizes: list[int] = []
    ended = train_population(pack, digits(), TRUSTED, checkpoints=folder, on_memory=sizes.append)
    assert sizes == [2, 3]
    assert [one.outcome.pack_size for one in ended] == [2, 2, 3, 3, 3]
