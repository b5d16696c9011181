"""Can any file make the reader of study files fail? A fuzz that is guided by coverage, with atheris (libFuzzer).

    pip install atheris
    python -m benchmarks.faults.fuzz_study_file --seconds 600 > benchmarks/faults/results/fuzz-study-file.md

Every input is written to a file and read as `check` and `run` read it. A crash is anything else than a study or an
`InputError`, a message that is not short and printable, or a file that takes longer than ten seconds. It starts from
the presets; half of the mutations are libFuzzer's on bytes, the other half put lines of the presets and of the
vocabulary together. libFuzzer ends the process that it runs in, so that is a child of its own; what it counts must be
imported there and not before, hence the late imports.
"""
# ruff: noqa: PLC0415

import argparse
import contextlib
import platform
import random
import re
import subprocess
import sys
import tempfile
import tomllib
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

_CHILD = "--child"
_MOST_BYTES = 16_384
_SLOWEST_SECONDS = 10
_INSTRUMENTED = ["dynamoe_search.presets", "dynamoe_search.specs", "tomllib"]
_VALUES = (
    "true", "-1", "0", "1", "3", "4", "64", "1e9", "0.5", "inf", "nan", "-0.0", "1e400", "9" * 400,
    '"top-k"', '["top-k", "top-p"]', "[]", "{low = 1, high = 8}", "{low = 8, high = 1, log = true}",
    "{low = 4, high = 64, step = 4}", "{low = 0.1, high = 0.9, log = true}", "1979-05-27", "07:32:00",
    '"\\u0000"', '"\\U0010ffff"', '"""', "'''", "[[", "{", "{}", '"a/../b"', "0x7fffffffffffffff",
)  # fmt: skip


def pieces() -> list[bytes]:
    """Lines that mutations are made of: those of the presets, and every key with many values."""
    from dynamoe_search.presets import preset_names, preset_text
    from dynamoe_search.specs import StudySpec

    lines = {line for name in preset_names() for line in preset_text(name).splitlines() if line}
    for name, field in StudySpec.model_fields.items():
        lines.add(f"[{name}]")
        keys = getattr(field.annotation, "model_fields", {})
        lines |= {f"{key} = {value}" for key in keys for value in _VALUES}
        lines |= {f"{name}.{key} = {value}" for key in keys for value in _VALUES[:8]}
    return [line.encode() for line in sorted(lines)]


def spliced(data: bytes, lines: list[bytes], source: random.Random) -> bytes:
    """Returns the text with one line put in, taken out, replaced or moved."""
    text = data.split(b"\n")
    place = source.randrange(len(text))
    match source.randrange(4):
        case 0:
            text.insert(place, source.choice(lines))
        case 1:
            text[place] = source.choice(lines)
        case 2:
            text.insert(source.randrange(len(text)), text.pop(place))
        case _:
            del text[place]
    return b"\n".join(text)


def fuzz(seconds: int, folder: Path) -> None:
    """Runs libFuzzer in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=_INSTRUMENTED):
        from dynamoe_search.errors import InputError
        from dynamoe_search.presets import read_study
    atheris.instrument_func(tomllib.loads)
    lines = pieces()
    path = folder / "study.toml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        try:
            read_study(str(path))
        except InputError as error:
            message = str(error)
            if len(message) > 50_000 or not message.replace("\n", "").isprintable():
                raise RuntimeError(f"a message that cannot be shown: {message!r}") from error

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        source = random.Random(seed)  # noqa: S311 - no secret
        if source.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        return spliced(data, lines, source)[:most]

    options = [
        f"-max_total_time={seconds}", f"-max_len={_MOST_BYTES}", f"-timeout={_SLOWEST_SECONDS}",
        "-rss_limit_mb=4096", "-print_final_stats=1", f"-artifact_prefix={folder}/",
    ]  # fmt: skip
    atheris.Setup(
        [sys.argv[0], *options, str(folder / "corpus")],
        read,
        custom_mutator=mutate,
        enable_python_coverage=True,
    )
    atheris.Fuzz()


def seeded(folder: Path) -> int:
    """Puts the presets into the corpus; returns how many they are."""
    from dynamoe_search.presets import preset_names, preset_text

    (folder / "corpus").mkdir()
    for name in preset_names():
        (folder / "corpus" / f"{name}.toml").write_text(preset_text(name), "utf-8")
    return len(preset_names())


def report(seconds: int, seeds: int, log: str, code: int, crashes: list[str]) -> str:
    """Returns the result as a page."""
    states = re.findall(r"#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)/", log)
    executions = re.search(r"stat::number_of_executed_units:\s*(\d+)", log)
    first, last = states[0], states[-1]
    rows = {
        "files read": f"{int(executions[1]):,}" if executions else last[0],
        "files in the corpus, first and last": f"{seeds} and {int(last[3]):,}",
        "coverage counters reached, first and last": f"{int(first[1]):,} and {int(last[1]):,}",
        "features (counter and how often), first and last": f"{int(first[2]):,} and {int(last[2]):,}",
        "crashes": f"{len(crashes)} {' '.join(crashes)}".strip(),
        "exit status of libFuzzer": str(code),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""# Coverage-guided fuzz of the study-file reader

Command: `python -m benchmarks.faults.fuzz_study_file --seconds {seconds}`, {datetime.now(UTC):%Y-%m-%d}.
atheris {version("atheris")}, pydantic {version("pydantic")}, Python {platform.python_version()}, \
{platform.machine()}, one process.

A crash is anything else than a study or an `InputError` with a short, printable message, or a file that takes
more than {_SLOWEST_SECONDS} s.
Counters are those of `presets`, `specs` and `tomllib`; pydantic's own core is compiled and not counted.

| what | value |
|---|--:|
{table}
"""


def main() -> None:
    """Fuzzes in a child process and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--keep", type=Path, help="Copy inputs that crash to this folder.")
    parser.add_argument(_CHILD, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        fuzz(options.seconds, options.child)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seeds = seeded(folder)
        command = [sys.executable, "-m", "benchmarks.faults.fuzz_study_file"]
        done = subprocess.run(  # noqa: S603 - this very file
            [*command, "--seconds", str(options.seconds), _CHILD, name],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        log = done.stdout + done.stderr
        found = [path for path in sorted(folder.iterdir()) if "-" in path.name]
        for path in found:
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / path.name).write_bytes(path.read_bytes())
        if found or done.returncode:
            sys.stderr.write(log[-4000:])
        with contextlib.suppress(BrokenPipeError):
            print(report(options.seconds, seeds, log, done.returncode, [p.name for p in found]))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
