"""Commands about designs and study files: check, presets, schema, schedules, train."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dynamoe_search.cli.options import (
    AsJson,
    Changes,
    Device,
    Quiet,
    StudyFile,
    Threads,
    TrustCode,
    check_folder,
)
from dynamoe_search.wording import counted


def check(
    file: StudyFile,
    changes: Changes = None,
    device: Device = "auto",
    measure: Annotated[
        bool,
        typer.Option("--measure/--no-measure", help="Train a few steps to estimate the time."),
    ] = True,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Check a study file and estimate trials, time, memory and disk."""
    from dynamoe_search.cli import estimates, screens
    from dynamoe_search.presets import read_study

    loaded = read_study(file, changes or ())  # before anything that loads torch

    from dynamoe_search.data import find_data
    from dynamoe_search.search import estimate

    where = find_data(loaded.spec.data)
    expected = estimate(
        loaded.spec, trust_code=trust_code, measure=measure and where is not None, device=device
    )
    if as_json:
        screens.print_json(
            {
                "ok": True,
                "file": file,
                "problems": [],
                "name": loaded.spec.study.name,
                "data": loaded.spec.data.name,
                "data_found": where,
                **asdict(expected),
            }
        )
    else:
        estimates.show_estimate(file, loaded.spec, where, expected)


def presets(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[PRESET]", help="Print this preset's text.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the studies that come with the program, or print one so that it can be copied."""
    from dynamoe_search import presets as library
    from dynamoe_search.cli import screens

    if name is not None:
        text = library.preset_text(name)
        if as_json:
            screens.print_json({"name": name, "text": text})
        else:
            typer.echo(text, nl=not text.endswith("\n"))
        return
    found = library.presets()
    if as_json:
        screens.print_json([asdict(preset) for preset in found])
        return
    rows = [(one.name, one.data, one.trials, one.epochs, one.question) for one in found]
    console = screens.console()
    console.print(screens.table(["preset", "data", "trials", "epochs", "question"], rows))
    console.print("\nrun one:   dynamoe-search run digits", markup=False)
    console.print("copy one:  dynamoe-search presets digits > my-study.toml", markup=False)


def schema(as_json: AsJson = True) -> None:  # noqa: ARG001 - the schema is JSON anyway
    """Print the JSON schema of study files, for editors that complete and check TOML."""
    from dynamoe_search.cli import screens
    from dynamoe_search.presets import json_schema

    screens.print_json(json_schema())


def schedules(
    layers: Annotated[int, typer.Option("--layers", min=1, max=64, help="MoE layers.")] = 8,
    min_experts: Annotated[
        int, typer.Option("--min-experts", min=1, max=256, help="Experts where it is lowest.")
    ] = 2,
    max_experts: Annotated[
        int, typer.Option("--max-experts", min=1, max=256, help="Experts where it is highest.")
    ] = 8,
    ramp: Annotated[
        Literal["linear", "cosine", "quadratic"],
        typer.Option("--ramp", help="How the number rises and falls."),
    ] = "linear",
    cycles: Annotated[int, typer.Option("--cycles", min=1, max=16, help="Periods of a wave.")] = 1,
    match: Annotated[
        Literal["max", "total"],
        typer.Option(
            "--match",
            help="What all shapes have alike: the highest number (max), or the sum over the layers (total).",
        ),
    ] = "max",
    total: Annotated[
        int | None,
        typer.Option("--total", min=1, help="That sum, with --match total.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw how many experts each layer has, for every shape of schedule."""
    from dynamoe_search.cli import pictures, screens
    from dynamoe_search.errors import UsageError
    from dynamoe_search.moe.schedules import SHAPES, experts_per_layer
    from dynamoe_search.records import ScheduleConfig

    if total is not None and match != "total":
        raise UsageError("--total is used only with --match total")
    counts = {
        shape: experts_per_layer(
            ScheduleConfig(
                shape=shape,
                min_experts=min_experts,
                max_experts=max_experts,
                ramp=ramp,
                cycles=cycles,
                match=match,
                total_experts=total,
            ),
            layers,
        )
        for shape in SHAPES
    }
    if as_json:
        screens.print_json(
            [
                {"shape": shape, "experts_per_layer": list(numbers), "total_experts": sum(numbers)}
                for shape, numbers in counts.items()
            ]
        )
        return
    highest = max(max(numbers) for numbers in counts.values())
    for shape, numbers in counts.items():
        drawing = pictures.bars(numbers, highest)
        lines = ["", shape, counted(sum(numbers), "expert")][-len(drawing) :]
        for label, picture in zip(lines, drawing, strict=True):
            typer.echo(f"{label:14}{picture}".rstrip())
        typer.echo(" " * 14 + " ".join(f"{number:<2}" for number in numbers).rstrip() + "\n")


def train(
    file: StudyFile,
    changes: Changes = None,
    device: Device = "auto",
    threads: Threads = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write the trained model to this folder.", show_default=False),
    ] = None,
    trust_code: TrustCode = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train the one architecture that a study file describes; every value in it must be fixed."""
    import json

    from dynamoe_search.cli import candidates, screens
    from dynamoe_search.presets import read_study
    from dynamoe_search.specs.vocabulary import TEXT_NAMES

    loaded = read_study(file, changes or ())  # before anything that loads torch
    if out is not None:
        check_folder(out)
    is_text = loaded.spec.data.name in TEXT_NAMES

    from dynamoe_search.cli.interrupts import all_or_nothing
    from dynamoe_search.cli.progress import watching_epochs
    from dynamoe_search.records import to_json
    from dynamoe_search.search import train_one
    from dynamoe_search.training.export import save_model

    with all_or_nothing() as should_stop:
        trained = train_one(
            loaded.spec,
            device=device,
            num_threads=threads,
            trust_code=trust_code,
            on_event=watching_epochs(loaded.spec.train.epochs, quiet, is_text=is_text),
            should_stop=should_stop,
        )
    if out is not None:
        save_model(out, trained.config, trained.state, trained.tokenizer)
    if as_json:
        result = {
            "candidate": json.loads(to_json(trained.candidate)),
            "outcome": json.loads(to_json(trained.outcome)),
            "folder": None if out is None else str(out),
        }
        screens.print_json(result)
        return
    candidates.show_outcome(trained.outcome)
    if out is not None:
        candidates.show_loading(out, is_text=is_text, trust_code=trust_code)


COMMANDS: dict[str, Any] = {
    "check": check,
    "presets": presets,
    "schema": schema,
    "schedules": schedules,
    "train": train,
}
