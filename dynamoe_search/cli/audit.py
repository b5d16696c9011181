"""The command that asks whether the claims of the papers hold on the user's own data."""

import json
import math
import os
import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dynamoe_search.cli.options import (
    STORAGE_VARIABLE,
    AsJson,
    Quiet,
    Storage,
    Study,
    countable,
    finite,
)
from dynamoe_search.cli.words import say, seconds
from dynamoe_search.errors import StoppedError
from dynamoe_search.wording import counted

if TYPE_CHECKING:  # these load torch or Optuna
    from collections.abc import Sequence

    from dynamoe_search.auditing import Finding
    from dynamoe_search.search.audits import Audit, Audited

_NARROW = 110


def audit(
    study: Study,
    claims: Annotated[
        str | None,
        typer.Option(
            "--claims",
            metavar="NAMES",
            help="Which claims, with commas between: schedule, variation, hardness, gradient, settling, activated. "
            "Default: all.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", min=2, max=1000, help="Runs of every design, each with its own seed."
        ),
    ] = 5,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            min=1,
            help="Epochs of every run. Default: as many as the study's candidates have.",
            callback=countable,
            show_default=False,
        ),
    ] = None,
    margin: Annotated[
        float,
        typer.Option(
            "--margin",
            min=0.001,
            max=100.0,
            callback=finite,
            help="Smallest difference of accuracy that is of interest, in points; of text, of the loss in hundredths "
            "of a nat.",
        ),
    ] = 0.5,
    storage: Storage = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Ask whether the papers' claims hold on a study's data: designed runs, effects with intervals, verdicts.

    An audit that was stopped goes on with the same command, and a finished one is printed.
    """
    from dynamoe_search.store import Store

    names = tuple(name.strip() for name in (claims or "").split(",") if name.strip())
    if claims is not None and not names:
        raise typer.BadParameter(
            f"--claims must name claims such as schedule,variation, got {claims!r}"
        )
    again = _again(study, claims, seeds, epochs, margin, storage)
    with Store.open(storage, create=False) as store:
        store.study(study)  # before anything that loads torch

        from dynamoe_search.cli.interrupts import stop_on_signals
        from dynamoe_search.cli.progress import watching
        from dynamoe_search.search.audits import AuditRequest, audit_study, prepare_audit

        request = AuditRequest(claims=names, seeds=seeds, epochs=epochs, margin=margin)
        planned = prepare_audit(store, study, request)
        if not quiet:
            say(_cost(planned), err=True)
        with stop_on_signals(f"go on with: {again}") as flag:
            try:
                with watching(quiet) as on_event:
                    done = audit_study(store, planned, on_event=on_event, should_stop=flag)
            except StoppedError as error:
                message = f"{error}\nstopped; go on with: {again}"
                raise StoppedError(message, exit_code=flag.exit_code) from None
    if done.unfinished is not None or done.is_interrupted:
        message = done.unfinished or f"stopped; go on with: {again}"
        raise StoppedError(message, exit_code=flag.exit_code)
    if as_json:
        _print_json(planned, done)
    else:
        _show(planned, done)


def _again(
    study: str,
    claims: str | None,
    seeds: int,
    epochs: int | None,
    margin: float,
    storage: str | None,
) -> str:
    """Returns the command as it would be typed again; passwords are not repeated."""
    from dynamoe_search.store import masked

    is_known = storage is None or storage == os.environ.get(STORAGE_VARIABLE)
    given = {
        "--claims": claims,
        "--seeds": seeds,
        "--epochs": epochs,
        "--margin": margin,
        "--storage": None if is_known else masked(str(storage)),
    }
    options = [
        word for name, value in given.items() if value is not None for word in (name, str(value))
    ]
    return shlex.join(["dynamoe-search", "audit", study, *options])


def _cost(planned: "Audit") -> str:
    plan, seeds = planned.plan, planned.request.seeds
    epochs = counted(planned.epochs, "epoch")
    controls = f" and up to {counted(len(plan.controls), 'control')}" if plan.controls else ""
    pace = (
        "" if planned.seconds is None else f", {seconds(planned.seconds)} at the study's own pace"
    )
    is_too_short = "settling" in plan.claims and plan.adaptive is None
    missing = f"; {epochs} cannot decide the claim settling, so nothing is trained for it"
    return (
        f"{len(plan.designs)} designs{controls}, {seeds} seeds each, {epochs}: "
        f"{planned.most_epochs:,} candidate-epochs at most{pace}; what is done already is not done again"
        f"{missing if is_too_short else ''}"
    )


def _print_json(planned: "Audit", done: "Audited") -> None:
    from dynamoe_search.auditing.findings import CLAIMS, RULE
    from dynamoe_search.cli import screens
    from dynamoe_search.records import to_json

    screens.print_json(
        {
            "study": planned.parent,
            "studies": list(done.studies),
            "seeds": planned.request.seeds,
            "epochs": planned.epochs,
            "margin": planned.request.margin,
            "failed": done.failed,
            "rule": RULE,
            "claims": [json.loads(to_json(CLAIMS[key])) for key in planned.plan.claims],
            "findings": [json.loads(to_json(one)) for one in done.findings],
        }
    )


def _show(planned: "Audit", done: "Audited") -> None:
    from dynamoe_search.auditing.findings import CLAIMS, POINTS_OF_TEXT, RULE
    from dynamoe_search.cli import screens

    out = screens.console()
    is_narrow = out.width < _NARROW
    headings = ["claim", "about", "answer", "effect", "95 % interval", "n", "in words"]
    rows = [_cells(one) for one in done.findings]
    out.print(
        screens.table(
            headings[:-1] if is_narrow else headings,
            [row[:-1] if is_narrow else row for row in rows],
        )
    )
    if is_narrow:
        out.print()
        for one in done.findings:
            out.print(f"{one.claim}, {one.subject}: {one.sentence}", markup=False)
    out.print()
    for key in planned.plan.claims:
        claim = CLAIMS[key]
        margin = next(one.margin for one in done.findings if one.claim == key)
        out.print(
            f"{key}: {claim.words} ({claim.source}) Effect: {claim.effect}; margin {margin:g}. "
            f"{_counted([one for one in done.findings if one.claim == key])}",
            markup=False,
        )
    if planned.plan.is_text:
        out.print(f"\nOf text, {POINTS_OF_TEXT}.", markup=False)
    failed = f" Left out: {counted(done.failed, 'failed run')}." if done.failed else ""
    out.print(
        f"\nRule: {RULE}.\nIntervals are over {planned.request.seeds} seeds, measured on the validation part; the runs "
        f"are in {', '.join(done.studies)}.{failed}",
        markup=False,
    )


def _cells(one: "Finding") -> list[Any]:
    known = not math.isnan(one.effect)
    return [
        one.claim,
        one.subject,
        one.verdict,
        f"{one.effect:+.2f}" if known else "-",
        f"{one.low:+.2f} to {one.high:+.2f}" if known else "-",
        one.n,
        one.sentence,
    ]


def _counted(findings: "Sequence[Finding]") -> str:
    """Returns how the lines of a claim were answered: `holds 2, does not hold 1, not decided 6`."""
    words = []
    for verdict in ("holds", "does not hold", "not decided"):
        number = sum(one.verdict == verdict for one in findings)
        if number:
            words.append(f"{verdict} {number}")
    return f"Lines: {', '.join(words)}."


COMMANDS: dict[str, Any] = {"audit": audit}
