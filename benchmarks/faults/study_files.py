"""What does the program say to a bad study file? 1,000 generated ones and 200 presets that were damaged.

    python -m benchmarks.faults.study_files > benchmarks/faults/results/study-files.md

Each goes through `check` and, where that refuses it, through `run` with a database of its own. Refused means: exit
code 2, nothing on stdout, every problem one line with the file and the place, no trace, and no study in the database.
A damaged preset may happen to be right: then `check` has to succeed.
"""

import argparse
import os
import platform
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from typer.testing import CliRunner

from benchmarks.faults.bad_study_files import BadFile, bad_files
from dynamoe_search import __version__
from dynamoe_search.cli.app import app
from dynamoe_search.presets import preset_names, preset_text

_LONGEST_LINE = 1200
_MOST_LINES = 51
_FLIPS = 8
_SETTING = re.compile(r"\b(data|model)\.[a-z]+|\bbackbone ")


@dataclass
class Tally:
    """What happened to all files so far."""

    kinds: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    seen: set[tuple[str, bytes]] = field(default_factory=set)
    slowest_seconds: float = 0.0
    sample: list[tuple[list[str], str]] = field(default_factory=list)  # arguments, what was said


def complaint(code: int, stdout: str, stderr: str, shown: str) -> str:
    """Returns what is wrong with how a bad file was refused, or nothing.

    Args:
        code: Exit code of the program.
        stdout: What it wrote there.
        stderr: Likewise.
        shown: The file, which every line has to name, if not the setting that does not fit.
    """
    lines = stderr.splitlines()
    checks = {
        f"exit code {code}": code != 2,
        "something on stdout": bool(stdout),
        "no message, or too many": not 0 < len(lines) <= _MOST_LINES,
        "a line twice": len(set(lines)) != len(lines),
        "a trace": "Traceback" in stderr or "internal error" in stderr,
        "a line that is no message": any(not line.startswith("error: ") for line in lines),
        "a line that names no place": any(
            shown not in line and not _SETTING.search(line) for line in lines
        ),
        "a line too long": any(len(line) > _LONGEST_LINE for line in lines),
        "characters that do not print": any(not line.isprintable() for line in lines),
    }
    wrong = [words for words, is_wrong in checks.items() if is_wrong]
    return f"{', '.join(wrong)}: {stderr[:2000]!r}" if wrong else ""


def num_studies(path: Path) -> int:
    """Returns how many studies a database file holds; none if there is no file."""
    if not path.exists():
        return 0
    connection = sqlite3.connect(path)
    try:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        found = 0
        if "dynamoe_studies" in tables:
            found += connection.execute("SELECT count(*) FROM dynamoe_studies").fetchone()[0]
        if "studies" in tables:  # Optuna's
            found += connection.execute("SELECT count(*) FROM studies").fetchone()[0]
        return found
    finally:
        connection.close()


def refuse(file: BadFile, folder: Path, tally: Tally) -> None:
    """Gives a bad file to the program; raises `AssertionError` if it is not refused as it should be."""
    path = file.write(folder)
    database = folder / "studies.db"
    runner = CliRunner()
    for arguments in (
        ["check", "--no-measure", str(path)],
        ["run", str(path), "--timeout", "1s", "--storage", f"sqlite:///{database}"],
    ):
        began = time.monotonic()
        result = runner.invoke(app, arguments)
        tally.slowest_seconds = max(tally.slowest_seconds, time.monotonic() - began)
        wrong = complaint(result.exit_code, result.stdout, result.stderr, file.shown(path))
        assert not wrong, f"{file.kind}, {arguments[0]}: {wrong}"
    assert num_studies(database) == 0, f"{file.kind}: a study was made"
    tally.seen.add((file.kind, file.content))
    tally.kinds[file.kind] += 1


