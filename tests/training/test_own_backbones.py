"""A user's own backbone: packed like ours if vmap takes it, one at a time if not, refused if it would go wrong."""

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dynamoe_search.errors import UsageError
from dynamoe_search.records import Candidate, Progress
from dynamoe_search.training import CheckpointFolder, Interrupted, StateFolder, Trained, train_leg
from dynamoe_search.training.population import Population
from tests.training.populations import (
    ADAPTIVE,
    SETTINGS,
    candidate,
    differing,
    digits,
    gradients,
    in_legs,
    train_population,
)

TRUSTED = replace(SETTINGS, trust_code=True)
SOURCE = '''
import torch
from torch import nn
import torch.nn.functional as F

from dynamoe_search.moe.layer import MoELayer
from dynamoe_search.moe.randomness import Dropout
from dynamoe_search.moe.routers.router import Router, decide
from dynamoe_search.moe.routers.selection import sigmoid
from dynamoe_search.moe.routing import Routing
from dynamoe_search.moe.candidate_axis import has_candidate_axis


class Plain(nn.Module):
    """Two maps around the layers, one of them tied, a constant buffer, and hooks for the sub-classes."""

    def __init__(self, input_shape, num_classes, config, layers):
        super().__init__()
        self.embed = nn.Linear(input_shape[1] * input_shape[2], config.d_model)
        self.first = nn.Linear(config.d_model, config.d_model)
        self.second = nn.Linear(config.d_model, config.d_model)
        self.second.weight = self.first.weight
        self.blocks = nn.ModuleList(layers)
        self.head = nn.Linear(config.d_model, num_classes)
        self.register_buffer("upstream", torch.linspace(0.5, 1.5, config.d_model))

    def forward(self, x):
        h = self.second(self.first(self.embed(x.flatten(1)))) * self.upstream
        routings = []
        for block in self.blocks:
            h, routing = block(self.between(h))
            routings.append(routing)
        return self.head(h), routings

    def between(self, h):
        return h


class Branches(Plain):
    def between(self, h):
        return h * 0.5 if h.abs().max() > 3 else h


class BranchesInEvaluation(Plain):
    def between(self, h):
        return h * 0.5 if not self.training and h.abs().max() > 3 else h


class TorchDropout(Plain):
    def __init__(self, input_shape, num_classes, config, layers):
        super().__init__(input_shape, num_classes, config, layers)
        self.drop = nn.Dropout(0.2)

    def between(self, h):
        return self.drop(h)


class SkipsALayer(Plain):
    """Uses a matrix only where a value says so, so that it may have no gradient at all."""

    def __init__(self, input_shape, num_classes, config, layers):
        super().__init__(input_shape, num_classes, config, layers)
        self.rarely = nn.Linear(config.d_model, config.d_model)
        self.is_used = nn.Parameter(torch.tensor(float(len(layers[0].is_open) > 3)))

    def between(self, h):
        return self.rarely(h) if self.is_used > 0.5 else h


class Rate(Plain):
    """Keeps a searched number outside tensors."""

    def __init__(self, input_shape, num_classes, config, layers):
        super().__init__(input_shape, num_classes, config, layers)
        self.rate = config.dropout

    def between(self, h):
        return h * (1 - self.rate)


class Normed(Plain):
    def __init__(self, input_shape, num_classes, config, layers):
        super().__init__(input_shape, num_classes, config, layers)
        self.norm = nn.BatchNorm1d(config.d_model)

    def between(self, h):
        return self.norm(h)


class WithoutLayers(nn.Module):
    def __init__(self, input_shape, num_classes, config, layers):
        super().__init__()
        self.head = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.head(x.flatten(1)), []


class ForgetsARouting(Plain):
    def forward(self, x):
        logits, routings = super().forward(x)
        return logits, routings[:1]


class Explodes(Plain):
    """Raises for values above 1e6, so for a candidate whose learning rate is absurd."""

    def between(self, h):
        if h.abs().max() > 1e6:
            raise ArithmeticError("values above a million")
        return h


class Large(Plain):
    """Has memory for three candidates at a time."""

    def between(self, h):
        if has_candidate_axis(h):
            num = torch._C._functorch.get_unwrapped(h).shape[0]
            if num > 3:
                raise torch.OutOfMemoryError(f"no room for {num}")
        return h


class OutOfMemory(Plain):
    """Asks for more memory than there is if more than three candidates are trained together."""

    def between(self, h):
        if has_candidate_axis(h) and torch._C._functorch.get_unwrapped(h).shape[0] > 3:
            bytearray(2**62)
        return h


class DashedName(Plain):
    """Has a part with a dash in its name."""

    def __init__(self, input_shape, num_classes, config, layers):
        super().__init__(input_shape, num_classes, config, layers)
        self.parts = nn.ModuleDict({"to-drop": Dropout(0.2)})

    def between(self, h):
        return self.parts["to-drop"](h)


class AlwaysTooLarge(Plain):
    def __init__(self, input_shape, num_classes, config, layers):
        super().__init__(input_shape, num_classes, config, layers)
        self.is_large = len(layers[0].is_open) == 6

    def between(self, h):
        if self.is_large and len(h) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return h


class MyRouter(Router):
    """The first expert, always; with a part of its own, and without `null_load`."""

    kind = "mine"
    expert_dims = {"rows.weight": 0}

    def __init__(self, num_experts, d_model):
        super().__init__()
        self.rows = nn.Linear(d_model, num_experts, bias=False)
        self.register_buffer("scale", torch.tensor(1.0))

    def route(self, tokens, is_open):
        logits = self.rows(tokens)
        mask = (torch.arange(is_open.shape[0]) == 0) & is_open
        probs = sigmoid(logits) * is_open
        routing = decide(gate=probs * mask, mask=mask.expand(probs.shape), probs=probs, logits=logits,
                         weight=self.rows.weight, is_open=is_open,
                         state={"scale": self.scale * 0.5} if self.training else {})
        return routing._replace(null_load=None)


class OwnRouter(Plain):
    def __init__(self, input_shape, num_classes, config, layers):
        for layer in layers:
            layer.router = MyRouter(len(layer.is_open), config.d_model)
        super().__init__(input_shape, num_classes, config, layers)


class OwnRouterThatBranches(OwnRouter):
    def between(self, h):
        return h * 0.5 if h.abs().max() > 3 else h
'''


