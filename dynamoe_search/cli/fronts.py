"""How a front looks on a terminal: a table, and a plot of two objectives."""

from collections.abc import Mapping, Sequence
from typing import Any

from dynamoe_search.cli.pictures import scatter
from dynamoe_search.cli.screens import console, table
from dynamoe_search.cli.words import cell, printable
from dynamoe_search.records import CandidateRecord, FrontMember
from dynamoe_search.specs.vocabulary import MAXIMISED

_NARROW = 90  # columns below which a table leaves out what `show` tells


def show_front(
    members: Sequence[FrontMember],
    objectives: Sequence[str],
    candidates: Sequence[CandidateRecord] = (),
    epochs: Mapping[int, int] | None = None,
) -> None:
    """Prints the front as a table and, with two objectives or more, as a plot of the first against the second.

    Args:
        members: The front.
        objectives: Names of the study's objectives.
        candidates: Others for the plot; those without values are left out.
        epochs: That a member, by its trial, was trained for so far; None or empty if all are complete.
    """
    rows = [_front_cells(member, objectives) for member in members]
    headings = ["trial", *objectives, "experts per layer", "router", "mean K", "schedule", ""]
    if epochs:
        headings.insert(1, "epochs")
        for row, member in zip(rows, members, strict=True):
            row.insert(1, f"{epochs[member.trial]} of {member.candidate.train.epochs}")
    out = console()
    is_narrow = out.width < _NARROW
    if is_narrow:
        headings = headings[:-3]
        rows = [row[:-3] for row in rows]
    out.print(table(headings, rows))
    if is_narrow:
        out.print(
            f"left out: mean K, schedule, reference; --json has them, and so has a terminal of {_NARROW} columns"
        )
    if len(objectives) < 2 or len(members) < 2:
        return
    upwards, across = objectives[:2]
    points = [(member.values[across], member.values[upwards]) for member in members]
    others = [
        (record.values[across], record.values[upwards]) for record in candidates if record.values
    ]
    out.print()
    columns = max(8, min(56, out.width - 16))
    better = "" if upwards in MAXIMISED else ", lower is better"
    picture = scatter(
        points, printable(across), f"{printable(upwards)}{better}", others, columns=columns
    )
    out.print(picture, markup=False, highlight=False)


def _front_cells(member: FrontMember, objectives: Sequence[str]) -> list[Any]:
    candidate = member.candidate
    return [
        member.trial,
        *(float(member.values[name]) for name in objectives),
        member.experts_per_layer,
        _searched_router(member),
        " ".join(f"{layer.mean_k:.2f}" for layer in member.routing),
        candidate.schedule.shape,
        f"reference {candidate.reference}" if candidate.reference else "",
    ]


def _searched_router(member: FrontMember) -> str:
    """Returns the kind of router with those of its settings that the study varies."""
    settings = {
        path.removeprefix("router."): value
        for path, value in member.params.items()
        if path.startswith("router.") and path != "router.kind"
    }
    return f"{member.candidate.router.kind} {cell(settings)}".strip()
