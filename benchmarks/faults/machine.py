"""Faults of the machine, one by one, with the real program: what it says, how it ends, and what `resume` makes of it.

    python -m benchmarks.faults.machine > benchmarks/faults/results/machine_2-cores.md

Full disks and read-only file systems are made with `mount`, which needs root; clocks are moved with libfaketime. What
is not possible here is said to be skipped. After each fault the study is resumed and compared, bit for bit, with the
same study that nothing happened to.
"""

import argparse
import json
import os
import platform
import re
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from benchmarks.faults import victims
from benchmarks.faults.machine_signals import signal_rows
from benchmarks.faults.sites import Ended, Row, Site, fill, make_room, mount, mounted, unmount
from benchmarks.faults.small_studies import by_ordinal, quick_study, shared_study, small_studies
from dynamoe_search.search import run_study, weights
from dynamoe_search.store import writing
from dynamoe_search.training import checkpoints, state_files

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
NEEDS_ROOT = "mounting is not allowed here"
_LEGS = "SELECT count(*) FROM dynamoe_legs"
Places = dict[str, tuple[Any, str, bool]]
FULL: Places = {
    "the database": (writing, "write_ended", False),
    "a candidate's checkpoint": (state_files.StateFolder, "save", False),
    "a leg's checkpoint": (checkpoints.CheckpointFolder, "write", True),
    "a model's weights": (weights, "save", False),
}
"""What is written when the disk is full: the function, and whether the program goes on without it."""


