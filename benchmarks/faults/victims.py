"""Processes that are killed: forked from one that has imported everything, with a trap at a chosen point.

Nothing in the product knows of the traps. The victim replaces functions in its own memory by ones that count their
calls and, at the chosen call, send SIGKILL to their own process.
"""

import contextlib
import functools
import importlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynamoe_search.search import weights
from dynamoe_search.store import Store, legs, optuna_rows, writing
from dynamoe_search.store.trials import Trials
from dynamoe_search.training import checkpoints, durable_files, state_files

Trap = Callable[[], None]


class Counter:
    """Counts, and kills its own process at a number.

    Args:
        deadly: The number; 0 never kills.
    """

    def __init__(self, deadly: int = 0) -> None:
        self.deadly, self.calls = deadly, 0

    def __call__(self) -> None:
        """Counts one more."""
        self.calls += 1
        if self.calls == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)


def _ignore(*_: Any, **__: Any) -> None:
    return


def wrap(
    owner: Any,
    name: str,
    *,
    before: Callable[..., None] = _ignore,
    after: Callable[..., None] = _ignore,
) -> None:
    """Has something called before and after a function, with its arguments.

    Args:
        owner: Module or class.
        name: Of the function in it.
        before: What is called first.
        after: What is called when the function has returned.
    """
    original = getattr(owner, name)

    @functools.wraps(original)
    def patched(*arguments: Any, **options: Any) -> Any:
        before(*arguments, **options)
        result = original(*arguments, **options)
        after(*arguments, **options)
        return result

    setattr(owner, name, patched)


def _always(trap: Trap) -> Callable[..., None]:
    return lambda *_, **__: trap()


def _before(owner: Any, name: str) -> Callable[[Trap], None]:
    return lambda trap: wrap(owner, name, before=_always(trap))


def _after(owner: Any, name: str) -> Callable[[Trap], None]:
    return lambda trap: wrap(owner, name, after=_always(trap))


def _renaming(part: str, moment: str) -> Callable[[Trap], None]:
    """Sets a trap around the rename of files below a folder of this name."""

    def install(trap: Trap) -> None:
        def look(path: Path, *_: Any) -> None:
            if part in path.parts:
                trap()

        if moment == "before":
            wrap(durable_files, "named", before=look)
        else:
            wrap(durable_files, "_sync_folder", before=look)

    return install


AT_FIRST = "a study half created"

POINTS: dict[str, dict[str, Callable[[Trap], None]]] = {
    "in an ask: Optuna's row written, ours not": {
        "before our rows": _before(writing, "insert_candidates"),
        "our rows not committed": _after(writing, "insert_candidates"),
    },
    "between the values and the mark: committed here, Optuna not told": {
        "before Optuna is told": _before(Trials, "finish"),
        "within the tell": _before(optuna_rows, "_set_states"),
        "told, not committed": _after(Trials, "finish"),
    },
    "in a rung's transaction": {
        "outcomes written": _after(writing, "write_ended"),
        "standings written, not committed": _after(legs, "close_leg"),
    },
    "in the rename of a candidate's checkpoint": {
        "before it": _renaming("candidates", "before"),
        "before the folder is synced": _renaming("candidates", "after"),
    },
    "in the rename of a leg's checkpoint": {
        "before it": _renaming("legs", "before"),
        "before the folder is synced": _renaming("legs", "after"),
    },
    "database committed, checkpoint not": {"epoch's reports": _after(Store, "add_progress")},
    "checkpoints written, transaction not begun": {
        "all of them": _before(Store, "close_leg"),
        "some of them": _after(state_files.StateFolder, "save"),
        "weights": _after(weights, "save"),
    },
    "elsewhere": {
        "a leg opened": _after(Store, "open_leg"),
        "a leg's checkpoint written": _after(checkpoints.CheckpointFolder, "write"),
        "before the front": _before(Store, "refresh_front"),
        "the front written": _after(Store, "refresh_front"),
        "the space found exhausted, not stored": _before(Store, "set_exhausted"),
        "the space found exhausted": _after(Store, "set_exhausted"),
        AT_FIRST: _after(writing, "insert_study"),
    },
}
"""Where to kill: the groups of the table, and the places of each."""
LEG_RENAME = "in the rename of a leg's checkpoint"


def fork(act: Callable[[], None]) -> int:
    """Starts a copy of this process that does something and exits; returns its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        act()
        os._exit(0)
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)
    except BaseException:  # noqa: BLE001 - nothing may come back into the parent's code
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(70)


def import_what_is_needed(act: Callable[[], None]) -> None:
    """Imports all modules that something needs, found out by a copy of this process, so that later copies have them.

    Args:
        act: What copies will do; this process does not, since it must stay without threads.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "modules.json"

        def list_modules() -> None:
            act()
            path.write_text(json.dumps(list(sys.modules)))

        assert wait(fork(list_modules)) == 0
        names = json.loads(path.read_text())
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def wait(child: int) -> int:
    """Returns how a process ended: its exit code, or minus the signal that killed it."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def kill_after(child: int, seconds: float) -> int:
    """Kills a process after a time, unless it has ended; returns how it ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    return wait(child)
