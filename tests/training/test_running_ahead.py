"""A training step as on a CUDA device, run on the CPU: nothing waits, and the numbers are right."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dynamoe_search.moe.asynchrony import running_ahead, runs_ahead
from dynamoe_search.moe.randomness import hashed, normal, uniform
from dynamoe_search.records import Candidate
from dynamoe_search.specs.vocabulary import ROUTER_KINDS
from dynamoe_search.training.population import Population
from tests.training.host_reads import NoWaiting, assert_dtypes
from tests.training.populations import ADAPTIVE, SETTINGS, candidate, digits, mixed_pack
from tests.training.texts import language_pack, text


@pytest.fixture
def ahead() -> Iterator[None]:
    with running_ahead():
        yield


def wide(pack: list[Candidate], precision: str = "bf16") -> list[Candidate]:
    """The candidates in a width that torch multiplies in groups in bf16, too."""
    return [
        replace(
            one,
            model=replace(one.model, d_expert=16),
            train=replace(one.train, precision=precision),
        )
        for one in pack
    ]


def steps(population: Population, number: int, begin: int = 0) -> list[Tensor]:
    population.cohort.train(True)
    data = population.data.train
    batches = [(data.x[i : i + 48], data.y[i : i + 48]) for i in range(begin, begin + number)]
    return [population._train_step(x, y) for x, y in batches]


def test_only_cuda_devices_are_run_ahead_of() -> None:
    assert not runs_ahead(torch.device("cpu"))
    assert runs_ahead(torch.device("cuda:1"))
    with running_ahead():
        assert runs_ahead(torch.device("cpu"))


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ROUTER_KINDS)
def test_no_step_of_any_router_waits_for_the_device(kind: str, precision: str) -> None:
    pack = wide([candidate(i, kind, (2 + i, 4), dropout=0.1) for i in range(2)], precision)
    population = Population(pack, digits(), SETTINGS)
    steps(population, 1)  # sends what does not change
    with NoWaiting():
        steps(population, 2, 1)
    assert population.is_finite.all()


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("backend", ["grouped", "dense"])
def test_nor_does_a_step_of_all_routers_together_in_which_experts_come_and_go(
    backend: str,
) -> None:
    pack = wide(mixed_pack())
    population = Population(pack, digits(), replace(SETTINGS, expert_backend=backend))
    steps(population, 1)
    with NoWaiting():
        steps(population, 2 * ADAPTIVE.period, 1)
    adapted = [population.adaptation.events(position) for position in range(len(pack))]
    assert [len(own) for own in adapted[-2:]] == [3, 3]
    assert not any(adapted[:-2])
    assert population.is_finite.all()


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("backbone", ["vit", "gpt"])
def test_nor_does_a_step_of_a_network_with_attention(backbone: str) -> None:
    is_text = backbone == "gpt"
    pack = wide(language_pack("gpt") if is_text else mixed_pack("vit"))
    population = Population(pack, text() if is_text else digits(), SETTINGS)
    data = population.data.train
    population.cohort.train(True)
    x, y = data.x[:6], data.y[:6]
    population._train_step(x, y)
    with NoWaiting():
        population._train_step(x, y)
    assert population.is_finite.all()


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ROUTER_KINDS)
def test_every_product_is_in_its_dtype(kind: str, precision: str) -> None:
    population = Population(
        wide([candidate(0, kind), candidate(1, kind)], precision), digits(), SETTINGS
    )
    steps(population, 1)
    data = population.data.train
    with NoWaiting() as watched:
        population.gradients(data.x[:48], data.y[:48])
    low = torch.bfloat16 if precision == "bf16" else torch.float32
    assert_dtypes(watched.products, low, 8 * len(population.cohort.layers))  # 2 forwards, 6 back


@pytest.mark.parametrize("backend", ["grouped", "dense"])
def test_a_step_in_bf16_has_the_gradients_of_one_in_fp32(backend: str) -> None:
    pack = wide([candidate(i, "dense", (3, 2 + i)) for i in range(2)])
    settings, found = replace(SETTINGS, expert_backend=backend), []
    for precision in ("bf16", "fp32"):
        population = Population(wide(pack, precision), digits(), settings)
        population.cohort.train(True)
        with running_ahead():
            population.gradients(population.data.train.x[:48], population.data.train.y[:48])
        found.append(population.cohort.parameters)
    for name, exact in found[1].items():
        gradient, rounded = exact.grad, found[0][name].grad
        if gradient is not None and rounded is not None:
            assert (gradient - rounded).norm() <= 0.02 * gradient.norm() + 1e-6, name


def test_what_waits_is_found() -> None:
    x = torch.rand(5)
    for wait in (
        x.tolist,
        lambda: float(x.sum()),
        lambda: x[x > 0.5],
        x.nonzero,
        lambda: x.repeat_interleave(torch.ones(5, dtype=torch.int64)),
        lambda: torch.tensor([1.0], device="meta"),
        lambda: torch.ones(2).to("meta"),
    ):
        with pytest.raises(AssertionError, match="waits"), NoWaiting():
            wait()


def quiet(pack: list[Candidate]) -> list[Candidate]:
    """The candidates without random draws, which differ between devices."""
    return [
        replace(
            one,
            model=replace(one.model, dropout=0.0),
            router=replace(one.router, noise=0.0 if one.router.noise is not None else None),
        )
        for one in pack
        if one.router.kind != "random-k"
    ]


def test_losses_are_those_of_the_way_of_the_cpu() -> None:
    pack = [
        one for one in quiet(mixed_pack()) if getattr(one.adaptive, "new_expert", "") != "fresh"
    ]
    plain = torch.stack(steps(Population(pack, digits(), SETTINGS), 8))
    with running_ahead():
        ahead = torch.stack(steps(Population(pack, digits(), SETTINGS), 8))
    torch.testing.assert_close(ahead, plain, rtol=0, atol=2e-5)


@pytest.mark.usefixtures("ahead")
def test_draws_are_uniform_normal_and_of_their_stream() -> None:
    streams = torch.tensor([5, 6, 2**61])
    for draw in (uniform, normal):
        packed = torch.vmap(lambda own, draw=draw: draw(own, (300, 400)))(streams)
        assert torch.equal(packed[1], draw(streams[1], (300, 400)))
        assert torch.corrcoef(packed.flatten(1)).fill_diagonal_(0).abs().max() < 0.01
        neighbours = packed.flatten(1)[:, 1:], packed.flatten(1)[:, :-1]
        both = torch.stack([own.flatten() for own in neighbours])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.01
    flat = uniform(streams[0], (200_000,))
    assert 0 <= float(flat.min()) < float(flat.max()) < 1
    counts = torch.histc(flat, 100, 0, 1)
    assert float(((counts - 2000).square() / 2000).sum()) < 150  # chi squared, 99 degrees
    drawn = normal(streams[0], (200_000,))
    assert drawn.isfinite().all()
    assert abs(float(drawn.mean())) < 0.01
    assert abs(float(drawn.std()) - 1) < 0.01
    assert abs(float(drawn.pow(4).mean()) - 3) < 0.1


def test_a_hash_is_that_of_splitmix64() -> None:
    def slow(seed: int, number: int) -> int:
        z = (seed + number * 0x9E3779B97F4A7C15) % 2**64
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        z ^= z >> 31
        return z - 2**64 if z >= 2**63 else z

    seeds = [0, 1, 2**62 + 12345]
    for number in (0, 1, 77, 10**15):
        expected = [slow(seed, number) for seed in seeds]
        assert hashed(torch.tensor(seeds), number).tolist() == expected
        assert hashed(torch.tensor(seeds), torch.tensor(number)).tolist() == expected


@pytest.mark.usefixtures("ahead")
def test_seeds_of_a_step_depend_on_candidate_module_and_step_alone() -> None:
    def seeds(ordinals: list[int]) -> list[dict[tuple[str, int], int]]:
        pack = [candidate(i, "top-k" if i % 2 else "percentile", dropout=0.2) for i in ordinals]
        population = Population(pack, digits(), SETTINGS)
        found = []
        for population.step in range(3):
            population._set_streams()
            cohort = population.cohort
            found.append(
                {
                    (cohort.single_name(name), ordinals[owner % len(ordinals)]): seed
                    for name in cohort.streams
                    for owner, seed in zip(
                        cohort.owner[name].tolist(), cohort.buffers[name].tolist(), strict=True
                    )
                }
            )
        return found

    whole, part = seeds([0, 1, 2, 3]), seeds([2])
    assert len({seed for step in whole for seed in step.values()}) == 3 * len(whole[0])
    for own, other in zip(part, whole, strict=True):
        assert own.items() <= other.items()


def trained(pack: list[Candidate], limits: dict[int, int] | None, epochs: int) -> Population:
    """A population after some epochs, whose buffers had so many rows at the start of each."""
    population = Population(pack, digits(), SETTINGS)
    for _ in range(epochs):
        for layer in population.cohort.layers:
            population.cohort.layout(layer).rows = dict(limits or {})
        population.train_epoch()
    return population


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("rows", [1, 40, 300])
def test_steps_for_which_there_was_no_room_are_made_again_to_the_same_numbers(rows: int) -> None:
    pack = mixed_pack()
    plain, tight = trained(pack, None, 2), trained(pack, {0: rows}, 2)
    assert torch.equal(plain.train_loss, tight.train_loss)
    for one, other in zip(plain.states(), tight.states(), strict=True):
        assert one.tensors.keys() == other.tensors.keys()
        assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
        assert one.events == other.events
        assert (one.epoch, one.batch, one.step) == (other.epoch, other.batch, other.step)


@pytest.mark.usefixtures("ahead")
def test_a_state_in_the_middle_of_an_epoch_is_right_too() -> None:
    found = []
    for rows in ({}, {0: 30}):
        population = Population(mixed_pack(), digits(), SETTINGS)
        states = []
        for layer in population.cohort.layers:
            population.cohort.layout(layer).rows = dict(rows)

        def after_step(population: Population = population, states: list[Any] = states) -> None:
            if population.batch == 2:
                states += population.states()

        population.train_epoch(after_step)
        found.append(states)
    for one, other in zip(*found, strict=True):
        assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


@pytest.mark.usefixtures("ahead")
def test_room_is_learned_where_few_experts_are_chosen() -> None:
    pack = [candidate(i, "top-p", (6, 6), p=0.05) for i in range(3)]
    pack = [replace(one, train=replace(one.train, batch_size=190)) for one in pack]
    pack = [replace(one, train=replace(one.train, epochs=8)) for one in pack]
    population = Population(pack, digits(), SETTINGS)
    layout = population.cohort.layout(population.cohort.layers[0])
    for _ in range(3):
        population.train_epoch()
    assert layout.limits == {0: 3 * 190 * 6}
    assert 3 * 190 <= layout.rows[0] < layout.limits[0] / 2
    bounded = Population([candidate(0, "top-k", (4, 4), k=1)], digits(), SETTINGS)
    bounded.train_epoch()
    layout = bounded.cohort.layout(bounded.cohort.layers[0])
    assert layout.limits == {0: 2 * 48}
    assert not layout.rows
