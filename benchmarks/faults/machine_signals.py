"""Signals: a process that is asked to stop writes a checkpoint and leaves within seconds, in the middle of an epoch."""

import re
import signal
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.faults import victims
from benchmarks.faults.sites import Row, Running, Site
from benchmarks.faults.small_studies import NAME, SmallStudy, spec_with
from dynamoe_search.specs import StudySpec

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_LEGS = "SELECT count(*) FROM dynamoe_legs WHERE state = 'open'"
_LEAVES_WITHIN_SECONDS = 10.0


def long_epochs() -> SmallStudy:
    """Returns a study of Fashion-MNIST with one leg of two epochs that take long."""
    data = {"name": "fashion-mnist", "max_train": 40_000}
    spec = _one_leg(data, {"d_model": 32, "num_layers": 3, "d_expert": 32}, 256)
    return SmallStudy(title="Fashion-MNIST, long epochs", spec=spec)


def _one_leg(data: dict[str, Any], model: dict[str, Any], batch_size: int) -> StudySpec:
    rate = {"low": 1e-3, "high": 1e-2, "log": True}
    return spec_with(
        study={"name": NAME, "trials": 4, "references": ["top-2"]},
        data=data,
        model=model,
        train={"epochs": 2, "batch_size": batch_size, "learning_rate": rate},
        adaptive={
            "enabled": True,
            "max_experts": 6,
            "period": 40,
            "record_from": 0,
            "update_at": 9,
        },
        search={"cohort_size": 4, "sampler": "random", "pruner": {"kind": "none"}},
    )


def signal_rows(folder: Path) -> Iterator[Row]:
    """Tries every signal.

    Args:
        folder: For databases.
    """
    if not FASHION_MNIST.is_dir():
        yield Row(fault="signals in long epochs", skipped="Fashion-MNIST is not here")
        return
    study = long_epochs()
    reference = Site(Path(tempfile.mkdtemp(dir=folder)), study, None)
    began = time.monotonic()
    assert victims.wait(victims.fork(lambda: study.run(reference.url))) == 0
    seconds = time.monotonic() - began
    expected = reference.found()
    wait_seconds = min(12.0, seconds / 3)  # in the middle of it, however fast the machine
    for number in (signal.SIGTERM, signal.SIGINT):
        title = f"{number.name} in {study.title} ({seconds:.0f} s in all)"
        yield _asked(
            Site(Path(tempfile.mkdtemp(dir=folder)), study, expected), title, number, wait_seconds
        )
    title = "SIGTERM while another program has locked the database"
    site = Site(Path(tempfile.mkdtemp(dir=folder)), study, expected)
    yield _asked(site, title, signal.SIGTERM, wait_seconds, is_locked=True)
    yield _asked_twice(Site(Path(tempfile.mkdtemp(dir=folder)), study, expected), wait_seconds)


def _begun(site: Site, wait_seconds: float) -> Running:
    """Returns a process that is in the middle of training."""
    site.create()
    running = site.start()
    site.wait_for(_LEGS, 1, running)
    time.sleep(wait_seconds)
    return running


@contextmanager
def _locked(file: Path, seconds: float) -> Iterator[None]:
    """Locks a database for some seconds, and below the `with`."""
    with closing(sqlite3.connect(file, timeout=30, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(seconds)
        yield
        connection.execute("ROLLBACK")


def _asked(
    site: Site,
    title: str,
    number: signal.Signals,
    wait_seconds: float,
    *,
    is_locked: bool = False,
) -> Row:
    row = Row(fault=title)
    running = _begun(site, wait_seconds)
    with _locked(site.file, wait_seconds) if is_locked else nullcontext():
        asked = time.monotonic()
        running.process.send_signal(number)
        ended = running.wait(120)
        seconds = time.monotonic() - asked
    steps = _steps(site)
    row.ended = f"left after {seconds:.1f} s, exit code {ended.code}: {_without_folder(ended.last)}; {steps}"
    if ended.code != 128 + number or "resume" not in ended.words or "Traceback" in ended.words:
        row.problems.append(f"it said {ended.words}")
    if seconds > _LEAVES_WITHIN_SECONDS:
        row.problems.append(f"it took {seconds:.0f} s")
    if not steps:
        row.problems.append("there is no checkpoint of the leg in training")
    _finish(row, site)
    return row


def _asked_twice(site: Site, wait_seconds: float) -> Row:
    row = Row(fault="Ctrl-C twice")
    running = _begun(site, wait_seconds)
    running.process.send_signal(signal.SIGSTOP)  # both are there before a step can end
    running.process.send_signal(signal.SIGINT)
    running.process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    running.process.send_signal(signal.SIGCONT)
    ended = running.wait(120)
    seconds = time.monotonic() - asked
    row.ended = f"left after {seconds:.1f} s, exit code {ended.code}: {_without_folder(ended.last)}"
    if ended.code != 128 + signal.SIGINT or "at once" not in ended.words:
        row.problems.append(f"it said {ended.words}")
    _finish(row, site)
    return row


def _without_folder(words: str) -> str:
    return re.sub(r"(sqlite:///)/\S*/(?=studies\.db)", r"\1", words)


def _steps(site: Site) -> str:
    """Returns which checkpoint the leg in training has."""
    found = sorted(path.stem for path in site.folder.rglob("legs/*/epoch-*.json"))
    return f"checkpoint {found[-1]}" if found else ""


def _finish(row: Row, site: Site) -> None:
    ended: Any = site.resume()
    if ended.code != 0:
        row.problems.append(f"resume ended with {ended.code}: {ended.words}")
    else:
        row.problems += site.differing()
