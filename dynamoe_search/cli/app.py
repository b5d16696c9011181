"""The `dynamoe-search` program: its commands, and the one place where errors become a line and an exit code.

What is said, and with which exit code, is in `complaints`.
"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dynamoe_search import __version__
from dynamoe_search.cli import (
    audit,
    bench,
    confirm,
    crew,
    dashboard,
    designs,
    doctor,
    garbage,
    language,
    report,
    results,
    searches,
    studies,
    watching,
)
from dynamoe_search.cli.complaints import FAILED, INTERRUPTED, tell
from dynamoe_search.cli.streams import mask_stderr
from dynamoe_search.errors import StoppedError

PROGRAM = "dynamoe-search"


class Commands(TyperGroup):
    """A group of commands whose errors are one line each on stderr."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accepts `--debug` behind the command as well, where people add it after something went wrong."""
        if "--debug" in args:
            args = ["--debug", *(arg for arg in args if arg != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Runs a command; Ctrl-C where it means nothing else ends it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise StoppedError("stopped", exit_code=INTERRUPTED) from None

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs the program, and turns what it raises into a message and an exit code."""
        words = sys.argv[1:] if args is None else list(args)
        if not words:
            args = ["--help"]
        program = prog_name or PROGRAM
        try:
            code = super().main(args, program, complete_var, False, windows_expand_args, **extra)
            sys.stdout.flush()  # what is written at the end of the process, nobody could tell of
        except BrokenPipeError:
            code = FAILED
        except Exception as error:  # noqa: BLE001 - the last line of defence: nobody wants a bare trace
            code = tell(
                error,
                program=program,
                as_json="--json" in words,
                with_trace="--debug" in words,
            )
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    name=PROGRAM,
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Searches Mixture-of-Experts architectures: accuracy against activated parameters.",
    epilog="Start with:  dynamoe-search run digits",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where in the program an error came from.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Options of all commands; what they do happens in `Commands` and in their callbacks."""


for panel, module in (
    ("Studies", searches),
    ("Studies", studies),
    ("Studies", crew),
    ("Studies", watching),
    ("Results", results),
    ("Results", report),
    ("Results", confirm),
    ("Results", audit),
    ("Results", language),
    ("Results", dashboard),
    ("Designs", designs),
    ("This machine", doctor),
    ("This machine", bench),
    ("This machine", garbage),
):
    for name, command in module.COMMANDS.items():
        app.command(name, rich_help_panel=panel)(command)


def main() -> None:
    """Runs the program with the arguments of this process."""
    # Threads of torch that wait by spinning slow a training down tenfold when another program wants the core.
    # It must be set before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _make_writable()
    mask_stderr()
    try:
        app(prog_name=PROGRAM)
    finally:  # nothing is left to do, so nothing that happens from now on is worth a trace
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _let_go()


def _make_writable() -> None:
    """Lets everything be written, also where there is no stdout, or it has few characters."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who started the process
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - for good
        elif stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="replace")


def _let_go() -> None:
    """Drops what cannot be written, or the end of the process would complain about it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
