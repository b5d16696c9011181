"""What a confirmation found, one plain sentence per finding; numbers as `measures` writes them."""

import math
import statistics
from collections.abc import Iterator, Sequence

from dynamoe_search.confirmation.results import (
    ALPHA,
    CARRIES,
    Carrying,
    Confirmation,
    Gain,
)
from dynamoe_search.intervals import holm, mean_interval

_MOST_NAMED = 6


def findings(found: Confirmation, scaled: Carrying | None = None) -> list[str]:
    """Returns what was found, in words: what was done, how large chance is, the front, the gains, the scale.

    Args:
        found: Of the study's own scale.
        scaled: Whether the ranking carries over, if that was asked.
    """
    if not found.designs:
        return ["No run came to its end, so nothing can be said; the command status tells why."]
    return [
        *_of_runs(found),
        *_of_noise(found),
        *_of_flattery(found),
        *_of_front(found),
        *_of_gains(found),
        *(_of_scale(scaled) if scaled is not None else ()),
    ]


def _of_runs(found: Confirmation) -> Iterator[str]:
    unit = "tokens" if found.is_text else "examples"
    yield (
        f"{len(found.designs)} designs were trained with {found.seeds} fresh seeds each and measured on the "
        f"{found.examples:,} {unit} of the test part."
    )
    if missing := [one for one in found.designs if one.missing]:
        names = _named([f"{one.design} ({one.missing})" for one in missing])
        yield f"Some seeds did not come to their end and are left out: {names}."
    if found.lost:
        yield f"No seed of these designs came to its end: {_named(found.lost)}."


def _of_noise(found: Confirmation) -> Iterator[str]:
    measure = found.measure
    widths = [one.test.high - one.test.low for one in found.designs]
    known = [width for width in widths if not math.isnan(width)]
    if not known:
        return
    how_wide = measure.width_text(statistics.median(known) / 2)
    moved = (
        f"would move all {measure.plural} much alike, so that differences hold better than levels"
    )
    if measure.resolution(found.examples):  # what is counted has a known spread
        middle = statistics.median(one.test.mean for one in found.designs)
        spread = 1.96 * math.sqrt(max(0.0, middle * (1 - middle)) / found.examples)
        moved = (
            f"would move every {measure.words} by up to ±{measure.width_text(spread)}, but all designs much alike, "
            "so that differences hold better than levels"
        )
    yield (
        f"Chance: the 95 % interval of a design's mean over the seeds is ±{how_wide} wide in the middle. "
        f"Another test part of this size {moved}."
    )


def _of_flattery(found: Confirmation) -> Iterator[str]:
    """On the same examples, the validation part: what the seed of the search was worth."""
    measure = found.measure
    more = [
        measure.gain(one.searched, one.validation)
        for one in found.designs
        if one.searched is not None
    ]
    if not more:
        return
    worth = measure.gains_text(mean_interval(more))
    side = "above" if measure.is_maximised else "better than"
    yield (
        f"On the validation part the search's own {measure.plural} of {len(more)} members lie {worth} {side} those "
        "with fresh seeds, on average: what the seed and being chosen were worth."
    )


def _of_front(found: Confirmation) -> Iterator[str]:
    verdicts = [one.verdict for one in found.places]
    if not verdicts:
        return
    yield (
        f"Of {len(verdicts)} members of the front {len(verdicts) - verdicts.count('beaten')} are left: "
        f"{verdicts.count('stays')} are behind no design that uses no more parameters, "
        f"{verdicts.count('within noise')} are behind one by no more than chance explains; "
        f"{verdicts.count('beaten')} are beaten."
    )
    for one in found.places:
        if one.verdict == "beaten" and one.difference is not None:
            yield (
                f"{one.design} is beaten by {one.by}, which uses no more parameters: by "
                f"{found.measure.gains_text(one.difference)}, p = {one.p:.2g} after correction."
            )


def _of_gains(found: Confirmation) -> Iterator[str]:
    gains = found.gains
    if not gains:
        return
    if all(one.baseline is None for one in gains):
        yield (
            "No plain design uses as few activated parameters as a member of the front, so there is nothing to "
            "compare the members with."
        )
        return
    with_rival = [one for one in gains if one.baseline is not None]
    better, worse = _certain(with_rival)
    yield (
        f"Against the best plain design with at most 1.05 times the activated parameters, {better} of "
        f"{len(with_rival)} members are better, {worse} are worse, and {len(with_rival) - better - worse} "
        "are not decided with these seeds, corrected for the number of members."
    )
    for one in with_rival:
        if one.answer != "not decided" and one.difference is not None:
            word = "better" if one.answer == "yes" else "worse"
            yield (
                f"By its own interval {one.design} is {word} than {one.baseline}: "
                f"{found.measure.gains_text(one.difference)}."
            )
    if alone := [one.design for one in gains if one.baseline is None]:
        yield f"No plain design is as small as {_named(alone)}."


def _certain(gains: Sequence[Gain]) -> tuple[int, int]:
    """Returns how many members are better and worse once it counts how many are asked about, by Holm."""
    known = [one.difference for one in gains if one.difference is not None]
    sure = [
        one for one, p in zip(known, holm([each.p for each in known]), strict=True) if p < ALPHA
    ]
    return sum(one.mean > 0 for one in sure), sum(one.mean < 0 for one in sure)


def _of_scale(found: Carrying) -> Iterator[str]:
    what = f"{found.factor} times the {found.by}"
    agreement = found.agreement
    if math.isnan(agreement.tau):
        yield f"Whether the ranking carries over to {what} cannot be said of {agreement.number} designs."
        return
    share = round(100 * (1 + agreement.tau) / 2)
    own, other = found.within
    yield (
        f"Does the ranking carry over to {what}? {found.answer.capitalize()}: Kendall's tau is {agreement.tau:.2f} "
        f"({agreement.low:.2f} to {agreement.high:.2f}), so {share} % of the pairs of {agreement.number} designs stand "
        f"in the same order; {found.kept} of {found.members} members are beaten at neither scale."
    )
    if not math.isnan(own) and not math.isnan(other):
        yield (
            f"As a measure of what the seeds leave of an order, the rankings by two halves of them agree with a tau of "
            f"{own:.2f} at the own scale and of {other:.2f} at {what}"
            + (
                "."
                if min(own, other) >= CARRIES
                else "; so close designs can agree with no ranking."
            )
        )


def _named(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
