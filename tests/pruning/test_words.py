"""Why a candidate did not go on, in words: how many rivals were ahead, how many may be, and who was the strongest."""

from typing import Any, get_args

import pytest

from dynamoe_search.pruning import Reason, in_words
from dynamoe_search.records import RungDecision
from dynamoe_search.specs import PrunerSection


def words(settings: PrunerSection, **changes: Any) -> str:
    given = {"trial": 1, "rung": 2, "action": "pause", "beaten": 9, "rivals": 39}
    return in_words(RungDecision(**(given | changes)), settings)


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("beaten", "beaten by 9 of 39 rivals (23%), and only the 50% that the fewest beat go on"),
        ("rank", "ranked behind 9 of 39 rivals (23%), and at most 25% may be ahead"),
        (
            "median",
            "worse than the median in error and in loss, and than 9 of 39 rivals (23%) in both",
        ),
    ],
)
def test_place_share_and_strongest_rival(reason: str, sentence: str) -> None:
    settings = PrunerSection(eta=4.0)
    assert words(settings, reason=reason) == sentence
    assert words(settings, reason=reason, strongest=7) == (
        f"{sentence}; its strongest rival is trial 7"
    )


def test_where_few_stand_more_of_them_go_on() -> None:
    assert "only the 80% that" in words(PrunerSection(), reason="beaten", rivals=19)
    assert "only the 100% that" in words(PrunerSection(), reason="beaten", rivals=9)


def test_other_reasons() -> None:
    settings = PrunerSection(guard=0.2)
    assert words(settings, reason="worst") == (
        "in the worst share (0.2) of 40 candidates in error and in loss"
    )
    assert "not finite" in words(settings, reason="not-finite", strongest=7)
    assert "same answer" in words(settings, reason="useless", strongest=7)
    assert words(settings, reason="of another version") == "of another version"


@pytest.mark.parametrize("reason", get_args(Reason))
def test_every_reason_has_words(reason: str) -> None:
    assert " " in words(PrunerSection(), reason=reason)
