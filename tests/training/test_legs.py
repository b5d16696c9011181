"""Training in legs: any cut and any company give the numbers of one go; who may share a leg; who fails at its end."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynamoe_search.data import Split
from dynamoe_search.records import Candidate, Progress
from dynamoe_search.training import (
    CandidateState,
    CheckpointFolder,
    DamagedError,
    StateFolder,
    Trained,
    data_on,
    train_leg,
)
from dynamoe_search.training.population import Population
from tests.training.populations import (
    ADAPTIVE,
    SETTINGS,
    candidate,
    differing,
    digits,
    in_legs,
    mixed_pack,
    train_population,
)

EPOCHS = 3


@cache
def pack_of(backbone: str) -> tuple[Candidate, ...]:
    return tuple(
        replace(one, train=replace(one.train, epochs=EPOCHS, augment=True))
        for one in mixed_pack(backbone)
    )


@cache
def in_one_go(backbone: str) -> list[Trained]:
    return train_population(pack_of(backbone), digits(), SETTINGS)


def standing(pack: list[Candidate], until: int = 1) -> dict[int, CandidateState]:
    states = {}
    for one in train_leg(pack, digits(), SETTINGS, until=until):
        assert one.standing is not None
        states[one.ordinal] = one.standing
    return states


@pytest.mark.parametrize("backbone", ["mlp", "vit"])
def test_every_router_in_other_company_in_every_leg(backbone: str, tmp_path: Path) -> None:
    companies = [
        [[13, 2, 5, 0], [1], [4, 3, 12, 6, 7, 8, 9, 10, 11]],
        [[12], [6, 13], [11, 10, 9, 8, 7, 5, 4, 3, 2, 1, 0]],
    ]
    pack = pack_of(backbone)
    states = in_legs(pack, SETTINGS, StateFolder(tmp_path), companies)
    for group in ([0], [13, 3], [*range(1, 3), *range(4, 13)]):
        own = [pack[i] for i in group]
        for one in train_leg(own, digits(), SETTINGS, until=EPOCHS, start=states):
            assert differing(one, in_one_go(backbone)[one.ordinal]) == []


@st.composite
def cuts(draw: st.DrawFn) -> tuple[list[int], list[list[list[int]]]]:
    """Some members of the mixed pack, and how they are divided in each of two epochs."""
    members = draw(st.lists(st.integers(0, 13), min_size=1, max_size=5, unique=True))
    legs = []
    for _ in range(EPOCHS - 1):
        order = draw(st.permutations(range(len(members))))
        cut = draw(st.integers(0, len(members)))
        legs.append([list(part) for part in (order[:cut], order[cut:]) if part])
    return members, legs


@given(cuts())
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_cut_and_any_company(
    tmp_path_factory: pytest.TempPathFactory, cut: tuple[list[int], list[list[list[int]]]]
) -> None:
    members, legs = cut
    pack = [pack_of("mlp")[i] for i in members]
    folder = StateFolder(tmp_path_factory.mktemp("states"))
    states = in_legs(pack, SETTINGS, folder, legs)
    for one in train_leg(pack, digits(), SETTINGS, until=EPOCHS, start=states):
        assert differing(one, in_one_go("mlp")[one.ordinal]) == []


def test_a_longer_leg_after_a_short_one_with_a_stop_in_it(tmp_path: Path) -> None:
    pack = [pack_of("mlp")[i] for i in (12, 1, 4)]
    states = standing(pack)
    folder = CheckpointFolder(tmp_path, every_seconds=0)

    class Crash(BaseException):
        pass

    def crash(_: list[Progress]) -> None:
        raise Crash

    for _ in range(2):
        with pytest.raises(Crash):
            train_leg(
                pack,
                digits(),
                SETTINGS,
                until=EPOCHS,
                start=states,
                checkpoints=folder,
                on_progress=crash,
            )
    ends = train_leg(pack, digits(), SETTINGS, until=EPOCHS, start=states, checkpoints=folder)
    for one in ends:
        assert differing(one, in_one_go("mlp")[one.ordinal]) == []


def test_a_leg_tells_where_everybody_is() -> None:
    pack = [candidate(7, train={"epochs": 4}), candidate(3, train={"epochs": 2})]
    first = train_leg(pack, digits(), SETTINGS, until=1)
    assert [one.ordinal for one in first] == [7, 3]
    assert [(one.outcome, one.state) for one in first] == [(None, None)] * 2
    states = {one.ordinal: one.standing for one in first if one.standing is not None}
    assert [(state.epoch, state.step) for state in states.values()] == [(1, 5), (1, 5)]
    assert all(state.seconds > 0 for state in states.values())
    long, short = train_leg(pack, digits(), SETTINGS, until=3, start=states)
    assert long.standing is not None
    assert (long.outcome, long.standing.epoch) == (None, 3)
    assert short.outcome is not None
    assert (short.outcome.status, short.outcome.epochs) == ("complete", 2)
    assert short.standing is None
    assert short.outcome.seconds == pytest.approx(
        states[3].seconds + sum(report.seconds for report in short.reports)
    )
    assert [(report.ordinal, report.epoch) for report in short.reports] == [(3, 2)]
    assert [report.epoch for report in long.reports] == [2, 3]


def test_who_may_share_a_leg() -> None:
    pack = [candidate(i, train={"epochs": 4}) for i in range(2)]
    states = standing(pack)
    ahead = standing(pack, 2)

    def refused(own: list[Candidate], message: str, **options: object) -> None:
        with pytest.raises(ValueError, match=message):
            train_leg(own, digits(), SETTINGS, **({"until": 3} | options))  # type: ignore[arg-type]

    refused([], "one pack, not for 0")
    refused([pack[0], candidate(1, train={"batch_size": 32})], "one pack, not for 2")
    refused([pack[0], replace(pack[1], study_seed=7)], "one pack, not for 2")
    refused([pack[0], pack[0]], "only once")
    refused(pack, "others have none", start={0: states[0]})
    refused(pack, "the same epoch", start={0: states[0], 1: ahead[1]})
    refused(pack, "already", start=states, until=1)
    refused([pack[0], candidate(2, train={"epochs": 0})], "already")
    refused([replace(pack[0], ordinal=1)], "other candidates", start={1: states[0]})
    wider = replace(SETTINGS, num_slots=SETTINGS.num_slots + 1)
    with pytest.raises(ValueError, match="other settings"):
        train_leg(pack, digits(), wider, until=3, start=states)


@pytest.mark.parametrize("change", ["lacks", "too many", "shape", "type"])
def test_a_state_that_does_not_fit_its_network_is_damaged(change: str) -> None:
    pack = [candidate(i) for i in (4, 5)]
    states = standing(pack)
    tensors = dict(states[5].tensors)
    name = "mean/layers.0.experts.w1"
    if change == "lacks":
        del tensors[name]
    elif change == "too many":
        tensors["mean/other"] = tensors[name]
    else:
        tensors[name] = tensors[name].double() if change == "type" else tensors[name][:1]
    states[5] = replace(states[5], tensors=tensors)
    with pytest.raises(DamagedError, match="candidate 5 does not fit") as caught:
        train_leg(pack, digits(), SETTINGS, until=2, start=states)
    assert caught.value.ordinal == 5


def test_data_on_the_device_are_not_copied() -> None:
    data = digits()
    moved = data_on(data, "cpu")
    population = Population([candidate(0)], moved, SETTINGS)
    for one in (moved, population.data):
        assert one.train.x is data.train.x
        assert one.validation.y is data.validation.y


def test_a_failure_in_a_later_leg_keeps_the_time_of_the_earlier_ones() -> None:
    pack = [candidate(0), candidate(1)]
    states = standing(pack)
    x = digits().train.x.clone()
    x[:] = float("nan")
    data = replace(digits(), train=Split(x=x, y=digits().train.y))
    for one in train_leg(pack, data, SETTINGS, until=2, start=states):
        assert one.outcome is not None
        assert (one.outcome.reason, one.outcome.epochs) == ("nan", 2)
        assert one.outcome.seconds > states[one.ordinal].seconds
        assert one.standing is None


def idle(ordinal: int, epochs: int = 3) -> Candidate:
    """A candidate whose tokens use no expert."""
    return candidate(ordinal, "random-k", histogram=(1.0, 0.0), train={"epochs": epochs})


def test_a_candidate_without_an_active_expert_fails_alone_at_its_last_epoch() -> None:
    pack = [idle(0), candidate(1, "relu", train={"epochs": 3}), idle(2, epochs=2)]
    reports: list[Progress] = []
    first, other, short = train_leg(pack, digits(), SETTINGS, until=3, on_progress=reports.extend)
    for one, epochs in ((first, 3), (short, 2)):
        assert one.outcome is not None
        assert (one.outcome.status, one.outcome.reason) == ("failed", "no-active-experts")
        assert one.outcome.epochs == epochs
        assert "no validation token used an expert" in (one.outcome.message or "")
        assert (one.outcome.metrics, one.state) == ({}, None)
    (alone,) = train_population([pack[1]], digits(), SETTINGS)
    assert differing(other, alone) == []
    assert [one.epoch for one in reports if one.ordinal == 0] == [1, 2]


def test_a_candidate_without_open_experts_waits_only_if_some_may_be_added() -> None:
    closing = replace(ADAPTIVE, add=False)
    pack = [
        candidate(0, adaptive=closing, threshold=2.0, train={"epochs": 3}),
        candidate(1, adaptive=ADAPTIVE, threshold=2.0, train={"epochs": 3}),
    ]
    closed, reopened = train_population(pack, digits(), SETTINGS)
    assert closed.outcome is not None
    assert (closed.outcome.reason, closed.outcome.epochs) == ("no-active-experts", 1)
    assert closed.outcome.expert_events[-1][1] == (0, 0)
    assert reopened.outcome is not None
    assert reopened.outcome.status == "complete"
