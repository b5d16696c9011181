"""Commands that read what a study found: show, front, export."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dynamoe_search.cli.options import (
    AsJson,
    Quiet,
    Storage,
    Study,
    Trial,
    TrustCode,
    bound,
    check_folder,
)
from dynamoe_search.cli.words import printable, quality_words, say
from dynamoe_search.records import CandidateRecord, FrontMember

if TYPE_CHECKING:
    from dynamoe_search.store import Provisional


def show(study: Study, trial: Trial, storage: Storage = None, as_json: AsJson = False) -> None:
    """Show one candidate: its architecture, how it was trained, what was measured, layer by layer."""
    import json

    from dynamoe_search.cli import candidates, screens, states
    from dynamoe_search.records import to_json
    from dynamoe_search.store import Store

    with Store.open(storage, create=False) as store:
        record = store.candidate(study, trial)
        progress = store.progress(study, trial)
        decisions = [one for one in store.decisions(study) if one.trial == trial]
    if as_json:
        result = json.loads(to_json(record))
        result["experts_per_layer"] = list(record.experts_per_layer)
        result["experts_per_layer_at_start"] = list(record.candidate.experts_per_layer)
        result["progress"] = [json.loads(to_json(report)) for report in progress]
        result["decisions"] = [json.loads(to_json(one)) for one in decisions]
        screens.print_json(result)
        return
    candidates.show_candidate(record, progress)
    states.show_decisions(decisions)


def front(
    study: Study,
    at_most: Annotated[
        list[str] | None,
        typer.Option(
            "--at-most",
            metavar="MEASURE=NUMBER",
            help="Only members up to this, e.g. activated_params=50k; may be repeated.",
            show_default=False,
        ),
    ] = None,
    at_least: Annotated[
        list[str] | None,
        typer.Option(
            "--at-least",
            metavar="MEASURE=NUMBER",
            help="Only members from this on, e.g. accuracy=0.9 or accuracy=90%; may be repeated.",
            show_default=False,
        ),
    ] = None,
    knee: Annotated[
        bool,
        typer.Option(
            "--knee",
            help="Only the member at the knee: a little more of one objective costs much of another from there on.",
        ),
    ] = False,
    so_far: Annotated[
        bool,
        typer.Option(
            "--so-far",
            help="Count candidates that are paused or in training with what they reported last.",
        ),
    ] = False,
    storage: Storage = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Show the Pareto front of a study, the smallest design first."""
    from dynamoe_search.cli import fronts, screens
    from dynamoe_search.errors import UsageError
    from dynamoe_search.store import Store, answers

    if as_json and as_csv:
        raise UsageError("--json and --csv cannot be had together; choose one")
    highest = [bound(text) for text in at_most or ()]
    lowest = [bound(text) for text in at_least or ()]
    with Store.open(storage, create=False) as store:

        def read() -> tuple[list[CandidateRecord], list["Provisional"], list[FrontMember]]:
            known = store.candidates(study, status=("complete", "paused", "running"))
            standing = store.front_so_far(study) if so_far else []
            everyone = [one.member for one in standing] if so_far else store.front(study)
            return known, standing, everyone

        record = store.study(study)
        known, standing, everyone = store.at_one_moment(read)
    members = answers.within(everyone, highest, lowest)
    if knee:
        members = answers.knee(members, record.objectives, record.maximise)
    trained = {one.member.trial: one for one in standing}
    if as_json or as_csv:
        rows = [answers.front_row(member) for member in members]
        for row in rows if so_far else ():
            one = trained[row["trial"]]
            row |= {"epochs": one.epochs, "is_complete": one.is_complete}
        _write_csv(rows) if as_csv else screens.print_json(rows)
    elif members:
        epochs = {trial: one.epochs for trial, one in trained.items()}
        fronts.show_front(members, record.objectives, known, epochs)
    else:
        say(f"{study}: {_why_empty(everyone, known, so_far=so_far)}")


def _why_empty(
    everyone: Sequence[FrontMember], known: Sequence[CandidateRecord], *, so_far: bool
) -> str:
    """Returns why no member of a front is shown, and how to see those who may become one."""
    if everyone:
        return "no member of the front keeps these bounds"
    waiting = [one for one in known if one.status != "complete" and one.epochs]
    if so_far or not waiting:
        return "the front is empty so far"
    num = len(waiting)
    return (
        "the front is empty so far: nobody has been trained to the end; "
        f"{num} {'is' if num == 1 else 'are'} on the way, see --so-far"
    )


def _write_csv(rows: Sequence[dict[str, Any]]) -> None:
    """Writes one line per member; lists are joined by spaces, tables become columns such as params.router.k."""
    flat = []
    for row in rows:
        line: dict[str, Any] = {}
        for name, value in row.items():
            if isinstance(value, dict):
                line |= {f"{name}.{key}": item for key, item in value.items()}
            else:
                line[name] = " ".join(map(str, value)) if isinstance(value, list) else value
        flat.append({printable(name): _csv_cell(value) for name, value in line.items()})
    columns = list(dict.fromkeys(name for line in flat for name in line))
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)


def _csv_cell(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def export(
    study: Study,
    trial: Trial,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder to write.", show_default=False)
    ],
    storage: Storage = None,
    trust_code: TrustCode = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a candidate's weights (safetensors), config and model card to a folder."""
    from dynamoe_search.store import Store
    from dynamoe_search.store.answers import require_model

    with Store.open(storage, create=False) as store:
        record = store.candidate(study, trial)  # before loading torch
        require_model(record, study)
        check_folder(out)
        epochs = record.candidate.train.epochs
        is_text = record.outcome is not None and "perplexity" in record.outcome.metrics

        from dynamoe_search.cli import candidates, screens
        from dynamoe_search.cli.interrupts import all_or_nothing
        from dynamoe_search.cli.progress import watching_epochs
        from dynamoe_search.search import export_candidate

        with all_or_nothing() as should_stop:
            exported = export_candidate(
                store,
                study,
                trial,
                out,
                trust_code=trust_code,
                on_event=watching_epochs(epochs, quiet, is_text=is_text),
                should_stop=should_stop,
            )
    if as_json:
        screens.print_json({**asdict(exported), "folder": str(exported.folder)})
        return
    origin = "trained again" if exported.is_retrained else "weights of the study"
    say(f"{out}: {quality_words(exported.metrics)} on the validation part ({origin})")
    candidates.show_loading(out, is_text=is_text, trust_code=trust_code)


COMMANDS: dict[str, Any] = {"show": show, "front": front, "export": export}
