"""A candidate's numbers do not depend on its company: bit for bit on the CPU, to the end of training."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F

from dynamoe_search.records import Candidate
from dynamoe_search.specs.vocabulary import ROUTER_KINDS
from dynamoe_search.training import Trained, train_leg
from dynamoe_search.training.population import Population
from tests.training.populations import (
    NUM_SLOTS,
    SETTINGS,
    candidate,
    differing,
    digits,
    gradients,
    mixed_pack,
    train_population,
)


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """For tests whose work is large enough to be split over threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@cache
def whole_pack(backbone: str, num_threads: int = 1) -> dict[int, Trained]:
    """The ends of the mixed pack, trained together; the number of threads is that of the process."""
    assert num_threads == torch.get_num_threads()
    return by_ordinal(train_population(mixed_pack(backbone), digits(), SETTINGS))


def by_ordinal(trained: list[Trained]) -> dict[int, Trained]:
    return {one.ordinal: one for one in trained}


@pytest.mark.parametrize(
    ("backbone", "threads"), [("mlp", 1), ("vit", 1), ("vit", 2)], indirect=["threads"]
)
def test_any_company_gives_the_same_training_to_the_last_bit(backbone: str, threads: int) -> None:
    pack = mixed_pack(backbone)
    whole = whole_pack(backbone, threads)
    assert {one.outcome.status for one in whole.values()} == {"complete"}
    companies = [[0], [13], [4, 12], [1, 7, 8], [12, 13, 0, 5, 10], [*range(len(pack))][::-1]]
    for company in companies if threads == 1 else companies[:3]:
        for one in train_population([pack[i] for i in company], digits(), SETTINGS):
            assert differing(one, whole[one.outcome.ordinal]) == [], company


def test_experts_were_added_and_removed_in_that_training() -> None:
    adaptive = train_population(mixed_pack()[-2:], digits(), SETTINGS)
    for one in adaptive:
        counts = [experts for _, experts in one.outcome.expert_events]
        assert len(counts) > 1
        assert len(set(counts)) > 1


@pytest.mark.parametrize("stay", [(2, 7, 12), (4,)])
def test_neighbours_that_stop_on_the_way_change_nobody(stay: tuple[int, ...]) -> None:
    pack = mixed_pack()
    whole = whole_pack("mlp")
    first = by_ordinal(train_leg(pack, digits(), SETTINGS, until=1))
    states = {i: first[i].standing for i in stay}
    rest = train_leg([pack[i] for i in stay], digits(), SETTINGS, until=2, start=states)
    for one in rest:
        assert differing(one, whole[one.ordinal]) == []


def test_neighbours_that_end_on_the_way_change_nobody() -> None:
    pack = mixed_pack()
    whole = whole_pack("mlp")
    short = [replace(one, train=replace(one.train, epochs=1)) for one in pack]
    company = [pack[i] if i in (2, 7, 12) else short[i] for i in range(len(pack))]
    ended = by_ordinal(train_population(company, digits(), SETTINGS))
    for ordinal in (2, 7, 12):
        assert differing(ended[ordinal], whole[ordinal]) == []
    company = [pack[i] if i == 4 else short[i] for i in range(len(pack))]
    ended = by_ordinal(train_population(company, digits(), SETTINGS))
    assert differing(ended[4], whole[4]) == []


def test_a_neighbour_that_turns_nan_fails_alone() -> None:
    pack = mixed_pack()
    whole = whole_pack("mlp")
    wild = [
        replace(
            candidate(100 + i, kind, (4, 2)),
            train=replace(pack[0].train, learning_rate=1e38, clip_norm=0.0),
        )
        for i, kind in enumerate(ROUTER_KINDS)
    ]
    ended = by_ordinal(train_population([*wild[:6], *pack, *wild[6:]], digits(), SETTINGS))
    for one in wild:
        outcome = ended[one.ordinal].outcome
        assert (outcome.status, outcome.reason) == ("failed", "nan")
    for one in pack:
        assert differing(ended[one.ordinal], whole[one.ordinal]) == []


def trained_steps(pack: list[Candidate], num_slots: int = NUM_SLOTS) -> Population:
    """A population after one epoch, when thresholds have moved, with the gradients of one more batch."""
    population = Population(pack, digits(), replace(SETTINGS, num_slots=num_slots))
    population.train_epoch()
    population.cohort.train(True)
    x, y = digits().train.x[:37], digits().train.y[:37]  # a ragged batch too
    population.gradients(x, y)
    return population


