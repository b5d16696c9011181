"""What a confirmation found, one plain sentence per finding; numbers as `measures` writes them."""

import math
import statistics
from collections.abc import Iterator, Sequence

from dynamoe_search.confirmation.results import (
    ALPHA,
    CARRIES,
    LEAST_VALUES,
    Carrying,
    Confirmation,
    Gain,
)
from dynamoe_search.intervals import holm, mean_interval
from dynamoe_search.wording import counted

_MOST_NAMED = 6


def findings(found: Confirmation, scaled: Carrying | None = None) -> list[str]:
    """Returns what was found, in words: what was done, how large chance is, the front, the gains, the scale.

    Args:
        found: Of the study's own scale.
        scaled: Whether the ranking carries over, if that was asked.
    """
    if not found.designs:
        return ["No run came to its end, so nothing can be said; the command status tells why."]
    if len(found.designs) == 1:
        alone = (
            f"{found.designs[0].design} is compared with nothing: confirm more members, or leave out "
            "--no-baselines, which trains plain designs beside it."
        )
        about_scale = _of_scale(scaled) if scaled is not None else ()
        return [*_of_runs(found), *_of_noise(found), *_of_flattery(found), alone, *about_scale]
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
        f"{counted(len(found.designs), 'design')} {_were(len(found.designs))} trained with {found.seeds} fresh seeds "
        f"each and measured on the {found.examples:,} {unit} of the test part."
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
        yield (
            f"With fewer than {LEAST_VALUES} seeds chance cannot be told from a difference, so no interval is given "
            "and every difference is left open: --seeds 5 shows large ones, --seeds 10 moderate ones."
        )
        return
    how_wide = measure.width_text(statistics.median(known) / 2)
    moved = (
        f"would move all {measure.plural} much alike, so that differences hold better than levels"
    )
    if measure.resolution(found.examples):  # what is counted has a known spread
        middle = statistics.median(one.test.mean for one in found.designs)
        spread = 1.96 * math.sqrt(max(0.0, middle * (1 - middle)) / found.examples)
        moved = (
            f"would move every {measure.words} by up to {measure.width_text(spread)}, but all designs much alike, "
            "so that differences hold better than levels"
        )
    yield (
        f"Chance: the 95 % interval of a design's mean over the seeds is {how_wide}, in the middle of the designs. "
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
    mean = mean_interval(more)
    sides = ("above", "below") if measure.is_maximised else ("better than", "worse than")
    verb = "lie" if measure.is_maximised else "are"
    between = ""
    if mean.number >= LEAST_VALUES:
        ends = measure.possible_gain(mean)
        words = [side.removesuffix(" than") for side in sides]
        low, high = (measure.sided_text(one, *words, unit=False) for one in (ends.low, ends.high))
        between = f" ({low} to {high})"
    meaning = (
        "what the seed and being chosen were worth"
        if mean.mean > 0
        else "on the whole they flatter nobody"
    )
    yield (
        f"On the validation part the search's own {measure.plural} of {counted(len(more), 'member')} {verb} "
        f"{measure.sided_text(mean.mean, *sides)} those with fresh seeds, on average{between}: {meaning}."
    )


def _of_front(found: Confirmation) -> Iterator[str]:
    verdicts = [one.verdict for one in found.places]
    if not verdicts:
        return
    stay, unsure, beaten = (verdicts.count(one) for one in ("stays", "within noise", "beaten"))
    left_open = verdicts.count("open")
    about_open = f"; of {left_open} so few seeds cannot tell" if left_open else ""
    yield (
        f"Of {counted(len(verdicts), 'member')} of the front {_are(stay + unsure)} left: {_are(stay)} behind no "
        f"design that uses no more parameters, {_are(unsure)} behind one by no more than chance explains; "
        f"{_are(beaten)} beaten{about_open}."
    )
    for one in found.places:
        if one.verdict == "beaten" and one.difference is not None:
            yield (
                f"{one.design} is beaten by {one.by}, which uses no more parameters, "
                f"{found.measure.by_text(one.difference)}; p = {one.p:.2g} after correction."
            )


def _of_gains(found: Confirmation) -> Iterator[str]:
    gains = found.gains
    if not gains:
        return
    if not any(one.is_plain for one in found.designs):
        yield (
            "No plain design was trained beside the members, so no gain can be told; leave out --no-baselines for that."
        )
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
        f"Against the best plain design with at most 1.05 times the activated parameters, of "
        f"{counted(len(with_rival), 'member')} {_are(better)} better, {_are(worse)} worse, and "
        f"{_are(len(with_rival) - better - worse)} not decided with these seeds, corrected for the number of members."
    )
    for one in with_rival:
        if one.answer != "not decided" and one.difference is not None:
            word = "better" if one.answer == "yes" else "worse"
            yield (
                f"By its own interval {one.design} is {word} than {one.baseline} "
                f"{found.measure.by_text(one.difference)}."
            )
    if any(one.num_rivals > 1 for one in with_rival):
        yield (
            "A gain is taken seed by seed on the plain design that is best with the other seeds, which is not always "
            "the one in the table, so it may seem to contradict a place, for which a pair is compared with all seeds."
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
        yield f"Whether the ranking carries over to {what} cannot be said of {counted(agreement.number, 'design')}."
        return
    share = round(100 * (1 + agreement.tau) / 2)
    own, other = found.within
    yield (
        f"Does the ranking carry over to {what}? {found.answer.capitalize()}: Kendall's tau is {agreement.tau:.2f} "
        f"({agreement.low:.2f} to {agreement.high:.2f}), so {share} % of the pairs of {agreement.number} designs stand "
        f"in the same order; of {counted(found.members, 'member')} {_are(found.kept)} beaten at neither scale."
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


def _are(number: int) -> str:
    return "1 is" if number == 1 else f"{number} are"


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def _named(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
