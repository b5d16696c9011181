"""The command that looks on while a study is searched, by this machine or others: watch."""

import signal
import time
from collections import deque
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dynamoe_search.cli.options import Storage, Study, finite

if TYPE_CHECKING:  # loads Optuna
    from rich.console import Console, RenderableType

    from dynamoe_search.store import Overview, Store

_RATE_SECONDS = 60.0  # speed is that of the last minute
_LOCK_SECONDS = 2.0  # after so long a locked database is told, and asked again


def watch(
    study: Study,
    interval: Annotated[
        float,
        typer.Option(
            "--interval",
            metavar="SECONDS",
            min=0.1,
            max=3600.0,
            callback=finite,
            help="Seconds from one look to the next.",
        ),
    ] = 1.0,
    once: Annotated[
        bool,
        typer.Option(
            "--once", help="Print one picture and end; so it is where the output is no terminal."
        ),
    ] = False,
    storage: Storage = None,
) -> None:
    """Watch a study live, whoever works on it and wherever: front, training, rungs, budget, what happened.

    It only reads the database. It ends with the study, or with Ctrl-C, which does nothing to the study.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # the terminal is put right
    try:
        from dynamoe_search.cli import screens

        out = screens.console()
        if once or not out.is_terminal:
            _look_once(out, study, storage)
        else:
            _look_on(out, study, storage, interval)
    except KeyboardInterrupt:
        raise typer.Exit from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _look_once(out: "Console", study: str, storage: str | None) -> None:
    from dynamoe_search.cli.frames import frame
    from dynamoe_search.store import Store

    with Store.open(storage, create=False) as store:
        view = store.overview(study)
    height = out.height if out.is_terminal else _LINES
    out.print(frame(view, width=out.width, height=height, note=_note(view)))


_LINES = 40  # of a picture that is not for a terminal


def _look_on(out: "Console", study: str, storage: str | None, interval: float) -> None:
    """Shows the study until it is over; the last picture stays on the terminal."""
    from rich.live import Live
    from rich.text import Text

    from dynamoe_search.cli.pace import is_over

    look = _Look(out, study, storage)
    picture: RenderableType = Text("reading the database")
    try:
        with Live(picture, console=out, screen=True, auto_refresh=False) as live:
            while True:
                picture = look.picture()
                live.update(picture, refresh=True)
                if look.view is not None and is_over(look.view):
                    break
                time.sleep(interval)
    finally:
        look.close()
    out.print(picture)


class _Look:
    """Reads a study again and again, and waits for a database that is locked or out of reach."""

    def __init__(self, out: "Console", study: str, storage: str | None) -> None:
        self.view: Overview | None = None
        self._out, self._study, self._storage = out, study, storage
        self._store: Store | None = None
        self._seen: deque[tuple[float, int]] = deque()

    def picture(self) -> "RenderableType":
        """Returns the study as it is now, or as it was and what is in the way."""
        from rich.text import Text

        from dynamoe_search.cli.frames import frame
        from dynamoe_search.cli.words import printable
        from dynamoe_search.store import PassingError

        note = ""
        try:
            self.view = self._read()
        except PassingError as error:
            note = f"waiting: {error}"
        if self.view is None:
            return Text(printable(note))
        width, height = self._out.size
        note = note or _note(self.view)
        return frame(self.view, width=width, height=height, rate=self._rate(), note=printable(note))

    def close(self) -> None:
        """Closes the database."""
        if self._store is not None:
            self._store.close()

    def _read(self) -> "Overview":
        from dynamoe_search.store import Store

        if self._store is None:
            self._store = Store.open(
                self._storage, create=False, busy_timeout_seconds=_LOCK_SECONDS
            )
        view = self._store.overview(self._study)
        now = time.monotonic()
        self._seen.append((now, view.spent.epochs))
        while now - self._seen[0][0] > _RATE_SECONDS:
            self._seen.popleft()
        return view

    def _rate(self) -> float | None:
        """Candidate-epochs a second in the last minute, None if none were seen."""
        (start, before), (end, epochs) = self._seen[0], self._seen[-1]
        return (epochs - before) / (end - start) if epochs > before else None


def _note(view: "Overview") -> str:
    if view.record.state in ("created", "interrupted") and not view.workers:
        return "nobody works on it now; the command resume goes on"
    return ""


COMMANDS: dict[str, Any] = {"watch": watch}
