"""From runs to claims: who is better, who stays on the front, whether a ranking carries over."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamoe_search.confirmation import (
    Measured,
    carrying,
    confirmation,
    findings,
)

STEP = 0.002


def runs(
    design: str,
    accuracies: Sequence[float],
    activated: float,
    *,
    kind: Literal["member", "baseline"] = "member",
    validation: float | None = None,
    is_plain: bool | None = None,
) -> list[Measured]:
    return [
        Measured(
            design=design,
            kind=kind,
            is_plain=kind == "baseline" if is_plain is None else is_plain,
            replicate=replicate,
            test=accuracy,
            validation=float(np.mean(accuracies)) if validation is None else validation,
            activated_params=activated,
            examples=500,
        )
        for replicate, accuracy in enumerate(accuracies)
    ]


GOOD = (0.950, 0.954, 0.946, 0.952, 0.948)
BAD = (0.900, 0.906, 0.898, 0.900, 0.896)


def test_designs_are_sorted_by_size_and_have_intervals() -> None:
    found = confirmation(
        [*runs("large", GOOD, 2000), *runs("small", BAD[:4], 900.5, kind="baseline")], seeds=5
    )
    assert [(one.design, one.kind, one.missing) for one in found.designs] == [
        ("small", "baseline", 1),
        ("large", "member", 0),
    ]
    assert found.designs[1].test.mean == pytest.approx(0.95)
    assert found.designs[1].test.low < 0.95 < found.designs[1].test.high
    assert (found.seeds, found.examples) == (5, 500)


def test_gain_is_on_the_best_plain_design_of_the_size_by_validation() -> None:
    found = confirmation(
        [
            *runs("trial-1", GOOD, 1000),
            *runs("top-1", BAD, 1050, kind="baseline", validation=0.91),
            *runs("dense", GOOD, 900, kind="baseline", validation=0.90),  # the test has no say
            *runs("top-2", GOOD, 1051, kind="baseline", validation=0.99),  # too large
            *runs("trial-2", GOOD, 1000, validation=0.99),  # not plain
        ],
        seeds=5,
    )
    gain = next(one for one in found.gains if one.design == "trial-1")
    assert (gain.baseline, gain.answer) == ("top-1", "yes")
    assert gain.difference is not None
    assert gain.difference.mean == pytest.approx(0.05)


def test_worse_and_undecided_and_alone() -> None:
    found = confirmation(
        [
            *runs("worse", BAD, 1000),
            *runs("equal", [value + 0.001 * (-1) ** i for i, value in enumerate(GOOD)], 1100),
            *runs("tiny", BAD, 10),
            *runs("dense", GOOD, 1000, kind="baseline"),
        ],
        seeds=5,
    )
    answers = {one.design: (one.baseline, one.answer) for one in found.gains}
    assert answers == {
        "tiny": (None, "not decided"),
        "worse": ("dense", "no"),
        "equal": ("dense", "not decided"),
    }
    words = " ".join(findings(found))
    assert "No plain design is as small as tiny." in words
    assert "worse is worse than dense" in words


def test_member_that_is_plain_is_not_its_own_rival() -> None:
    found = confirmation(
        [*runs("trial-0", GOOD, 1000, is_plain=True), *runs("dense", BAD, 1000, kind="baseline")],
        seeds=5,
    )
    assert found.gains[0].baseline == "dense"


def test_places_on_the_front() -> None:
    noisy = (0.99, 0.90, 0.97, 0.92, 0.98)
    found = confirmation(
        [
            *runs("stays", BAD, 100),
            *runs("better", GOOD, 500, kind="baseline"),
            *runs("beaten", BAD, 1000),
            *runs("unsure", GOOD, 2000),
            *runs("noisy", noisy, 1500, kind="baseline"),
        ],
        seeds=5,
    )
    places = {one.design: one for one in found.places}
    assert places["stays"].verdict == "stays"
    assert (places["beaten"].verdict, places["beaten"].by) == ("beaten", "better")
    assert (places["unsure"].verdict, places["unsure"].by) == ("within noise", "noisy")
    assert places["beaten"].p is not None
    assert places["beaten"].p < 0.05
    words = " ".join(findings(found))
    assert "Of 3 members of the front 2 are left: 1 is behind no design" in words
    assert "beaten is beaten by better" in words


def test_text_is_counted_in_tokens() -> None:
    everyone = [replace(one, is_text=True) for one in runs("a", GOOD, 100)]
    assert "on the 500 tokens of the test part" in findings(confirmation(everyone, seeds=5))[0]


def test_more_rivals_need_stronger_evidence() -> None:
    rival = runs("rival", [value + 0.004 for value in GOOD], 500, kind="baseline")
    shifted = [value + (0.001, -0.002, 0.0, 0.002, -0.001)[i] for i, value in enumerate(GOOD)]
    member = runs("member", shifted, 1000)
    (alone,) = confirmation([*member, *rival], seeds=5).places
    generator = np.random.default_rng(1)
    others = [
        one
        for number in range(30)
        for one in runs(f"other-{number}", generator.normal(0.95, 0.02, 5), 400, kind="baseline")
    ]
    (crowded,) = confirmation([*member, *rival, *others], seeds=5).places
    assert (alone.verdict, crowded.verdict) == ("beaten", "within noise")


def test_false_alarms_are_as_rare_as_promised() -> None:
    generator = np.random.default_rng(5)
    beaten = 0
    for _ in range(200):
        table = generator.normal(0.9, 0.01, (8, 5))
        everyone = [*runs("member", table[0], 100)]
        for number, row in enumerate(table[1:]):
            everyone += runs(f"rival-{number}", row, 50, kind="baseline")
        beaten += confirmation(everyone, seeds=5).places[0].verdict == "beaten"
    assert beaten <= 16  # 5 % of 200 are 10


def test_lucky_rival_is_not_held_against_a_member() -> None:
    generator = np.random.default_rng(2)
    worse = 0
    for _ in range(100):
        everyone: list[Measured] = []
        for number, row in enumerate(generator.normal(0.9, 0.01, (16, 5))):
            own = runs(str(number), row, 100, kind="baseline" if number else "member")
            everyone += [replace(one, validation=one.test) for one in own]  # its luck
        worse += confirmation(everyone, seeds=5).gains[0].answer == "no"
    assert worse <= 7  # 2.5 are expected; of the best rival over all seeds 12 of 100 were


def test_headline_of_the_gains_is_corrected_for_the_number_of_members() -> None:
    generator = np.random.default_rng(4)
    alarms, studies = 0, 60
    for _ in range(studies):
        everyone = runs("dense", generator.normal(0.9, 0.01, 5), 50, kind="baseline")
        for number in range(12):
            everyone += runs(f"trial-{number}", generator.normal(0.9, 0.01, 5), 100)
        words = " ".join(findings(confirmation(everyone, seeds=5)))
        assert "corrected for the number of members" in words
        alarms += "of 12 members 0 are better, 0 are worse" not in words
    assert alarms <= 8  # 3 are expected; without the correction about 20 are


@given(st.permutations(range(12)))
def test_order_of_the_runs_does_not_matter(order: list[int]) -> None:
    everyone = [
        *runs("a", GOOD[:4], 100),
        *runs("b", BAD[:4], 200),
        *runs("c", GOOD[1:], 150, kind="baseline"),
    ]
    assert confirmation([everyone[i] for i in order], seeds=4) == confirmation(everyone, seeds=4)


def scaled(gain: Sequence[float], noise: float, seed: int) -> list[Measured]:
    generator = np.random.default_rng(seed)
    return [
        one
        for number, level in enumerate(gain)
        for one in runs(f"trial-{number}", level + generator.normal(0, noise, 5), 100 + number)
    ]


def test_ranking_that_carries_over_and_one_that_does_not() -> None:
    levels = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75]
    yes = carrying(scaled(levels, 1e-3, 0), scaled(levels, 1e-3, 1), factor=4, by="width", seeds=5)
    no = carrying(
        scaled(levels, 1e-3, 0), scaled(levels[::-1], 1e-3, 1), factor=4, by="width", seeds=5
    )
    unsure = carrying(
        scaled(levels, 0.3, 0), scaled(levels, 0.3, 1), factor=2, by="epochs", seeds=5
    )
    assert (yes.answer, yes.agreement.tau, yes.kept, yes.members) == (
        "yes",
        pytest.approx(1.0),
        6,
        6,
    )
    assert (no.answer, no.agreement.tau) == ("no", pytest.approx(-1.0))
    assert no.kept < 6
    assert unsure.answer == "not decided"
    found = confirmation(scaled(levels, 1e-3, 0), seeds=5)
    assert "4 times the width? Yes: Kendall's tau is 1.00" in findings(found, yes)[-2]
    assert "100 % of the pairs of 6 designs" in findings(found, yes)[-2]
    assert "with a tau of 1.00 at the own scale and of 1.00 at 4 times" in findings(found, yes)[-1]
    assert "can agree with no ranking" in findings(found, unsure)[-1]


def test_designs_that_do_not_differ_are_no_reason_for_a_no() -> None:
    wrong, unfounded = 0, 0
    for number in range(20):
        small, large = (scaled([0.9] * 12, 0.01, 2 * number + side) for side in (0, 1))
        found = carrying(small, large, factor=4, by="width", seeds=5)
        wrong += found.answer != "not decided"
        unfounded += found.agreement.high < 0.5
    assert wrong <= 2
    assert unfounded > 10  # what a look at the interval alone would have called a no


def test_ranking_of_one_design_says_nothing() -> None:
    one = runs("a", GOOD, 100)
    found = carrying(one, one, factor=2, by="epochs", seeds=5)
    assert found.answer == "not decided"
    assert "cannot be said of 1 design." in findings(confirmation(one, seeds=5), found)[-1]


def test_seeds_that_failed_are_left_out_of_pairs_and_named() -> None:
    found = confirmation(
        [*runs("a", GOOD, 1000), *runs("dense", BAD[:3], 1000, kind="baseline")], seeds=5
    )
    (gain,) = found.gains
    assert gain.difference is not None
    assert gain.difference.number == 3
    assert "left out: dense (2)." in " ".join(findings(found))


def test_flattery_of_the_search_is_told() -> None:
    everyone = [*runs("a", GOOD, 1000), *runs("b", BAD, 500), *runs("c", BAD, 400, kind="baseline")]
    found = confirmation(everyone, seeds=5, searched={"a": 0.97, "b": 0.93})
    assert [one.searched for one in found.designs] == [None, 0.93, 0.97]
    (told,) = [words for words in findings(found) if "own accuracies" in words]
    assert (
        "of 2 members lie 2.5 points above those with fresh seeds, on average: what the seed"
        in told
    )  # two numbers have no interval worth telling
    third = [*everyone, *runs("d", BAD, 700)]
    found = confirmation(third, seeds=5, searched={"a": 0.97, "b": 0.93, "d": 0.93})
    (told,) = [words for words in findings(found) if "own accuracies" in words]
    assert re.search(
        r"lie 2.7 points above .* on average \(\S+ (above|below) to \S+ above\): what", told
    )
    assert not any("own accuracies" in words for words in findings(confirmation(everyone, seeds=5)))


def test_a_search_that_flattered_nobody_is_told_without_signs() -> None:
    everyone = [*runs("a", GOOD, 1000), *runs("b", BAD, 500), *runs("d", BAD, 700)]
    low = {name: sum(values) / len(values) - 0.02 for name, values in [("a", GOOD), ("b", BAD)]}
    (told,) = [
        words
        for words in findings(confirmation(everyone, seeds=5, searched=low))
        if "own accuracies" in words
    ]
    assert "of 2 members lie 2.0 points below those with fresh seeds" in told
    assert told.endswith("on the whole they flatter nobody.")
    assert not re.search(r"[+-]\d", told)


def test_a_gain_on_several_rivals_is_explained() -> None:
    turns = [("one", [0.9, 0.8]), ("two", [0.8, 0.9])]
    plain = [
        replace(run, validation=run.test)
        for name, values in turns
        for run in runs(name, values, 5, kind="baseline")
    ]
    found = confirmation([*runs("a", [0.86, 0.86], 10), *plain], seeds=2)
    assert found.gains[0].num_rivals == 2
    assert "so it may seem to contradict a place" in " ".join(findings(found))
    alone = confirmation([*runs("a", [0.86, 0.86], 10), *plain[:2]], seeds=2)
    assert alone.gains[0].num_rivals == 1
    assert "contradict" not in " ".join(findings(alone))


def test_designs_that_failed_with_every_seed_are_named() -> None:
    found = confirmation(runs("a", GOOD, 1000), seeds=5, asked=["a", "dense", "top-1"])
    assert found.lost == ("dense", "top-1")
    assert "No seed of these designs came to its end: dense, top-1." in findings(found)
    nothing = confirmation([], seeds=5, asked=["a"])
    assert nothing.lost == ("a",)
    (sentence,) = findings(nothing)
    assert sentence.startswith("No run came to its end")
    only_plain = confirmation(runs("dense", GOOD, 10, kind="baseline"), seeds=5, asked=["a"])
    assert "came to its end: a." in " ".join(findings(only_plain))


def test_two_seeds_leave_every_difference_open() -> None:
    everyone = [*runs("a", [0.2, 0.2], 10), *runs("b", [0.9, 0.9], 5, kind="baseline")]
    found = confirmation(everyone, seeds=2)
    assert all(math.isnan(one.test.low) and math.isnan(one.test.high) for one in found.designs)
    (gain,), (place,) = found.gains, found.places
    assert (gain.answer, place.verdict, place.p) == ("not decided", "open", 1.0)
    assert gain.difference is not None
    assert math.isnan(gain.difference.low)
    words = " ".join(findings(found))
    assert "every difference is left open: --seeds 5" in words
    assert "0 are beaten; of 1 so few seeds cannot tell." in words
    assert "interval of a design's mean" not in words
    three = confirmation(
        [*runs("a", [0.2, 0.21, 0.2], 10), *runs("b", [0.9, 0.91, 0.9], 5, kind="baseline")],
        seeds=3,
    )
    assert (three.gains[0].answer, three.places[0].verdict) == ("no", "beaten")


def test_two_seeds_carry_no_ranking_over() -> None:
    levels = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75]
    few = [one for one in scaled(levels, 1e-3, 0) if one.replicate < 2]
    assert carrying(few, few, factor=2, by="epochs", seeds=2).answer == "not decided"


def test_one_design_is_compared_with_nothing() -> None:
    found = confirmation(runs("trial-3", GOOD, 100), seeds=5, searched={"trial-3": 0.96})
    assert (found.gains, found.places) == ((), ())
    words = findings(found)
    assert words[0].startswith("1 design was trained with 5 fresh seeds each")
    assert words[-1].startswith(
        "trial-3 is compared with nothing: confirm more members, or leave out"
    )
    assert "of 1 member lie 1.0 points above" in words[-2]
    two = [*runs("trial-3", GOOD, 100), *runs("trial-5", GOOD, 200)]
    assert "No plain design was trained beside" in " ".join(findings(confirmation(two, seeds=5)))


def test_single_seeds_have_no_interval() -> None:
    found = confirmation([*runs("a", [0.9], 10), *runs("b", [0.8], 5, kind="baseline")], seeds=2)
    assert (found.gains[0].answer, found.places[0].verdict) == ("not decided", "stays")
    assert findings(found)
    assert json.dumps(findings(found))