def test_every_gradient_and_every_choice_is_the_same_in_any_company() -> None:
    pack = mixed_pack()
    whole = trained_steps(pack)
    for company in ([3], [4, 8, 13], [11, 2]):
        part = trained_steps([pack[i] for i in company])
        for position, member in enumerate(company):
            one, other = gradients(part, position), gradients(whole, member)
            assert one.keys() == other.keys()
            assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_moved_thresholds_still_differ_from_their_start() -> None:
    population = trained_steps([candidate(0), candidate(1, threshold=0.2)])
    for position, start in enumerate((0.0, 0.2)):
        state = population.cohort.unstack(position)
        assert (state["layers.0.router.threshold"] - start).abs().max() > 1e-3


@pytest.mark.usefixtures("threads")
def test_wide_candidates_in_batches_that_are_split_over_threads() -> None:
    wide = [
        replace(one, model=replace(one.model, d_model=64, d_expert=64))
        for one in (candidate(i, kind, (6, 3)) for i, kind in enumerate(ROUTER_KINDS))
    ]
    wide = [replace(one, train=replace(one.train, batch_size=500, epochs=2)) for one in wide]
    data = digits(1000)
    whole = by_ordinal(train_population(wide, data, SETTINGS))
    for company in ([4, 9], [0, 1, 2, 3, 5, 6, 7]):
        for one in train_population([wide[i] for i in company], data, SETTINGS):
            assert differing(one, whole[one.outcome.ordinal]) == [], company


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_a_lone_candidate_on_large_images_has_its_numbers_in_company(threads: int) -> None:
    """Without a companion two threads would share the product of its first layer in another way."""
    assert torch.get_num_threads() == threads
    small = digits(240)
    train, validation = (
        replace(part, x=F.interpolate(part.x, (28, 28))) for part in (small.train, small.validation)
    )
    data = replace(small, train=train, validation=validation, input_shape=(1, 28, 28))
    pack = [candidate(i, kind) for i, kind in enumerate(("top-k", "top-any", "percentile"))]
    pack = [replace(one, model=replace(one.model, d_model=32)) for one in pack]
    whole = by_ordinal(train_population(pack, data, SETTINGS))
    for alone in (0, 2):
        (one,) = train_population([pack[alone]], data, SETTINGS)
        assert differing(one, whole[alone]) == []


def test_none_of_our_routers_and_backbones_falls_back_to_one_at_a_time() -> None:
    for backbone in ("mlp", "vit"):
        for one in whole_pack(backbone).values():
            assert (one.outcome.pack_mode, one.outcome.pack_note) == ("vmap", None)
            assert one.outcome.pack_size == len(mixed_pack(backbone))


@pytest.mark.usefixtures("threads")
def test_company_changes_nobody_where_all_experts_are_computed() -> None:
    pack = mixed_pack()
    settings = replace(SETTINGS, expert_backend="dense")
    whole = by_ordinal(train_population(pack, digits(), settings))
    for company in ([0], [4, 12, 9], [13, 2]):
        for one in train_population([pack[i] for i in company], digits(), settings):
            assert differing(one, whole[one.outcome.ordinal]) == [], company


def test_routers_of_one_kind_that_are_more_than_a_vector_register_holds() -> None:
    """Element-wise operations on tensors of one number per candidate take another path then."""
    options = {"learn_logit_scale": True, "weight_gradient": "constant"}
    pack = [candidate(i, logit_scale=1.0 + i, train={"epochs": 1}, **options) for i in range(35)]
    whole = by_ordinal(train_population(pack, digits(), SETTINGS))
    for company in ([34], [3, 17, 33]):
        for one in train_population([pack[i] for i in company], digits(), SETTINGS):
            assert differing(one, whole[one.outcome.ordinal]) == [], company


def test_epochs_may_differ_within_a_pack() -> None:
    pack = [candidate(i, train={"epochs": 1 + i}) for i in range(3)]
    for one, alone in zip(train_population(pack, digits(), SETTINGS), pack, strict=True):
        assert one.outcome.epochs == alone.train.epochs
        (expected,) = train_population([alone], digits(), SETTINGS)
        assert differing(one, expected) == []
