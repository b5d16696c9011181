"""The curves on which pruners are compared: their file, and the averages that are recorded beside them."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.pruning.curves import WEIGHTS, Curves, join, load, save
from benchmarks.pruning.measures import beaten_share, front, rank_agreement
from benchmarks.pruning.record import Averages, packs_of, proposals_of, study_of
from dynamoe_search.data import load_data
from dynamoe_search.search.space import Space
from dynamoe_search.training import TrainSettings
from dynamoe_search.training.population import Population


def curves_of(num: int, seed: int = 0, epochs: int = 3) -> Curves:
    generator = np.random.default_rng(seed)
    measured = {
        name: generator.random((len(WEIGHTS), num, epochs), dtype=np.float32)
        for name in ("error", "loss", "activated", "test_error")
    }
    return Curves(
        meta={"data": "digits", "num_classes": 10},
        ordinal=np.arange(num),
        seed=np.full(num, seed),
        params=tuple(
            {"train.learning_rate": 0.1 * row, "router.kind": "top-k"} for row in range(num)
        ),
        router=np.array(["top-k"] * num),
        shape=np.array(["uniform"] * num),
        reference=np.array([""] * num),
        experts=np.full((num, 2), 4),
        total_params=np.arange(num),
        seconds=generator.random((num, epochs), dtype=np.float32),
        train_loss=generator.random((num, epochs), dtype=np.float32),
        mean_k=generator.random((len(WEIGHTS), num, epochs, 2), dtype=np.float32),
        **measured,
    )


def assert_equal(first: Curves, second: Curves) -> None:
    for field in fields(Curves):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    curves = curves_of(4)
    curves.error[0, 1, 2] = np.nan
    save(tmp_path / "curves.npz", curves)
    assert_equal(load(tmp_path / "curves.npz"), curves)
    assert [path.name for path in tmp_path.iterdir()] == ["curves.npz"]


def test_parts_are_joined_in_the_order_of_seeds_and_ordinals() -> None:
    whole, other = curves_of(5), curves_of(2, seed=1)
    joined = join([other, whole.select([3, 1]), whole.select([0, 4, 2])])
    assert_equal(joined.select(range(5)), replace(whole, meta=joined.meta))
    assert_equal(joined.select([5, 6]), other)


def test_a_pruner_sees_no_test_error() -> None:
    blind = curves_of(3).blind()
    assert np.isnan(blind.test_error).all()
    assert np.isfinite(blind.error).all()


def test_averages_are_the_mean_of_the_weights_and_then_forget() -> None:
    spec = study_of("digits", "constant")
    pack = packs_of(proposals_of(Space(spec), 4), 4)[0][:2]
    population = Population(
        [one.candidate for one in pack], load_data(spec.data), TrainSettings(num_slots=8)
    )
    averages = Averages(population)
    name = next(iter(population.cohort.parameters))
    seen: list[torch.Tensor] = []

    def after_step() -> None:
        averages.after_step()
        seen.append(population.cohort.parameters[name].detach().clone())

    population.train_epoch(after_step)
    span = population.num_steps / 2  # the time constant of `ema-half`
    expected = torch.stack(seen[: int(span)]).mean(0)
    for weights in seen[int(span) :]:
        expected = expected + (weights - expected) / span
    torch.testing.assert_close(averages._own["ema-half"][name], expected)
    before = population.evaluate()
    averages.evaluate("ema-half")
    assert population.evaluate() == before


def test_beaten_shares_and_fronts_agree_with_a_loop() -> None:
    curves = curves_of(12)
    error, loss, activated = (getattr(curves, n)[1, :, 1] for n in ("error", "loss", "activated"))
    beaten = [
        sum(
            error[j] < error[i] and loss[j] < loss[i] and activated[j] <= activated[i]
            for j in range(12)
        )
        / 12
        for i in range(12)
    ]
    np.testing.assert_allclose(beaten_share(curves, 1, 2), beaten)
    dominated = [
        any(error[j] <= error[i] and activated[j] <= activated[i] and j != i for j in range(12))
        for i in range(12)
    ]
    np.testing.assert_array_equal(front(error, activated), ~np.array(dominated))


def test_ranks_agree_inside_groups_only_if_they_do() -> None:
    final = np.arange(8.0)
    early = np.array([3, 2, 1, 0, 7, 6, 5, 4.0])  # right between the groups, wrong inside
    whole, inside = rank_agreement(early, final, np.repeat([0, 1], 4))
    assert whole > 0.4
    assert inside == pytest.approx(-1)
