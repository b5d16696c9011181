"""The command that tells what studies found: report."""

import re
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from dynamoe_search.cli.options import AsJson, Storage


def report(
    names: Annotated[
        list[str],
        typer.Argument(metavar="STUDY...", help="Name of the study.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder to write; an earlier report in it is replaced. Default: STUDY-report.",
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Set two studies or more side by side.")
    ] = False,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Write a page with pictures, and the figures and tables as files."""
    from dynamoe_search.errors import UsageError
    from dynamoe_search.report.extra import require

    if len(names) > 1 and not compare:
        raise UsageError(f"got {len(names)} studies; add --compare to set them side by side")
    if compare and len(set(names)) < max(2, len(names)):
        raise UsageError("--compare needs two or more different studies")
    require()

    from dynamoe_search.store import Store

    folder = out or Path(re.sub(r"[^\w.-]+", "-", "-".join([*names, "report"])).lstrip("."))
    with Store.open(storage, create=False) as store:
        for name in names:
            store.study(name)  # before anything that takes time

        from dynamoe_search.report.writing import write_comparison, write_report

        write = (
            partial(write_comparison, names=names)
            if compare
            else partial(write_report, name=names[0])
        )
        files = write(store, out=folder)
    if as_json:
        from dynamoe_search.cli import screens

        content = [str(path.relative_to(folder)) for path in files]
        screens.print_json({"page": str(files[0]), "folder": str(folder), "files": content})
        return
    typer.echo(
        f"{files[0]}: open it in a browser; {len(files) - 1} files beside it: figures, tables, study file"
    )


COMMANDS: dict[str, Any] = {"report": report}
