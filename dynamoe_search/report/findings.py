"""What the front of a study says, in sentences and against its reference designs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dynamoe_search.records import CandidateRecord
from dynamoe_search.report.reading import StudyData, value
from dynamoe_search.report.words import (
    STATUS,
    is_maximised,
    label,
    measure,
    number,
    title,
)
from dynamoe_search.wording import counted


def headline(data: StudyData) -> list[str]:
    """Returns what a study found, in a few sentences."""
    if not data.front:
        return [_nothing(data)]
    across, upwards = data.axes
    best, cheapest = best_of(data.front, upwards), best_of(data.front, across)
    size = f"The front has {counted(len(data.front), 'design')} out of {_ranked(data)}."
    if len(data.front) == 1:
        only = data.front[0]
        return [f"{size} It is {title(only)}: {_pair(data, only)}.", *_beside_references(data)]
    fewest = "fewest" if measure(across).unit == "count" else "least"
    sentence = (
        f"{size} The best {label(upwards)} is {number(upwards, value(best, upwards))}, with "
        f"{_cost(data, best)} ({title(best)}). The one with the {fewest} {label(across)} is "
        f"{title(cheapest)}: {_pair(data, cheapest)}."
    )
    sentences = [sentence]
    if data.knee is not None and len(data.front) > 2:
        sentences.append(
            f"At the knee, where the front bulges farthest towards the good corner, is "
            f"{title(data.knee)}: {_pair(data, data.knee)}."
        )
    return [*sentences, *_beside_references(data)]


def caveat(data: StudyData) -> str:
    """Returns what to keep in mind when reading the numbers; empty without a front."""
    if not data.front:
        return ""
    return (
        "Every number outside Confirmed and Claims is of the validation part and of one seed. The front was chosen "
        f"among {_ranked(data)} by these same numbers, so it flatters its members; "
        "small differences may not stand another seed."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class BesideReference:
    """A reference design against the front.

    `for_its_cost` is the member with the best value upwards that costs no more, `for_its_gain` the cheapest that is
    at least as good; None where only designs on one side of the reference exist.
    """

    reference: CandidateRecord
    is_on_front: bool
    for_its_cost: CandidateRecord | None
    for_its_gain: CandidateRecord | None


def beside_references(data: StudyData) -> list[BesideReference]:
    """Returns every complete reference design against the searched members of the front."""
    searched = [one for one in data.front if one.candidate.reference is None]
    across, upwards = data.axes
    rows = []
    for reference in data.references:
        cost, gain = value(reference, across), value(reference, upwards)
        no_dearer = [one for one in searched if not _is_worse(across, value(one, across), cost)]
        as_good = [one for one in searched if not _is_worse(upwards, value(one, upwards), gain)]
        rows.append(
            BesideReference(
                reference=reference,
                is_on_front=reference.trial in data.front_trials,
                for_its_cost=best_of(no_dearer, upwards) if no_dearer else None,
                for_its_gain=best_of(as_good, across) if as_good else None,
            )
        )
    return rows


def best_of(records: Sequence[CandidateRecord], name: str) -> CandidateRecord:
    """Returns the candidate with the best value of a measure, the first of equals."""
    sign = -1.0 if is_maximised(name) else 1.0
    return min(records, key=lambda one: sign * value(one, name))


def difference(name: str, ours: float, theirs: float) -> str:
    """Returns how a value differs from another: +1.25 points for shares, −41 % for counts."""
    if measure(name).unit == "share":
        return _signed(f"{100 * (ours - theirs):+.2f} points")
    if theirs == 0:
        return number(name, ours)
    return _signed(f"{100 * (ours / theirs - 1):+.0f} %")


def _beside_references(data: StudyData) -> list[str]:
    """The comparison that a reader asks for first: the strongest reference design."""
    rows = beside_references(data)
    if not rows:
        return []
    across, upwards = data.axes
    strongest = best_of([row.reference for row in rows], upwards)
    row = next(row for row in rows if row.reference is strongest)
    name = strongest.candidate.reference
    start = f"The best reference design, {name}, reaches {_pair(data, strongest)}"
    if row.for_its_gain is None:
        return [f"{start}; no searched design of the front is as good."]
    cheaper = row.for_its_gain
    change = difference(across, value(cheaper, across), value(strongest, across))
    return [
        f"{start}; {title(cheaper)} is at least as good with {_cost(data, cheaper)} ({change})."
    ]


def _nothing(data: StudyData) -> str:
    if not data.candidates:
        return "No candidate has been trained yet, so there is nothing to show."
    counts = Counter(STATUS[one.status] for one in data.candidates)
    found = ", ".join(f"{number_of:,} {word}" for word, number_of in counts.most_common())
    failed = data.with_status("failed")
    if failed and len(failed) == len(data.candidates):
        reason, _ = Counter(one.reason or "unknown" for one in failed).most_common(1)[0]
        return (
            f"{'The only candidate' if len(failed) == 1 else f'All {len(failed):,} candidates'} failed; "
            f"the most frequent reason is {reason!r}. The section on failures has the messages."
        )
    if any(one.status == "complete" for one in data.candidates):
        return (
            f"No complete candidate keeps the study's constraints ({found}), so there is no front."
        )
    return f"No candidate is complete yet ({found}), so there is no front."


def _ranked(data: StudyData) -> str:
    return counted(len(data.ranked), "complete candidate")


def _cost(data: StudyData, record: CandidateRecord) -> str:
    across = data.axes[0]
    text = number(across, value(record, across))
    return (
        f"{text} {label(across)}" if measure(across).unit == "count" else f"{label(across)} {text}"
    )


def _pair(data: StudyData, record: CandidateRecord) -> str:
    upwards = data.axes[1]
    return f"{label(upwards)} {number(upwards, value(record, upwards))} with {_cost(data, record)}"


def _is_worse(name: str, ours: float, theirs: float) -> bool:
    return ours < theirs if is_maximised(name) else ours > theirs


def _signed(text: str) -> str:
    return text.replace("-", "−", 1)
