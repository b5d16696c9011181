"""Commands about whole studies: stop, delete, list, status."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dynamoe_search.cli.complaints import FAILED, INTERRUPTED
from dynamoe_search.cli.options import AsJson, Storage, Study
from dynamoe_search.cli.words import ago, say
from dynamoe_search.errors import StoppedError
from dynamoe_search.wording import counted

if TYPE_CHECKING:  # these load torch or Optuna
    from dynamoe_search.records import CandidateRecord, RungDecision, StudyRecord


def stop(study: Study, storage: Storage = None) -> None:
    """Ask a running study, from another terminal, to stop after its current step."""
    from dynamoe_search.cli import states
    from dynamoe_search.store import Store

    with Store.open(storage, create=False) as store:
        record = store.study(study)
        if record.state != "running":
            say(f"{study} is not running ({record.state}); there is nothing to stop")
            return
        workers = store.workers(study)
        store.request_stop(study)
    say(f"{study} ({states.worker_words(workers)}) stops after its current step")


def delete(
    study: Study,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    storage: Storage = None,
) -> None:
    """Delete a study with all of its results and files."""
    from dynamoe_search.store import Store

    with Store.open(storage, create=False) as store:
        record = store.study(study)
        candidates = record.num_complete + record.num_failed + record.num_stopped
        children = store.children(study)
        if not yes:
            more = f", and what was made from it: {', '.join(children)}" if children else ""
            question = f"Delete {study} with its {counted(candidates, 'candidate')}{more}?"
            try:
                code = 0 if typer.confirm(question, err=True) else FAILED
            except typer.Abort as abort:  # nobody there to answer, or Ctrl-C
                typer.echo(err=True)
                code = INTERRUPTED if isinstance(abort.__context__, KeyboardInterrupt) else FAILED
            if code:
                message = "not deleted; --yes deletes without asking"
                raise StoppedError(message, exit_code=code)
        store.delete_study(study)
    say(f"deleted {', '.join([study, *children])}")


def list_studies(storage: Storage = None, as_json: AsJson = False) -> None:
    """List all studies."""
    from dynamoe_search.cli import screens
    from dynamoe_search.store import Store

    # Nobody is wrong to ask before the first study, so the default database may be made here.
    with Store.open(storage, create=storage is None) as store:
        records = store.studies()
        url = store.url
    if as_json:
        screens.print_json([_study_row(record) for record in records])
    elif records:
        _show_studies(records)
    else:
        say(f"no studies in {url}; start with: dynamoe-search run digits")


def _show_studies(records: "Sequence[StudyRecord]") -> None:
    """Prints one line per study."""
    from dynamoe_search.cli.screens import console, table

    rows = [
        (
            record.name,
            record.purpose,
            record.state,
            f"{record.num_complete + record.num_failed + record.num_stopped}/{record.trials}",
            record.num_failed,
            record.num_front,
            ago(record.updated_at),
        )
        for record in records
    ]
    console().print(
        table(
            ["study", "purpose", "state", "candidates", "failed", "on the front", "updated"], rows
        )
    )


def _study_row(record: "StudyRecord") -> dict[str, Any]:
    """Returns a study as plain values under stable names."""
    return {
        "name": record.name,
        "state": record.state,
        "purpose": record.purpose,
        "parent": record.parent,
        "trials": record.trials,
        "complete": record.num_complete,
        "failed": record.num_failed,
        "stopped": record.num_stopped,
        "running": record.num_running,
        "paused": record.num_paused,
        "front": record.num_front,
        "objectives": list(record.objectives),
        "source": record.source,
        "device": record.settings.device,
        "is_stop_requested": record.is_stop_requested,
        "host": record.host,
        "pid": record.pid,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }


def status(study: Study, storage: Storage = None, as_json: AsJson = False) -> None:
    """Show where a study stands: what is done, what failed, what runs, how it was set up."""
    from dynamoe_search.cli import screens, states
    from dynamoe_search.records import to_json
    from dynamoe_search.store import Store

    with Store.open(storage, create=False) as store:
        record = store.study(study)
        spent = store.spent(study)
        workers = store.workers(study)
        failures = store.candidates(study, status=("failed",))
        pruned = store.candidates(study, status=("stopped",))
        waiting = store.candidates(study, status=("paused",))
        paused = states.latest(store.decisions(study), {one.trial for one in waiting})
        files = store.files_of(study)
        url, times = store.url, store.times(study)
    if as_json:
        screens.print_json(
            {
                **_study_row(record),
                "spent": json.loads(to_json(spent)),
                "times": times,
                "workers": [json.loads(to_json(one)) for one in workers if one.is_alive],
                "settings": json.loads(to_json(record.settings)),
                "failures": [
                    {"trial": one.trial, "reason": one.reason, "message": one.message}
                    for one in failures
                ],
                "pruned": [{"trial": one.trial, "message": one.message} for one in pruned],
                "paused_trials": [_waiting_row(one, paused) for one in waiting],
                "storage": url,
                "files": str(files),
                "spec": json.loads(record.spec_json),
            }
        )
        return
    rows = states.StatusRows(failures=failures, pruned=pruned, paused=waiting, decisions=paused)
    states.show_status(record, workers, spent, times, rows, url, str(files))


def _waiting_row(record: "CandidateRecord", decisions: Sequence["RungDecision"]) -> dict[str, Any]:
    """Returns a candidate that waits, with the latest decision on it; references have none."""
    from dynamoe_search.records import to_json

    found: dict[str, Any] = next(
        (json.loads(to_json(one)) for one in decisions if one.trial == record.trial), {}
    )
    return {
        "trial": record.trial,
        "epochs": record.epochs,
        "reference": record.candidate.reference,
        **found,
    }


COMMANDS: dict[str, Any] = {
    "list": list_studies,
    "status": status,
    "stop": stop,
    "delete": delete,
}
