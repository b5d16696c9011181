"""Draws inside models: each candidate's own, new in every step, the same in any company."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, vmap

from dynamoe_search.moe.randomness import Dropout, new_stream, normal, uniform
from dynamoe_search.training.population import Population
from tests.training.populations import SETTINGS, candidate, digits


def test_draws_are_those_of_the_stream() -> None:
    for draw in (uniform, normal):
        one, same, other = (draw(torch.tensor(seed), (1000,)) for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        packed = vmap(lambda stream, draw=draw: draw(stream, (1000,)))(torch.tensor([2, 1]))
        assert torch.equal(packed, torch.stack([other, one]))
    assert uniform(new_stream(), (10_000,)).min() >= 0
    assert uniform(new_stream(), (10_000,)).max() < 1
    assert abs(normal(new_stream(), (10_000,)).std() - 1) < 0.05


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.6])
def test_dropout_drops_its_rate_and_keeps_the_mean(rate: float) -> None:
    dropout = Dropout(rate)
    x = torch.ones(200, 100)
    y = dropout(x)
    dropped = float((y == 0).float().mean())
    assert dropped == pytest.approx(rate, abs=0.02)
    assert float(y.mean()) == pytest.approx(1, abs=0.02)
    assert set(y.unique().tolist()) <= {0.0, float(torch.tensor(1) / (1 - torch.tensor(rate)))}
    dropout.eval()
    assert torch.equal(dropout(x), x)


def test_a_pack_drops_as_each_candidate_alone() -> None:
    rates, streams = torch.tensor([0.0, 0.3, 0.3]), torch.tensor([4, 5, 6])
    x = torch.randn(3, 50, 8)
    dropout = Dropout(0.5)
    packed = vmap(
        lambda rate, stream, x: functional_call(dropout, {"rate": rate, "stream": stream}, (x,))
    )(rates, streams, x)
    for position in range(3):
        alone = Dropout(float(rates[position]))
        alone.stream = streams[position]
        assert torch.equal(packed[position], alone(x[position]))
    assert not torch.equal(packed[1] == 0, packed[2] == 0)


def streams_of(pack: list[int], steps: int = 3) -> list[dict[str, dict[int, int]]]:
    """For every step the seeds of every module of every candidate, by the plain module's names."""
    candidates = [candidate(i, "top-k" if i % 2 else "percentile", dropout=0.2) for i in pack]
    population = Population(candidates, digits(), SETTINGS)
    seen = []
    for _ in range(steps):
        population._set_streams()
        now: dict[str, dict[int, int]] = {}
        for name in population.cohort.streams:
            owners = population.cohort.owner[name].tolist()
            for position, seed in zip(
                owners, population.cohort.buffers[name].tolist(), strict=True
            ):
                plain = name.replace(".g0_", ".").replace(".g1_", ".")
                now.setdefault(plain, {})[pack[position % len(pack)]] = seed
        seen.append(now)
        population.step += 1
    return seen


def test_every_step_module_and_candidate_has_a_seed_of_its_own_in_any_company() -> None:
    whole = streams_of([0, 1, 2, 3])
    seeds = [seed for step in whole for own in step.values() for seed in own.values()]
    assert len(seeds) == len(set(seeds)) == 3 * 4 * 4  # steps, candidates, two layers of two
    for company in ([2], [3, 0], [1, 2, 3]):
        for now, step in zip(streams_of(company), whole, strict=True):
            for name, own in now.items():
                assert own == {i: step[name][i] for i in company}


def test_in_evaluation_a_pack_draws_what_a_loaded_module_draws() -> None:
    population = Population(
        [candidate(0, "random-k"), candidate(1, "random-k")], digits(), SETTINGS
    )
    population.train_epoch()
    split = population.data.validation
    for position, evaluation in enumerate(population.evaluate()):
        with torch.no_grad():
            _, routings = population.plain_model(position)(split.x)
        for layer, routing in zip(evaluation.routing, routings, strict=True):
            assert layer.k_histogram[: routing.mask.shape[1] + 1] == tuple(
                int((routing.mask.sum(1) == k).sum()) for k in range(routing.mask.shape[1] + 1)
            )


def dtypes(population: Population) -> dict[str, set[torch.dtype]]:
    population.cohort.train(True)
    with population._autocast():
        _, routings = population.cohort.forward(digits().train.x[:40])
    found: dict[str, set[torch.dtype]] = {}
    for routing in routings:
        for name, value in routing._asdict().items():
            tensors = value.values() if isinstance(value, dict) else [value]
            found.setdefault(name, set()).update(tensor.dtype for tensor in tensors)
    return found


@pytest.mark.parametrize("backbone", ["mlp", "vit"])
@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_bf16_keeps_routers_in_fp32_and_learns_alike(backbone: str, mode: str) -> None:
    kinds = ("top-any", "top-k", "percentile", "relu", "null-experts", "dense")
    losses: dict[str, Tensor] = {}
    for precision in ("fp32", "bf16"):
        population = Population(
            [
                candidate(i, kind, (3, 2), backbone=backbone, train={"precision": precision})
                for i, kind in enumerate(kinds)
            ],
            digits(),
            SETTINGS,
        )
        population.cohort.mode = mode  # type: ignore[assignment]
        fields = dtypes(population)
        assert {name: kinds for name, kinds in fields.items() if kinds != {torch.float32}} == {
            "mask": {torch.bool},
            "is_open": {torch.bool},
        }
        for parameter in population.cohort.parameters.values():
            assert parameter.grad is None or parameter.grad.dtype == torch.float32
            parameter.grad = None
        for _ in range(2):
            population.train_epoch()
        losses[precision] = population.train_loss
        assert all(evaluation.loss < 2.4 for evaluation in population.evaluate())
    difference = (losses["fp32"] - losses["bf16"]).abs()
    assert 0 < difference.max() < 0.1


def test_width_that_bf16_cannot_group_trains_all_the_same() -> None:
    """A multiple of 4 is enough for fp32 only; in bf16 all experts are computed then."""
    one = candidate(0, "top-k", train={"precision": "bf16", "epochs": 1})
    one = replace(one, model=replace(one.model, d_model=20, d_expert=12))
    population = Population([one], digits(), SETTINGS)
    population.train_epoch()
    assert bool(population.is_finite.all())
