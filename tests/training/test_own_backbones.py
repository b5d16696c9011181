"""A user's own backbone: packed like ours if vmap takes it, one at a time if not, refused if it would go wrong."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dynamoe_search.errors import UsageError
from dynamoe_search.records import Progress
from dynamoe_search.training import CheckpointFolder, Interrupted
from dynamoe_search.training.failures import is_out_of_memory
from dynamoe_search.training.population import Population
from tests.training.own_backbones import TRUSTED, importable, own, pack_of, stop_after, train
from tests.training.populations import (
    SETTINGS,
    candidate,
    differing,
    digits,
    gradients,
    train_population,
)


@pytest.fixture(autouse=True, scope="module")
def own_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The networks of a user as a file that can be imported."""
    with importable(tmp_path_factory.mktemp("own")):
        yield


@pytest.mark.parametrize(
    ("name", "mode", "note"),
    [
        ("Plain", "vmap", None),
        ("OwnRouter", "vmap", None),
        ("Branches", "loop", "data-dependent control flow"),
        ("BranchesInEvaluation", "loop", "data-dependent control flow"),
        ("OwnRouterThatBranches", "loop", "data-dependent control flow"),
        ("TorchDropout", "loop", "random operation"),
        ("SkipsALayer", "loop", "data-dependent control flow"),
    ],
)
def test_own_networks_train_and_company_changes_nothing(
    name: str, mode: str, note: str | None
) -> None:
    pack = pack_of(name)
    pack = [replace(one, train=replace(one.train, weight_decay=0.1)) for one in pack]
    whole = train(pack)
    for one in whole.values():
        assert one.outcome.status == "complete", one.outcome.message
        assert one.outcome.pack_mode == mode
        assert one.outcome.pack_size == 5
        assert (one.outcome.pack_note is None) == (note is None)
        assert note is None or note in (one.outcome.pack_note or "")
    for company in ([0], [4, 1], [3, 2, 0]):
        for ordinal, one in train([pack[i] for i in company]).items():
            assert differing(one, whole[ordinal]) == [], company


def test_a_loop_computes_what_vmap_computes() -> None:
    """`Branches` does not take its branch at the start: only the way of computing differs."""
    packed, looped = (
        Population(
            [own(name, 0), own(name, 1, "top-k", noise=0.0), own(name, 2, "relu")],
            digits(),
            TRUSTED,
        )
        for name in ("Plain", "Branches")
    )
    x, y = packed.data.train.x[:37], packed.data.train.y[:37]
    for population in (packed, looped):
        population.cohort.train(True)
        population.gradients(x, y)
    for one, other in zip(packed.cohort.forward(x)[1], looped.cohort.forward(x)[1], strict=True):
        for name, value in one._asdict().items():
            torch.testing.assert_close(value, getattr(other, name), msg=name)
    assert (packed.cohort.mode, looped.cohort.mode) == ("vmap", "loop")
    for position in range(3):
        expected = gradients(looped, position)
        for name, value in gradients(packed, position).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_numbers_kept_outside_tensors_are_each_candidates_own() -> None:
    pack = [own("Rate", i, dropout=(0.1, 0.3)[i % 2]) for i in range(4)]
    whole = train(pack)
    assert {one.outcome.pack_size for one in whole.values()} == {2}
    for ordinal in (0, 1):
        (alone,) = train([pack[ordinal]]).values()
        assert differing(alone, whole[ordinal]) == []


def test_code_is_imported_only_if_it_is_trusted() -> None:
    with pytest.raises(UsageError, match="--trust-code"):
        train_population([own("Plain", 0)], digits(), SETTINGS)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("own_networks:Normed", "changes its buffer norm.running_mean .* use nn.LayerNorm"),
        ("own_networks:WithoutLayers", "holds none of the MoE layers"),
        ("own_networks:ForgetsARouting", "one routing for each of its 2 MoE layers, got 1"),
        ("own_networks:Missing", "cannot be imported"),
        ("own_nowhere:Plain", "cannot be imported"),
        ("own_typo:Plain", "cannot be imported"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_sentence(backbone: str, message: str) -> None:
    pack = [candidate(i, backbone=backbone) for i in range(2)]
    with pytest.raises(UsageError, match=message) as caught:
        train_population(pack, digits(), TRUSTED)
    assert "\n" not in str(caught.value)


def test_an_exception_of_one_candidate_is_stored_and_changes_nobody() -> None:
    pack = pack_of("Explodes")
    wild = own("Explodes", 100)
    wild = replace(wild, train=replace(wild.train, learning_rate=1e9, clip_norm=0.0))
    ended = train([*pack[:2], wild, *pack[2:]])
    outcome = ended[100].outcome
    assert (outcome.status, outcome.reason) == ("failed", "exception")
    assert "Traceback" in (outcome.message or "")
    assert "ArithmeticError: values above a million" in (outcome.message or "")
    assert ended[100].state is None
    whole = train(pack)
    for one in pack:
        assert differing(ended[one.ordinal], whole[one.ordinal]) == []


def test_a_pack_that_needs_too_much_memory_is_halved(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="dynamoe_search")
    pack = pack_of("Large")
    ended = train(pack)
    assert [ended[i].outcome.pack_size for i in range(5)] == [2, 2, 3, 3, 3]
    assert {one.outcome.pack_mode for one in ended.values()} == {"vmap"}
    assert [record.message for record in caplog.records] == [
        "a pack of 5 failed (no room for 5); halving it"
    ]
    for ordinal, one in train(pack[2:4]).items():
        assert differing(one, ended[ordinal]) == []


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes", True),
        ("CUDA error: out of memory\nCompile with", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_memory_that_ran_out_is_known_in_all_of_torchs_words(message: str, expected: bool) -> None:
    assert is_out_of_memory(RuntimeError(message)) is expected


def test_a_candidate_that_is_too_large_alone_fails_alone() -> None:
    ended = train(pack_of("AlwaysTooLarge"))  # numbers 2 and 4 have six slots in their first layer
    reasons = {ordinal: one.outcome.reason for ordinal, one in ended.items()}
    assert reasons == {0: None, 1: None, 2: "out-of-memory", 3: None, 4: "out-of-memory"}


def test_an_error_of_the_caller_is_nobodys_failure(tmp_path: Path) -> None:
    def break_down(reports: list[Progress]) -> set[int]:
        raise KeyError(f"the caller's own, with {len(reports)} reports")

    with pytest.raises(KeyError, match="the caller's own"):
        train_population(pack_of("Plain"), digits(), TRUSTED, on_progress=break_down)
    with pytest.raises(KeyError):
        train_population([candidate(0)], digits(), SETTINGS, should_stop=lambda: {}["missing"])
    with pytest.raises(KeyError):
        train_population(pack_of("OutOfMemory"), digits(), TRUSTED, on_memory=lambda n: {}[n])
    folder = CheckpointFolder(tmp_path / "checkpoints", every_seconds=0)
    train_population([candidate(0)], digits(), SETTINGS, checkpoints=folder)
    with pytest.raises(KeyError):
        train_population(
            [candidate(0)],
            digits(),
            SETTINGS,
            checkpoints=folder,
            on_restore=lambda _: {}["missing"],
        )


def test_training_stops_after_a_step_when_asked_to() -> None:
    asked: list[int] = []
    with pytest.raises(Interrupted):
        train_population(
            [candidate(0), candidate(1)], digits(), SETTINGS, should_stop=stop_after(3, asked)
        )
    assert len(asked) == 3


def test_building_and_training_leave_the_global_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(pack_of("TorchDropout")[:1])
    assert torch.equal(torch.rand(4), expected)