@pytest.fixture(autouse=True, scope="module")
def own_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The module above as a file that can be imported."""
    folder = tmp_path_factory.mktemp("own")
    Path(folder, "own_networks.py").write_text(SOURCE)
    Path(folder, "own_typo.py").write_text("class Plain(:\n")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    sys.modules.pop("own_networks", None)


def own(name: str, ordinal: int, kind: str = "top-any", **settings: object) -> Candidate:
    experts = ((2, 4), (5, 3), (6, 1), (3, 3))[ordinal % 4]
    return candidate(ordinal, kind, experts, backbone=f"own_networks:{name}", **settings)  # type: ignore[arg-type]


def pack_of(name: str) -> list[Candidate]:
    return [
        own(name, 0),
        own(name, 1, "top-k"),
        own(name, 2, "percentile"),
        own(name, 3, "relu"),
        replace(own(name, 4), adaptive=ADAPTIVE),
    ]


def stop_after(steps: int, asked: list[int]) -> Callable[[], bool]:
    """Stops after so many steps, each of which it notes."""

    def should_stop() -> bool:
        asked.append(1)
        return len(asked) >= steps

    return should_stop


def train(pack: list[Candidate]) -> dict[int, Trained]:
    return {one.ordinal: one for one in train_population(pack, digits(), TRUSTED)}


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
    x, y = digits().train.x[:37], digits().train.y[:37]
    for population in (packed, looped):
        population.cohort.train(True)
    for one, other in zip(packed.gradients(x, y)[1], looped.gradients(x, y)[1], strict=True):
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
