"""What an audit sees in weights: the same in any company, and what one finds by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from dynamoe_search.training import Interrupted
from dynamoe_search.training.batches import epoch_order
from dynamoe_search.training.evidence import gradient_noise, hardness, see_examples
from dynamoe_search.training.population import Population
from tests.training.populations import (
    SETTINGS,
    candidate,
    digits,
    gradients,
    mixed_pack,
    train_population,
)
from tests.training.texts import language_pack, text


def noises(population: Population) -> list[tuple[float, ...]]:
    return [(one.total, one.shared, one.mean_k) for one in gradient_noise(population)]


@pytest.mark.parametrize("backbone", ["mlp", "vit"])
def test_company_changes_nothing(backbone: str) -> None:
    pack = mixed_pack(backbone)
    whole = Population(pack, digits(), SETTINGS)
    together, seen = noises(whole), see_examples(whole)
    assert all(math.isfinite(number) for own in together for number in own)
    for company in ([0], [5, 12, 2], [*range(len(pack))][::-1]):
        population = Population([pack[position] for position in company], digits(), SETTINGS)
        assert noises(population) == [together[position] for position in company], company
        own = see_examples(population)
        assert torch.equal(own.loss, seen.loss[company])
        assert torch.equal(own.k, seen.k[:, company])


def test_noise_is_the_variance_of_minibatch_gradients_over_their_mean() -> None:
    pack = [candidate(0, "top-p"), candidate(1, "top-k", (3, 1))]
    population = Population(pack, digits(), SETTINGS)
    found = gradient_noise(population)
    order = epoch_order(200, 0, 0)
    assert {one.batches for one in found} == {4}  # of 48; the last 8 examples are left out
    for position in (0, 1):
        by_hand = []
        for begin in range(0, 192, 48):
            rows = order[begin : begin + 48]
            for tensor in population.cohort.parameters.values():
                tensor.grad = None
            population.gradients(digits().train.x[rows], digits().train.y[rows])
            own = gradients(population, position)
            by_hand.append({name: one.flatten().double() for name, one in own.items()})
        for names, noise in (
            (set(by_hand[0]), found[position].total),
            ({name for name in by_hand[0] if ".experts." not in name}, found[position].shared),
        ):
            flat = torch.stack(
                [torch.cat([one[name] for name in sorted(names)]) for one in by_hand]
            )
            expected = flat.var(0).sum() / flat.mean(0).square().sum()
            assert noise == pytest.approx(float(expected), rel=1e-4)


def test_nothing_is_learned_from_looking() -> None:
    population = Population(mixed_pack(), digits(), SETTINGS)
    cohort = population.cohort
    before = {name: t.detach().clone() for name, t in cohort.parameters.items()}
    state = {name: cohort.buffers[name].clone() for name in cohort.changing_buffers}
    first = noises(population)
    see_examples(population)
    assert noises(population) == first
    assert all(torch.equal(tensor, before[name]) for name, tensor in cohort.parameters.items())
    assert all(torch.equal(cohort.buffers[name], tensor) for name, tensor in state.items())


def test_weights_from_a_file_are_what_was_evaluated() -> None:
    pack = mixed_pack()
    trained = train_population(pack, digits(), SETTINGS)
    states = [one.state for one in trained]
    assert all(state is not None for state in states)
    population = Population(pack, digits(), SETTINGS, weights=[one or {} for one in states])
    seen = see_examples(population)
    for position, one in enumerate(trained):
        assert one.outcome is not None
        metrics = one.outcome.metrics
        assert float(seen.loss[position].double().mean()) == pytest.approx(
            metrics["validation_loss"], rel=1e-6
        )
        mean_k = [layer.mean_k for layer in one.outcome.routing]
        assert seen.k[:, position].mean(-1).tolist() == pytest.approx(mean_k, rel=1e-5)


def test_hardness_is_spearmans_correlation_and_none_for_a_constant_k() -> None:
    pack = [candidate(0, "top-any", (6, 5)), candidate(1, "top-k", k=2), candidate(2, "random-k")]
    seen = see_examples(Population(pack, digits(), SETTINGS))
    dynamic, constant, chance = hardness(seen)
    expected = stats.spearmanr(seen.k[:, 0].sum(0).numpy(), seen.loss[0].numpy()).statistic
    assert dynamic.overall == pytest.approx(expected)
    assert len(dynamic.per_layer) == 2
    assert constant.overall is None
    assert constant.per_layer == (None, None)
    assert chance.overall is not None
    assert abs(chance.overall) < 4 / np.sqrt(seen.loss.shape[1])


def test_an_audit_can_be_stopped_between_minibatches() -> None:
    population = Population([candidate(0)], digits(), SETTINGS)
    with pytest.raises(Interrupted):
        gradient_noise(population, should_stop=lambda: True)


def test_tokens_of_a_text_are_seen_one_by_one() -> None:
    pack, data = language_pack("gpt"), text()
    whole = Population(pack, data, SETTINGS)
    seen = see_examples(whole)
    assert seen.loss.shape[1] == data.validation.y.numel()
    position = [one.router.kind for one in pack].index("top-p")
    module = whole.plain_model(position).eval()
    with torch.no_grad():
        logits, routings = module(data.validation.x)
    losses = F.cross_entropy(logits.flatten(0, 1), data.validation.y.flatten(), reduction="none")
    torch.testing.assert_close(seen.loss[position], losses, rtol=1e-4, atol=1e-5)
    used = torch.stack([routing.mask.sum(-1).flatten() for routing in routings]).float()
    assert (seen.k[:, position] == used).float().mean() > 0.99  # a tie may fall the other way
    alone = see_examples(Population([pack[position]], data, SETTINGS))
    assert torch.equal(alone.loss[0], seen.loss[position])
    assert torch.equal(alone.k[:, 0], seen.k[:, position])
    assert all(one.batches for one in gradient_noise(whole))
