"""The `dynamoe-search` program: its commands, and the one place where errors become a line and an exit code.

Exit codes: 0 done, 1 failed or stopped, 2 wrong usage or input, 3 the device failed.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dynamoe_search import __version__
from dynamoe_search.cli import (
    audit,
    confirm,
    crew,
    dashboard,
    designs,
    language,
    machine,
    report,
    results,
    searches,
    studies,
    watching,
)
from dynamoe_search.cli.streams import mask_stderr
from dynamoe_search.cli.words import printable
from dynamoe_search.errors import DynamoeError

PROGRAM = "dynamoe-search"


class Commands(TyperGroup):
    """A group of commands whose errors are one line each on stderr."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accepts `--debug` behind the command as well, where people add it after something went wrong."""
        if "--debug" in args:
            args = ["--debug", *(arg for arg in args if arg != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Runs a command and turns what it raises into a message and an exit code."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)
            raise typer.Exit(1) from None
        except DynamoeError as error:
            _show_trace(ctx)
            for line in str(error).split("\n"):
                typer.echo(f"error: {printable(line)}", err=True)
            raise typer.Exit(error.exit_code) from error
        except OSError as error:  # a full disk, a folder that went away
            _show_trace(ctx)
            typer.echo(f"error: {printable(str(error))}", err=True)
            raise typer.Exit(1) from error
        except Exception as error:  # the program's last line of defence: nobody wants a bare trace
            _show_trace(ctx)
            text = printable(" ".join(str(error).split()))
            typer.echo(
                f"internal error: {type(error).__name__}: {text} (run with --debug to see where)",
                err=True,
            )
            raise typer.Exit(1) from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs the program; wrong options and arguments are told in one line, with where to find help."""
        if (args is not None and not args) or (args is None and len(sys.argv) == 1):
            args = ["--help"]
        try:
            code = super().main(
                args, prog_name or PROGRAM, complete_var, False, windows_expand_args, **extra
            )
        except typer.TyperException as error:
            from dynamoe_search.cli.bad_values import words_of

            message = printable(" ".join(words_of(error).split()))
            typer.echo(f"error: {message} {_where_help_is(error)}", err=True)
            code = error.exit_code
        except typer.Abort:
            typer.echo("stopped", err=True)
            code = 1
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)


def _where_help_is(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else PROGRAM
    return f"(see {command} --help)"


def _show_trace(ctx: Any) -> None:
    if ctx.params.get("debug"):
        traceback.print_exc()


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
    ("This machine", machine),
):
    for name, command in module.COMMANDS.items():
        app.command(name, rich_help_panel=panel)(command)


def main() -> None:
    """Runs the program with the arguments of this process."""
    # Threads of torch that wait by spinning slow a training down tenfold when another program wants the core.
    # It must be set before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    mask_stderr()
    app(prog_name=PROGRAM)
