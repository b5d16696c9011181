"""Commands that search: run, resume."""

import json
import os
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dynamoe_search.cli.crew import AskedTeam, Devices, Engine, GpusPerWorker, Number, RayAddress
from dynamoe_search.cli.options import (
    STORAGE_VARIABLE,
    Changes,
    Device,
    Epochs,
    Logs,
    Quiet,
    Storage,
    Study,
    StudyFile,
    Threads,
    TimeBudget,
    Timeout,
    Trials,
    TrustCode,
    log_target,
)
from dynamoe_search.cli.waiting import check_files, opened
from dynamoe_search.cli.words import say
from dynamoe_search.errors import StoppedError

if TYPE_CHECKING:  # these load torch or Optuna
    from dynamoe_search.cli.teams import Team
    from dynamoe_search.records import FrontMember, StudyRecord
    from dynamoe_search.search import Limits, StudySummary
    from dynamoe_search.store import Store


def run(
    file: StudyFile,
    trials: Trials = None,
    timeout: Timeout = None,
    epochs: Epochs = None,
    time_budget: TimeBudget = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", help="Name of the study, instead of the file's.", show_default=False
        ),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    changes: Changes = None,
    workers: Number = None,
    devices: Devices = None,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    gpus_per_worker: GpusPerWorker = None,
    trust_code: TrustCode = False,
    storage: Storage = None,
    logs: Logs = None,
    quiet: Quiet = False,
) -> None:
    """Search: train candidates, and keep the Pareto front in the database."""
    from dynamoe_search.presets import read_study

    # What can be wrong is looked at before anything that loads torch, the cheapest first.
    asked = AskedTeam(engine, workers, devices, ray_address, gpus_per_worker).on(device)
    targets = [log_target(text) for text in logs or ()]
    overrides = list(changes or ())
    if trials is not None:
        overrides.append(f"study.trials={trials}")
    loaded = read_study(file, overrides, name)
    asked.check(quiet=quiet)
    with opened(storage, create=True, quiet=quiet) as store:
        store.require_free(loaded.spec.study.name)
        if asked.has_files_here:
            check_files(store, is_for_new=True, quiet=quiet)

        from dynamoe_search.cli.teams import assembled
        from dynamoe_search.search import Limits, create_study

        with assembled(store, asked, quiet=quiet) as team:
            study = create_study(
                store,
                loaded.spec,
                source=loaded.source,
                device=team.device(device) if team else device,
                num_threads=threads or (team.threads() if team else None),
                trust_code=trust_code,
                is_device_here=team is None or team.is_near,
            )
            limits = Limits(timeout_seconds=timeout, epochs=epochs, study_seconds=time_budget)
            options = {"trust_code": trust_code, "quiet": quiet}
            _search(store, study, storage, limits, team, targets, **options)


def resume(
    study: Study,
    trials: Trials = None,
    timeout: Timeout = None,
    epochs: Epochs = None,
    time_budget: TimeBudget = None,
    workers: Number = None,
    devices: Devices = None,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    gpus_per_worker: GpusPerWorker = None,
    trust_code: TrustCode = False,
    storage: Storage = None,
    logs: Logs = None,
    quiet: Quiet = False,
) -> None:
    """Go on with a study exactly where it was; several processes may do so at once and share the work.

    --trials, --epochs and --time-budget go further than was asked for.
    """
    asked = AskedTeam(engine, workers, devices, ray_address, gpus_per_worker)
    targets = [log_target(text) for text in logs or ()]
    asked.check(quiet=quiet)
    with opened(storage, create=False, quiet=quiet) as store:
        store.study(study)  # before anything that loads torch
        if asked.has_files_here:
            check_files(store, is_for_new=False, quiet=quiet)

        from dynamoe_search.cli.teams import assembled
        from dynamoe_search.search import Limits

        limits = Limits(
            trials=trials, timeout_seconds=timeout, epochs=epochs, study_seconds=time_budget
        )
        with assembled(store, asked, quiet=quiet) as team:
            options = {"trust_code": trust_code, "quiet": quiet}
            _search(store, study, storage, limits, team, targets, **options)