class Machine:
    """Does things to a machine, and to small studies on it.

    Args:
        folder: For everything.
        long_seconds: How long a database is locked.
        gone_seconds: How long a storage is away.
        is_quick: Fewer faults, a smaller study, and the command in forked processes where that will do.
    """

    def __init__(
        self, folder: Path, long_seconds: float, gone_seconds: float, *, is_quick: bool
    ) -> None:
        self._folder, self._long_seconds, self._gone_seconds = folder, long_seconds, gone_seconds
        self._study = quick_study() if is_quick else small_studies()[0]
        self._is_quick = is_quick
        self._room_kilobytes = (256,) if is_quick else (64, 256, 512)
        reference = self._site(None)
        reference.create()
        assert victims.wait(victims.fork(lambda: self._study.run(reference.url))) == 0
        self._expected = reference.found()

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder))

    def _site(self, expected: dict[str, Any] | None) -> Site:
        return Site(self._new_folder(), self._study, expected, is_forked=self._is_quick)

    def faults(self) -> dict[str, Callable[[], Row]]:
        """Returns what can be tried, by a short name."""
        found: dict[str, Callable[[], Row]] = {
            f"full disk, {what}": partial(self._full_disk, what) for what in FULL
        }
        for kilobytes in self._room_kilobytes:
            found[f"full disk, {kilobytes} kB"] = partial(self._full_disk_anywhere, kilobytes)
        found |= {
            "locked": self._locked,
            "read-only": self._read_only,
            "missing": self._missing,
            "corrupt": self._corrupt,
            "newer": self._newer,
            "checkpoints": self._corrupt_checkpoints,
            "moved away": self._moved_away,
            "unmounted": self._unmounted,
        }
        if not self._is_quick:
            found["clock set back"] = self._clock_set_back
            found["clocks that differ"] = self._clocks_that_differ
        return found

    # Full disks

    def _full_disk(self, what: str) -> Row:
        row = Row(fault=f"disk full when {what} is written")
        owner, name, goes_on = FULL[what]
        with self._on_small_disk(row) as site:
            if site is None:
                return row

            def prepare() -> None:
                assert run_study.__kwdefaults__ is not None
                run_study.__kwdefaults__["checkpoint_seconds"] = 0.0  # the command has 30
                counter = victims.Counter()

                def before(*_: Any, **__: Any) -> None:
                    counter()
                    if counter.calls == 3:
                        fill(site.folder)

                def after(*_: Any, **__: Any) -> None:
                    if goes_on:
                        make_room(site.folder)

                victims.wrap(owner, name, before=before, after=after)

            ended = site.resume_with(prepare)
            make_room(site.folder)
            _judge(row, ended, (0,) if goes_on else (1, 2), "no checkpoint" if goes_on else "")
            _finish(row, site)
        return row

    def _full_disk_anywhere(self, kilobytes: int) -> Row:
        row = Row(fault=f"disk with {kilobytes} kB left, wherever that ends")
        with self._on_small_disk(row) as site:
            if site is not None:
                fill(site.folder, kilobytes * 1024)
                ended = site.resume()
                make_room(site.folder)
                _judge(row, ended, (1, 2), "")
                _finish(row, site)
        return row

    @contextmanager
    def _on_small_disk(self, row: Row) -> Iterator[Site | None]:
        folder = self._new_folder()
        with mounted(folder, "8m") as is_there:
            if not is_there:
                row.skipped = NEEDS_ROOT
                yield None
                return
            site = Site(folder, self._study, self._expected, is_forked=self._is_quick)
            site.create()
            yield site

    # The database

    def _half_done(self) -> Site:
        """Returns a study that was killed amid a transaction."""
        site = self._site(self._expected)
        site.kill_at("in a rung's transaction", "outcomes written", 2)
        return site

    def _locked(self) -> Row:
        row = Row(fault=f"database locked for {self._long_seconds:.0f} s by another program")
        site = self._site(self._expected)
        site.create()
        running = site.start()
        site.wait_for(_LEGS, 2, running)
        _lock(site.file, self._long_seconds)
        if not running.is_alive:
            row.problems.append("it ended before the lock did")
        _judge(row, running.wait(), (0,), "")
        row.problems += site.differing()
        return row

    def _read_only(self) -> Row:
        row = Row(fault="database on a file system that is read-only")
        with self._on_small_disk(row) as site:
            if site is None:
                return row
            site.kill_at("in a rung's transaction", "outcomes written", 2)
            if not mount("-o", "remount,ro", str(site.folder)):
                row.skipped = NEEDS_ROOT
                return row
            ended = site.resume()
            mount("-o", "remount,rw", str(site.folder))
            _judge(row, ended, (2,), "written")
            _finish(row, site)
        return row

    def _missing(self) -> Row:
        row, site = Row(fault="database missing"), self._half_done()
        away = site.folder.with_name(f"{site.folder.name}-away")
        site.folder.rename(away)
        site.folder.mkdir()
        _judge(row, site.resume(), (2,), "")
        if list(site.folder.iterdir()):
            row.problems.append("something was made in its place")
        site.folder.rmdir()
        away.rename(site.folder)
        _finish(row, site)
        return row

    def _corrupt(self) -> Row:
        row, site = Row(fault="database corrupt: the middle overwritten"), self._half_done()
        _flush(site.file)
        whole = site.file.read_bytes()
        size = len(whole)
        site.file.write_bytes(whole[: size // 4] + os.urandom(size // 2) + whole[-(size // 4) :])
        _judge(row, site.resume(), (2,), "damaged")
        for path in site.folder.glob("studies.db*"):
            if path.is_file():
                path.unlink()
        site.file.write_bytes(whole)
        _finish(row, site)
        return row

    def _newer(self) -> Row:
        row, site = Row(fault="database from a newer version"), self._half_done()
        _write(site.file, "UPDATE dynamoe_schema SET version = version + 1")
        _judge(row, site.resume(), (2,), "newer")
        _write(site.file, "UPDATE dynamoe_schema SET version = version - 1")
        _finish(row, site)
        return row

    def _corrupt_checkpoints(self) -> Row:
        row = Row(fault="every checkpoint corrupt, of candidates and of the leg in training")
        site = self._site(self._expected)
        site.kill_at("elsewhere", "a leg's checkpoint written", 14)
        changed = 0
        for path in site.folder.rglob("checkpoints/**/*.safetensors"):
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
            changed += 1
        if not changed:
            row.problems.append("there was no checkpoint")
        ended = site.resume()
        _judge(row, ended, (0,), "is not used")
        row.problems += site.differing()
        return row

    # The clock

    def _clock_set_back(self) -> Row:
        row, site = Row(fault="clock set back by a day while a study runs"), self._half_done()
        if not FAKETIME.exists():
            row.skipped = "libfaketime is not here"
            return row
        offset = site.folder / "offset"
        offset.write_text("+0")
        workers = site.count("SELECT count(*) FROM dynamoe_workers")
        running = site.start(environment=_fake(offset, moves=True))
        site.wait_for("SELECT count(*) FROM dynamoe_workers", workers + 1, running)
        offset.write_text("-1d")
        _judge(row, running.wait(), (0,), "")
        _finish(row, site)
        return row

    def _clocks_that_differ(self) -> Row:
        """Two workers, one of which lives a day ahead: neither may take the other for dead."""
        row = Row(fault="two workers whose clocks are two days apart")
        if not FAKETIME.exists():
            row.skipped = "libfaketime is not here"
            return row
        study = shared_study()
        alone = Site(self._new_folder(), study, None)
        assert victims.wait(victims.fork(lambda: study.run(alone.url))) == 0
        site = Site(self._new_folder(), study, None)
        site.create()
        both = []
        for days in ("-1d", "+1d"):
            offset = site.folder / f"offset{days}"
            offset.write_text(days)
            both.append(site.start(environment=_fake(offset, moves=False)))
        for running in both:
            _judge(row, running.wait(), (0,), "")
        if by_ordinal(site.found()) != by_ordinal(alone.found()):
            row.problems.append("numbers differ from those of one worker")
        row.problems += site.differing()
        return row

    # Storage that goes away

    def _moved_away(self) -> Row:
        row = Row(
            fault=f"folder of the database moved away for {self._gone_seconds:.0f} s, and back"
        )
        site = self._site(self._expected)
        site.create()
        running = site.start()
        site.wait_for(_LEGS, 3, running)
        away = site.folder.with_name(f"{site.folder.name}-away")
        site.folder.rename(away)
        time.sleep(self._gone_seconds)
        away.rename(site.folder)
        _judge(row, running.wait(), (0, 1, 2), "")
        _finish(row, site)
        return row

    def _unmounted(self) -> Row:
        row = Row(fault=f"storage unmounted for {self._gone_seconds:.0f} s while in use, and back")
        behind, folder = self._new_folder(), self._new_folder()
        if not mount("--bind", str(behind), str(folder)):
            row.skipped = NEEDS_ROOT
            return row
        site = Site(folder, self._study, self._expected, is_forked=self._is_quick)
        site.create()
        running = site.start()
        site.wait_for(_LEGS, 3, running)
        unmount(folder)
        time.sleep(self._gone_seconds)
        mount("--bind", str(behind), str(folder))
        _judge(row, running.wait(), (0, 1, 2), "")
        _finish(row, site)
        unmount(folder)
        return row


def _fake(offset: Path, *, moves: bool) -> dict[str, str]:
    """Returns the environment of a process whose clock a file moves.

    A clock that moves must leave the steady clock alone, with which libfaketime 0.9.10 makes Python's `sleep` fail; for
    one that is only wrong, both are wrong by the same.
    """
    steady = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    return {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        **(steady if moves else {}),
    }


def _lock(file: Path, seconds: float) -> None:
    with closing(sqlite3.connect(file, timeout=30, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(seconds)
        connection.execute("ROLLBACK")


def _flush(file: Path) -> None:
    """Has everything in the one file."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _write(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(statement)


def _judge(row: Row, ended: Ended, codes: Collection[int], words: str) -> None:
    """Notes how the program ended; it must have said something clear, and shown no traceback."""
    said = re.sub(r"/\S*/(?=studies\.db)", "", ended.last)  # folders differ from run to run
    row.ended += f"{'; ' if row.ended else ''}exit code {ended.code}" + (
        f": {said}" if said else ""
    )
    if ended.code not in codes:
        row.problems.append(f"exit code {ended.code}, not one of {list(codes)}: {ended.words}")
    if "Traceback" in ended.words or "internal error" in ended.words:
        row.problems.append(f"a traceback: {ended.words}")
    if words not in ended.words:
        row.problems.append(f"{words!r} is not in: {ended.words}")


def _finish(row: Row, site: Site) -> None:
    """Resumes the study and compares."""
    ended = site.resume()
    if ended.code != 0:
        row.problems.append(f"resume ended with {ended.code}: {ended.words}")
        return
    row.problems += site.differing()


def report(rows: Sequence[Row], seconds: float) -> str:
    """Returns the result file."""
    command = " ".join(["python -m benchmarks.faults.machine", *sys.argv[1:]])
    wrong = sum(bool(row.problems) for row in rows)
    tried = sum(row.skipped is None for row in rows)
    conditions = (
        f"Command: `{command}`. {platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, torch {torch.__version__}, SQLite {sqlite3.sqlite_version}; "
        f"{seconds / 60:.0f} minutes beside other work."
    )
    promise = (
        f"**{tried} faults, {wrong} with a problem.** After each, `resume` ends, and everything but "
        "times equals the same study without the fault: candidates, values, reports, decisions, "
        "legs, front, Optuna's trials, weights, files."
    )
    lines = ["# Faults of the machine", "", conditions, "", promise, ""]
    lines += ["| fault | the program | nothing lost, same result |", "|---|---|---|"]
    for row in rows:
        verdict = "; ".join(row.problems) if row.problems else "yes"
        lines.append(f"| {row.fault} | {row.ended} | {row.skipped or verdict} |".replace("\n", " "))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Tries everything and prints a table, or JSON; exit code 1 if something was not as promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lock-seconds", type=float, default=65.0)
    parser.add_argument("--gone-seconds", type=float, default=8.0)
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    parser.add_argument("--only", help="the short name of one fault, or signals")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        first = quick_study() if options.quick else small_studies()[0]
        url = f"sqlite:///{folder}/first.db"
        victims.import_what_is_needed(lambda: first.run(url))
        machine = Machine(
            Path(folder), options.lock_seconds, options.gone_seconds, is_quick=options.quick
        )
        faults = {n: act for n, act in machine.faults().items() if options.only in (None, n)}
        has_signals = not options.quick and options.only in (None, "signals")
        signals = signal_rows(Path(folder)) if has_signals else ()
        for row in chain((act() for act in faults.values()), signals):
            print(row, file=sys.stderr, flush=True)
            rows.append(row)
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        print(report(rows, time.monotonic() - began), end="")
    sys.exit(1 if any(row.problems for row in rows) else 0)


if __name__ == "__main__":
    main()
