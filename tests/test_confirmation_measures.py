"""What is compared, whichever way better is: runs told as accuracies and as losses come to the same verdicts."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamoe_search.confirmation import (
    ACCURACY,
    MEASURES,
    Confirmation,
    Measure,
    Measured,
    as_plain,
    carrying,
    confirmation,
    findings,
    measure_of,
)
from dynamoe_search.intervals import Difference, Interval, mean_interval

PERPLEXITY, BITS, LOSS = (
    MEASURES[name] for name in ("perplexity", "bits_per_byte", "validation_loss")
)
SIXTEENTHS = st.integers(0, 160).map(lambda steps: steps / 16)
"""Numbers whose sums and mirror images are exact."""


@st.composite
def losses(draw: st.DrawFn) -> list[Measured]:
    """Runs of a few designs with two to four seeds, some of which failed; values are losses in nats."""
    number, seeds = draw(st.integers(1, 5)), draw(st.integers(2, 4))
    runs = []
    for design in range(number):
        is_plain = draw(st.booleans())
        activated = draw(st.sampled_from([100.0, 104.0, 200.0]))
        for replicate in range(seeds):
            if draw(st.integers(0, 9)) == 0:
                continue
            runs.append(
                Measured(
                    design=f"design-{design}",
                    kind="baseline" if is_plain and design else "member",
                    is_plain=is_plain,
                    replicate=replicate,
                    test=draw(SIXTEENTHS),
                    validation=draw(SIXTEENTHS),
                    activated_params=activated,
                    examples=0,  # of which no step of an accuracy follows, so that only the direction differs
                )
            )
    return runs


def mirrored(runs: Sequence[Measured]) -> list[Measured]:
    return [replace(one, test=10 - one.test, validation=10 - one.validation) for one in runs]


def claims(found: Confirmation) -> tuple[object, ...]:
    """Everything that is said of who is better."""
    return (
        [(one.design, one.missing) for one in found.designs],
        [(one.design, one.baseline, one.answer, one.difference) for one in found.gains],
        [(one.design, one.verdict, one.by, one.difference, one.p) for one in found.places],
    )


def same(one: object, other: object) -> bool:
    return repr(one) == repr(other)  # NaN is not equal to itself


@given(losses())
@settings(deadline=None)
def test_mirrored_values_give_the_same_verdicts(runs: list[Measured]) -> None:
    down = confirmation(runs, seeds=4, measure=LOSS)
    up = confirmation(mirrored(runs), seeds=4, measure=ACCURACY)
    assert same(claims(down), claims(up))
    assert [10 - one.test.mean for one in up.designs] == pytest.approx(
        [one.test.mean for one in down.designs]
    )


@given(losses())
@settings(deadline=None)
def test_a_turned_direction_turns_the_verdicts(runs: list[Measured]) -> None:
    """If lower were better where higher is, every difference has the other sign and every claim the other answer."""
    members = [replace(one, kind="member") for one in runs]
    one_way = confirmation(members, seeds=4, measure=LOSS)
    other_way = confirmation(members, seeds=4, measure=ACCURACY)
    turned = {"yes": "no", "no": "yes", "not decided": "not decided"}
    for one, other in zip(one_way.gains, other_way.gains, strict=True):
        rivals = [each for each in one_way.designs if each.is_plain and each.design != one.design]
        if len(rivals) > 1:
            continue  # the best of several is another one
        assert turned[one.answer] == other.answer
        if one.difference is not None and other.difference is not None:
            assert one.difference.mean == -other.difference.mean


@given(losses())
@settings(deadline=None)
def test_the_unit_of_a_loss_does_not_change_a_verdict(runs: list[Measured]) -> None:
    nats = confirmation(runs, seeds=4, measure=LOSS)
    assert same(claims(nats), claims(confirmation(runs, seeds=4, measure=PERPLEXITY)))
    halved = [replace(one, test=one.test / 2, validation=one.validation / 2) for one in runs]
    bits = confirmation(halved, seeds=4, measure=BITS)
    assert [(one.design, one.answer) for one in bits.gains] == [
        (one.design, one.answer) for one in nats.gains
    ]
    assert [(one.design, one.verdict, one.by) for one in bits.places] == [
        (one.design, one.verdict, one.by) for one in nats.places
    ]


@given(losses(), losses())
@settings(deadline=None, max_examples=30)
def test_a_ranking_carries_over_whichever_way_better_is(
    small: list[Measured], large: list[Measured]
) -> None:
    scale = {"factor": 2, "by": "width", "seeds": 3}
    down = carrying(small, large, measure=LOSS, **scale)  # type: ignore[arg-type]
    up = carrying(mirrored(small), mirrored(large), measure=ACCURACY, **scale)  # type: ignore[arg-type]
    assert (down.answer, down.kept, down.members) == (up.answer, up.kept, up.members)
    assert same(down.agreement.tau, up.agreement.tau)


def test_a_rival_with_one_seed_alone_is_not_the_best_of_all() -> None:
    """With the other seeds it has no number, which of a loss is not the lowest."""
    own = Measured(
        design="member",
        kind="member",
        is_plain=False,
        replicate=0,
        test=2.0,
        validation=2.0,
        activated_params=100,
        examples=50,
    )
    plain = replace(own, kind="baseline", is_plain=True)
    runs = [
        *(replace(own, replicate=seed) for seed in range(3)),
        *(replace(plain, design="good", replicate=seed, test=1.0) for seed in range(3)),
        replace(plain, design="once", test=9.0, validation=9.0),
    ]
    (gain,) = confirmation(runs, seeds=3, measure=LOSS).gains
    assert gain.difference is not None
    assert (gain.baseline, gain.difference.mean) == ("good", -1.0)


def test_what_a_study_is_compared_by() -> None:
    assert measure_of(["accuracy", "activated_params"]) == ACCURACY
    assert measure_of(["activated_params", "perplexity"]) == PERPLEXITY
    assert measure_of(["bits_per_byte", "perplexity"]) == BITS
    assert measure_of(["perplexity", "accuracy"]) == ACCURACY  # as the pruner sees it
    assert measure_of(["validation_loss", "activated_params"]) == LOSS
    assert measure_of(["latency_ms", "activated_params"]) == ACCURACY


def test_values_of_a_candidate() -> None:
    metrics = {
        "accuracy": 0.5,
        "validation_loss": 2.0,
        "perplexity": math.exp(2.0),
        "bits_per_byte": 1.5,
    }
    assert [one.of(metrics) for one in MEASURES.values()] == [0.5, 2.0, 1.5, 2.0]
    assert [one.of_test(0.4, 3.0, metrics) for one in MEASURES.values()] == [0.4, 3.0, 2.25, 3.0]


def test_words() -> None:
    whole = Interval(mean=0.934, low=0.93, high=0.938, number=5)
    assert ACCURACY.interval_text(whole) == "93.4 (93.0 to 93.8)"
    assert ACCURACY.gains_text(whole) == "+93.4 (+93.0 to +93.8) points"
    assert ACCURACY.text(math.nan) == "-"
    alone = Interval(mean=math.log(8.5), low=math.nan, high=math.nan, number=1)
    assert PERPLEXITY.interval_text(alone) == "8.50"
    assert [PERPLEXITY.text(math.log(one)) for one in (8.061, 187.24, 50257)] == [
        "8.06",
        "187.2",
        "50,257",
    ]
    gain = Difference(mean=-math.log(0.97), low=-math.log(1.01), high=math.log(2), number=5, p=0.1)
    assert PERPLEXITY.gains_text(gain) == "+3.0 (-1.0 to +50.0) %"
    assert BITS.gains_text(replace(gain, mean=0.0314, low=-0.01, high=0.05)) == (
        "+0.031 (-0.010 to +0.050) bits"
    )
    assert LOSS.interval_text(Interval(mean=2.0, low=1.9, high=2.1, number=5)) == (
        "2.000 (1.900 to 2.100)"
    )
    assert PERPLEXITY.width_text(math.log(1.02)) == "±2.0 %"
    assert PERPLEXITY.width_text(math.log(2.84)) == "a factor of 2.84 each way"
    assert ACCURACY.width_text(0.02) == "±2.0 points"
    assert PERPLEXITY.shown(math.inf) < math.inf


@given(st.lists(st.floats(0, 1), min_size=3, max_size=6), st.sampled_from(list(MEASURES.values())))
def test_no_interval_goes_beyond_what_is_possible(values: list[float], measure: Measure) -> None:
    found = mean_interval(values)
    level, gain = measure.possible(found), measure.possible_gain(found)
    most = 1.0 if measure == ACCURACY else math.inf
    assert 0 <= level.low <= level.high <= most
    assert -most <= gain.low <= gain.high <= most
    assert level.low == max(found.low, 0.0)
    assert (level.mean, gain.mean, level.number) == (found.mean, found.mean, found.number)


@pytest.mark.parametrize("measure", [PERPLEXITY, BITS, LOSS])
def test_findings_of_a_loss_speak_of_it(measure: object) -> None:
    def of(design: str, level: float, *, plain: bool = False) -> list[Measured]:
        return [
            Measured(
                design=design,
                kind="baseline" if plain else "member",
                is_plain=plain,
                replicate=seed,
                test=level + 0.01 * seed,
                validation=level,
                activated_params=100,
                examples=500,
                is_text=True,
            )
            for seed in range(5)
        ]

    assert isinstance(measure, type(PERPLEXITY))
    found = confirmation(
        [*of("good", 2.0), *of("bad", 2.5), *of("dense", 2.2, plain=True)],
        seeds=5,
        measure=measure,
        searched={"good": 1.9, "bad": 2.4},
    )
    words = " ".join(findings(found))
    assert "accurac" not in words
    assert "points" not in words
    assert re.search(r"good is better than dense by [\d.]+ \([\d.]+ to [\d.]+\) ", words)
    assert re.search(r"bad is worse than dense by [\d.]+ \([\d.]+ to [\d.]+\) ", words)
    assert re.search(r"bad is beaten by good, .* by [\d.]+ \(", words)
    assert re.search(
        rf"own {measure.plural} of 2 members are [\d.]+\S* \S* ?better than those", words
    )


def test_plain_tables_have_the_units_that_people_know() -> None:
    own = Measured(
        design="trial-1",
        kind="member",
        is_plain=False,
        replicate=0,
        test=math.log(8),
        validation=math.log(9),
        activated_params=100,
        examples=50,
    )
    dense = replace(own, design="dense", kind="baseline", is_plain=True, test=math.log(10))
    runs = [replace(one, replicate=seed) for one in (own, dense) for seed in range(2)]
    plain = as_plain(
        confirmation(runs, seeds=2, measure=PERPLEXITY, searched={"trial-1": math.log(7)})
    )
    assert (plain["measure"], plain["better"]) == ("perplexity", "lower")
    by_name = {one["design"]: one for one in plain["designs"]}
    assert by_name["trial-1"]["test"]["mean"] == pytest.approx(8)
    assert by_name["trial-1"]["validation"] == pytest.approx(9)
    assert by_name["trial-1"]["searched"] == pytest.approx(7)
    assert by_name["dense"]["searched"] is None
    assert plain["gains"][0]["difference"]["mean"] == pytest.approx(0.2)  # 8 is 20 % below 10
    accuracy = as_plain(confirmation(runs, seeds=2))
    assert accuracy["designs"][0]["test"] == asdict(confirmation(runs, seeds=2).designs[0].test)