def _search(
    store: "Store",
    study: str,
    storage: str | None,
    limits: "Limits",
    team: "Team | None",
    logs: Sequence[tuple[str, str]],
    *,
    trust_code: bool,
    quiet: bool,
) -> None:
    """Runs a stored study, shows its front, and says what to do next."""
    from dynamoe_search.cli import fronts, states
    from dynamoe_search.cli.interrupts import stop_on_signals

    trust = ("--trust-code",) if trust_code else ()
    hint = f"go on with: {_command('resume', study, *trust, storage=storage)}"
    with stop_on_signals(hint) as flag, store.giving_up(flag):
        try:
            summary = _searched(
                store, study, storage, limits, team, logs, flag, trust_code=trust_code, quiet=quiet
            )
        except StoppedError as error:
            message = f"{error}\nstopped; {hint}"
            raise StoppedError(message, exit_code=flag.exit_code) from None
    record = store.study(study)
    if summary.front and summary.reason != "interrupt":
        fronts.show_front(
            summary.front, record.objectives, store.candidates(study, status=("complete",))
        )
    states.show_summary(summary)
    if summary.reason in ("interrupt", "stop"):
        raise StoppedError(f"stopped; {hint}", exit_code=flag.exit_code)
    _suggest(summary, record, storage, trust)


def _quality(member: "FrontMember") -> float:
    """Returns by what the best of a front is chosen: accuracy, or the loss where that is what counts."""
    from dynamoe_search.confirmation import measure_of

    measure = measure_of(tuple(member.values))
    return measure.gain(member.metrics.get(measure.value_name, 0.0), 0.0)


def _searched(
    store: "Store",
    study: str,
    storage: str | None,
    limits: "Limits",
    team: "Team | None",
    logs: Sequence[tuple[str, str]],
    should_stop: Callable[[], bool],
    *,
    trust_code: bool,
    quiet: bool,
) -> "StudySummary":
    """Runs a stored study in this process, or with a team, until somebody asks it to stop."""
    from dynamoe_search.cli import crews
    from dynamoe_search.cli.logs import logging_to
    from dynamoe_search.cli.progress import watching
    from dynamoe_search.search import run_study

    if team:
        return crews.search(
            store,
            study,
            storage,
            team,
            limits,
            logs,
            should_stop=should_stop,
            trust_code=trust_code,
            quiet=quiet,
        )
    with watching(quiet) as view, logging_to(store, study, logs, view) as on_event:
        return run_study(
            store,
            study,
            limits=limits,
            on_event=on_event,
            should_stop=should_stop,
            trust_code=trust_code,
        )


def _suggest(
    summary: "StudySummary", record: "StudyRecord", storage: str | None, trust: tuple[str, ...]
) -> None:
    """Prints the commands that make sense now, with the option that the user trusts the study's code with."""
    name = summary.name
    lines = []
    resume = ("resume", name, *trust)
    if summary.reason == "epochs":
        more = _more_epochs(summary, record)
        lines.append(_command(*resume, "--epochs", more, storage=storage))
    elif summary.reason == "time-budget":
        more_time = f"{2 * round(record.max_seconds or 1)}s"
        lines.append(_command(*resume, "--time-budget", more_time, storage=storage))
    elif summary.state != "finished":
        lines.append(_command(*resume, storage=storage))
    elif summary.reason == "trials" and record.purpose == "search":
        lines.append(_command(*resume, "--trials", 2 * summary.trials, storage=storage))
    if summary.front:
        best = max(summary.front, key=_quality)
        lines.append(_command("front", name, "--knee", storage=storage))
        lines.append(_command("show", name, best.trial, storage=storage))
        out = ("--out", f"{name}-{best.trial}")
        lines.append(_command("export", name, best.trial, *out, *trust, storage=storage))
    elif summary.paused:
        lines.append(_command("front", name, "--so-far", storage=storage))
    typer.echo("\nnext:")
    for line in lines:
        say(f"  {line}")


def _more_epochs(summary: "StudySummary", record: "StudyRecord") -> int:
    """Returns twice the budget of epochs, or more if that would not pay for a candidate."""
    one_candidate = int(json.loads(record.spec_json)["train"]["epochs"])
    return max(2 * (record.max_epochs or 0), summary.epochs + one_candidate)


def _command(*words: object, storage: str | None) -> str:
    """Returns a command of this program as it would be typed; passwords are not repeated."""
    from dynamoe_search.store import masked

    is_known = storage is None or storage == os.environ.get(STORAGE_VARIABLE)
    more = () if is_known else ("--storage", masked(str(storage)))
    return shlex.join(["dynamoe-search", *(str(word) for word in words), *more])


COMMANDS: dict[str, Any] = {"run": run, "resume": resume}
