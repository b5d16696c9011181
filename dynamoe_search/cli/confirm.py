"""The command that trains a front again to see what is left of it: confirm."""

from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dynamoe_search.cli.options import AsJson, Quiet, Storage, Study, TrustCode
from dynamoe_search.cli.words import printable, say
from dynamoe_search.errors import StoppedError, UsageError

if TYPE_CHECKING:  # loads torch
    from dynamoe_search.confirmation import Confirmation, DesignResult, Gain, Measure, Place
    from dynamoe_search.search.confirming import Confirmed


def trial_numbers(text: str) -> tuple[int, ...]:
    """Returns trial numbers from text such as `3,17`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        raise typer.BadParameter(f"{text!r} must be trial numbers, such as 3,17")
    return tuple(int(part) for part in parts)


Chosen = Annotated[
    Any,
    typer.Option(
        "--trials",
        metavar="NUMBERS",
        parser=trial_numbers,
        help="Trials to confirm, e.g. 3,17. Default: the front.",
        show_default=False,
    ),
]
Limit = Annotated[
    int, typer.Option("--limit", min=1, help="Most members of the front, spread evenly along it.")
]
Seeds = Annotated[
    int, typer.Option("--seeds", min=2, max=1000, help="Fresh seeds for every design.")
]
Baselines = Annotated[
    bool,
    typer.Option(
        "--baselines/--no-baselines",
        help="Train dense, top-1, top-2, matched top-k and random-k designs beside.",
    ),
]
Scale = Annotated[
    int | None,
    typer.Option(
        "--scale",
        min=2,
        max=64,
        help="Train the same designs so many times wider or longer as well: does the ranking carry over?",
        show_default=False,
    ),
]
ScaleBy = Annotated[
    Literal["width", "epochs"] | None,
    typer.Option("--scale-by", help="What --scale multiplies. Default: width.", show_default=False),
]


def confirm(
    study: Study,
    trials: Chosen = None,
    limit: Limit = 8,
    seeds: Seeds = 5,
    baselines: Baselines = True,
    scale: Scale = None,
    scale_by: ScaleBy = None,
    trust_code: TrustCode = False,
    storage: Storage = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train the front and plain designs again with fresh seeds, and measure them on the test part.

    The only command that looks at the test part. Stopped, it goes on when it is called again with the same options.
    """
    from dynamoe_search.store import Store

    if scale_by is not None and scale is None:
        raise UsageError(
            "--scale-by says what --scale multiplies; say how many times, such as --scale 2"
        )
    with Store.open(storage, create=False) as store:
        store.study(study)  # before anything that loads torch

        from dynamoe_search.cli.interrupts import stop_on_signals
        from dynamoe_search.cli.progress import watching
        from dynamoe_search.search.confirming import ConfirmRequest, confirm_study

        request = ConfirmRequest(
            trials=trials or (),
            limit=limit,
            seeds=seeds,
            with_baselines=baselines,
            factor=scale or 1,
            scale_by=scale_by or "width",
        )
        again = "stopped; call the same command again to go on"
        with stop_on_signals("call it again to go on") as flag:
            try:
                with watching(quiet) as on_event:
                    found = confirm_study(
                        store,
                        study,
                        request,
                        on_event=on_event,
                        should_stop=flag,
                        trust_code=trust_code,
                    )
            except StoppedError as error:
                raise StoppedError(f"{error}\n{again}", exit_code=flag.exit_code) from None
    if found.confirmation is None:
        raise StoppedError(found.unfinished or again, exit_code=flag.exit_code)
    if as_json:
        _print_json(study, found)
    else:
        _show(found)


def _print_json(study: str, found: "Confirmed") -> None:
    from dataclasses import asdict

    from dynamoe_search.cli import screens
    from dynamoe_search.confirmation import as_plain, findings

    assert found.confirmation is not None
    screens.print_json(
        {
            "study": study,
            "studies": list(found.studies),
            "trials": list(found.chosen),
            "members_of_the_front": found.num_front,
            "confirmation": as_plain(found.confirmation),
            "scaled": as_plain(found.scaled) if found.scaled else None,
            "carrying": asdict(found.carrying) if found.carrying else None,
            "findings": findings(found.confirmation, found.carrying),
        }
    )


def _show(found: "Confirmed") -> None:
    from dynamoe_search.cli import screens
    from dynamoe_search.confirmation import findings

    assert found.confirmation is not None
    first = found.confirmation
    screens.console().print(_table(first, _title(first)))
    if found.scaled is not None and found.carrying is not None:
        typer.echo()
        again = f"The same at {found.carrying.factor} times the {found.carrying.by}"
        screens.console().print(_table(found.scaled, again))
    typer.echo()
    if first.measure.name == "perplexity":
        say(
            "A gain of 3 % is a perplexity that is 3 % lower; means and intervals are taken of its logarithm."
        )
    if found.num_front is not None and found.num_front > len(found.chosen):
        were = "was" if len(found.chosen) == 1 else "were"
        say(
            f"The front has {found.num_front} members; {len(found.chosen)} of them {were} confirmed, spread evenly "
            f"(--limit {found.num_front} takes all)."
        )
    for sentence in findings(first, found.carrying):
        say(sentence)
    say(
        f"\nAll runs are kept, with their weights: {', '.join(found.studies)} (status, show, export)."
    )


def _title(found: "Confirmation") -> str:
    measure = found.measure
    what = f"Test {measure.words}" + (" in points" if measure.is_maximised else ", lower is better")
    has_intervals = not all(isnan(one.test.low) for one in found.designs)
    return f"{what}, " + ("with 95 % intervals over the seeds" if has_intervals else "means alone")


def _table(one: "Confirmation", title: str) -> Any:
    from dynamoe_search.cli import screens

    gains = {gain.design: gain for gain in one.gains}
    places = {place.design: place for place in one.places}
    rows = [
        _row(result, gains.get(result.design), places.get(result.design), one.measure)
        for result in one.designs
    ]
    test = f"test {one.measure.words}"
    headings = ["design", "activated", test, "best plain design", "gain", "front"]
    return screens.table(headings, rows, title=title)


def _row(
    result: "DesignResult", gain: "Gain | None", place: "Place | None", measure: "Measure"
) -> Sequence[Any]:
    against, difference = "", ""
    if gain is not None and gain.difference is not None:
        against = printable(gain.baseline or "")
        difference = measure.gains_text(gain.difference)
    return [
        result.design,
        f"{result.activated_params:,.0f}",
        measure.interval_text(result.test),
        against,
        difference.removesuffix(" points"),
        "" if place is None else place.verdict,
    ]


COMMANDS: dict[str, Any] = {"confirm": confirm}
