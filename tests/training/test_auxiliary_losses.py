"""What an auxiliary loss does to a short training on digits, with fixed seeds."""

import statistics
from dataclasses import replace
from typing import Any

import pytest

from dynamoe_search.records import Candidate, LossWeights, Outcome
from tests.training.populations import SETTINGS, candidate, differing, digits, train_population


def outcomes(kind: str, weights: list[LossWeights], **settings: Any) -> list[Outcome]:
    """The ends of the same candidate with different weights of losses, after 20 steps or so."""
    pack: list[Candidate] = []
    for ordinal, losses in enumerate(weights):
        one = candidate(ordinal, kind, (6, 6), **settings)
        train = replace(one.train, epochs=5, learning_rate=1e-2, batch_size=50)
        pack.append(replace(one, losses=losses, train=train))
    # all start from the same numbers: the seed, not the ordinal, may differ between them
    same = [replace(one, ordinal=0) for one in pack]
    return [train_population([one], digits(), SETTINGS)[0].outcome for one in same]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("top-k", {"k": 1, "softmax": "before"}),
        ("top-p", {"p": 0.1}),
        ("percentile", {"tau": 0.7}),
    ],
)
def test_load_balance_balances(kind: str, settings: dict[str, Any]) -> None:
    """With one or two experts per token, where load is uneven if nothing is done."""
    weights = [LossWeights(), LossWeights(load_balance=1.0)]
    without, with_it = outcomes(kind, weights, **settings, bias_rate=0.0)
    cv = [statistics.fmean(layer.load_cv for layer in one.routing) for one in (without, with_it)]
    assert cv[1] < 0.8 * cv[0]


def test_efficiency_uses_fewer_experts() -> None:
    without, with_it = outcomes("top-any", [LossWeights(), LossWeights(efficiency=1.0)])
    assert mean_k(with_it) < 0.8 * mean_k(without)


def test_dynamic_makes_the_router_surer_of_itself() -> None:
    """Top-p takes fewer experts for the same p if their probabilities are uneven."""
    without, with_it = outcomes("top-p", [LossWeights(), LossWeights(dynamic=1.0)], p=0.6)
    assert mean_k(with_it) < 0.9 * mean_k(without)


def test_the_sparsity_penalty_steers_relu_to_its_target() -> None:
    distances = []
    for target in (1.0, 4.0):
        (one,) = outcomes("relu", [LossWeights()], target_active=target, sparsity_step=2.0)
        distances.append(mean_k(one))
    assert distances[0] < distances[1]


def test_a_loss_that_a_neighbour_uses_changes_nobody() -> None:
    one = replace(candidate(0, "null-experts", (4, 4)), losses=LossWeights())
    one = replace(one, train=replace(one.train, weight_decay=0.5))
    others = [candidate(1, "null-experts"), candidate(2, "top-any"), candidate(3, "top-k")]
    (alone,) = train_population([one], digits(), SETTINGS)
    together = train_population([one, *others], digits(), SETTINGS)[0]
    assert differing(alone, together) == []


def mean_k(one: Outcome) -> float:
    return statistics.fmean(layer.mean_k for layer in one.routing)


def test_a_loss_that_is_not_finite_says_so() -> None:
    wild = candidate(0, "top-k", weight=1e38)
    wild = replace(wild, train=replace(wild.train, learning_rate=1.0))
    ended = train_population([wild, candidate(1, "top-k")], digits(), SETTINGS)
    outcome = ended[0].outcome
    assert (outcome.status, outcome.reason) == ("failed", "nan")
    assert outcome.message == f"the loss was not finite in epoch {outcome.epochs}"
    assert (outcome.metrics, outcome.routing, ended[0].state) == ({}, (), None)
    assert ended[1].outcome.status == "complete"