def refuse_generated(num: int, tally: Tally) -> None:
    """Gives generated files to the program until that many different ones were refused."""

    @settings(
        max_examples=2 * num,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(bad_files())
    def each(file: BadFile) -> None:
        if len(tally.seen) < num:
            with tempfile.TemporaryDirectory() as name:
                refuse(file, Path(name), tally)

    each()


def mutated(text: bytes, others: list[bytes], source: random.Random) -> tuple[str, bytes]:
    """Returns the name of a damage, and a preset with it."""
    lines = text.split(b"\n")
    one, two = source.randrange(len(lines)), source.randrange(len(lines))
    kind = source.choice(["byte flips", "truncation", "line swap", "splice", "line twice"])
    if kind == "byte flips":
        changed = bytearray(text)
        for _ in range(source.randint(1, _FLIPS)):
            changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
        return kind, bytes(changed)
    if kind == "truncation":
        return kind, text[: source.randrange(len(text))]
    if kind == "line swap":
        lines[one], lines[two] = lines[two], lines[one]
    elif kind == "line twice":
        lines.insert(one, lines[two])
    else:
        other = source.choice(others).split(b"\n")
        lines = lines[:one] + other[source.randrange(len(other)) :]
    return kind, b"\n".join(lines)


def mutants(num: int, seed: int = 0) -> Iterator[BadFile]:
    """Yields different damaged presets, every preset equally often."""
    texts = [preset_text(name).encode() for name in preset_names()]
    source, seen = random.Random(seed), set(texts)  # noqa: S311 - no secret
    while len(seen) < num + len(texts):
        kind, content = mutated(texts[len(seen) % len(texts)], texts, source)
        if content not in seen:
            seen.add(content)
            yield BadFile(kind=kind, content=content)


def try_mutant(file: BadFile, folder: Path, tally: Tally) -> None:
    """Gives a damaged preset to `check`, which either succeeds or refuses it as it should."""
    path = file.write(folder)
    result = CliRunner().invoke(app, ["check", "--no-measure", str(path)])
    if result.exit_code == 0:
        assert "nothing wrong" in result.stdout, result.stdout
        assert not result.stderr, result.stderr
        tally.ends[f"{file.kind}, still right"] += 1
        return
    refuse(file, folder, tally)
    tally.ends[f"{file.kind}, refused"] += 1


def compare_processes(files: list[BadFile]) -> None:
    """Makes sure that a process of its own says what the same command says inside this one."""
    for file in files:
        with tempfile.TemporaryDirectory() as name:
            path = file.write(Path(name))
            inside = CliRunner().invoke(app, ["check", str(path)])
            outside = subprocess.run(  # noqa: S603 - this very program
                [sys.executable, "-m", "dynamoe_search", "check", str(path)],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "PYTHONUTF8": "1"},
            )
            said = (outside.returncode, outside.stdout, outside.stderr)
            assert said == (inside.exit_code, inside.stdout, inside.stderr), said


def samples(num: int) -> list[BadFile]:
    """Returns that many generated files, the same each time."""
    found: dict[tuple[str, bytes], BadFile] = {}

    @settings(
        max_examples=20 * num, database=None, deadline=None, derandomize=True,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(bad_files())
    def each(file: BadFile) -> None:
        found[file.kind, file.content] = file

    each()
    return list(found.values())[:: max(1, len(found) // num)][:num]


def report(bad: Tally, damaged: Tally, num_processes: int, options: argparse.Namespace) -> str:
    """Returns the result as a page."""
    kinds = "\n".join(f"| {kind} | {count:,} |" for kind, count in sorted(bad.kinds.items()))
    ends = "\n".join(f"| {end} | {count:,} |" for end, count in sorted(damaged.ends.items()))
    return f"""# Bad study files

Command: `python -m benchmarks.faults.study_files --generated {options.generated} --mutated {options.mutated}`, \
{datetime.now(UTC):%Y-%m-%d}.
dynamoe-search {__version__}, Python {platform.python_version()}, {platform.machine()}.

{len(bad.seen):,} different generated files: all refused by `check` and by `run` with exit code 2, every problem one
printable line with the file's name, no trace, nothing on stdout, no study in the database.
{sum(damaged.ends.values()):,} damaged presets: refused likewise, or still right, and then `check` succeeded.
{num_processes} of the generated files also in a process of their own, with the same words.
The slowest command took {max(bad.slowest_seconds, damaged.slowest_seconds):.1f} s.

| generated: what is wrong | files |
|---|--:|
{kinds}

| damaged presets | files |
|---|--:|
{ends}
"""


def main() -> None:
    """Tries all files and prints the result; an exception is a file that was not refused as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--generated", type=int, default=1000)
    parser.add_argument("--mutated", type=int, default=200)
    parser.add_argument("--processes", type=int, default=20)
    options = parser.parse_args()
    bad, damaged = Tally(), Tally()
    refuse_generated(options.generated, bad)
    assert len(bad.seen) == options.generated, f"only {len(bad.seen)} different files"
    for file in mutants(options.mutated):
        with tempfile.TemporaryDirectory() as name:
            try_mutant(file, Path(name), damaged)
    files = samples(options.processes)
    compare_processes(files)
    print(report(bad, damaged, len(files), options), end="")


if __name__ == "__main__":
    main()
