"""Commands about this machine: doctor (what is here, what is missing, how to get it), bench (how fast it is) and gc."""

import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dynamoe_search.cli.options import (
    AsJson,
    Changes,
    Device,
    Storage,
    Threads,
    TrustCode,
    duration,
)
from dynamoe_search.cli.words import say, seconds

if TYPE_CHECKING:
    from dynamoe_search.cached_texts import CachedText

USUAL_CACHE_DAYS = 30.0
_PACKAGES = (
    "torch",
    "torchvision",
    "optuna",
    "sqlalchemy",
    "pydantic",
    "moocore",
    "numpy",
    "scikit-learn",
    "safetensors",
    "typer",
    "rich",
)
_EXTRAS = {
    "report": ("jinja2", "matplotlib", "plotly", "pyarrow"),
    "dashboard": ("optuna-dashboard",),
    "language": ("datasets", "tokenizers"),
    "loggers": ("tensorboard", "mlflow-skinny"),
    "cluster": ("psycopg",),
}
_LARGEST_PACK = 1024
_DATA_SETS = {
    "digits": "pip install scikit-learn",
    "fashion-mnist": "apt install dataset-fashion-mnist, or let run download it",
    "mnist": "let run download it, or --set data.path=FOLDER",
    "cifar10": "let run download it, or --set data.path=FOLDER",
    "docs": "use a Python that has its whole standard library",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    value: str
    ok: bool = True
    required: bool = True
    cure: str | None = None


def doctor(
    study: Annotated[
        str | None,
        typer.Argument(metavar="[STUDY]", help="A study to check.", show_default=False),
    ] = None,
    trust_code: TrustCode = False,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Tell what this machine has and lacks, or with STUDY whether a study is in order and how to mend it.

    A study's database, checkpoints, weights, leases and data are read and compared; nothing is changed.
    Exit code 1: something is missing or wrong.
    """
    from dynamoe_search.cli import screens

    if study is not None:
        _check_study(study, storage, trust_code=trust_code, as_json=as_json)
        return
    findings = [*_versions(), *_devices(), *_data_sets(), _database(storage)]
    if as_json:
        screens.print_json([asdict(finding) for finding in findings])
    else:
        rows = []
        for finding in findings:
            mark = "ok" if finding.ok else "MISSING" if finding.required else "not here"
            rows.append(
                (mark, finding.name, finding.value, (not finding.ok and finding.cure) or "")
            )
        screens.console().print(screens.table(["", "what", "found", "how to get it"], rows))
    if not all(finding.ok for finding in findings if finding.required):
        raise typer.Exit(1)


def _check_study(study: str, storage: str | None, *, trust_code: bool, as_json: bool) -> None:
    from dynamoe_search.cli import screens
    from dynamoe_search.search import check_study
    from dynamoe_search.store import Store

    with Store.open(storage, create=False) as store:
        findings = check_study(store, study, trust_code=trust_code)
    if as_json:
        screens.print_json([asdict(finding) for finding in findings])
    else:
        rows = [(one.level, one.what, one.how_to_mend) for one in findings]
        screens.console().print(screens.table(["", "what", "how to mend it"], rows))
    if any(one.level == "error" for one in findings):
        raise typer.Exit(1)


def _versions() -> Iterator[Finding]:
    from dynamoe_search import __version__

    yield Finding(name="dynamoe-search", value=__version__)
    yield Finding(
        name="python",
        value=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        ok=sys.version_info >= (3, 11),
        cure="install Python 3.11 or newer",
    )
    for package in _PACKAGES:
        yield _package(package)
    for extra, packages in _EXTRAS.items():
        for package in packages:
            yield _package(package, cure=f"optional; pip install 'dynamoe-search[{extra}]'")


def _package(name: str, *, cure: str | None = None) -> Finding:
    """Looks for a package; one with a cure of its own is not required."""
    required = cure is None
    try:
        return Finding(name=name, value=version(name), required=required)
    except PackageNotFoundError:
        how = cure or f"pip install {name}"
        return Finding(name=name, value="-", ok=False, required=required, cure=how)


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding(name="cpu", value=str(error), ok=False, cure="pip install torch")
        return
    yield Finding(name="cpu", value=_counted(torch.get_num_threads(), "thread", "threads"))
    if not torch.cuda.is_available():
        built = (
            f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "CPU torch"
        )
        yield Finding(
            name="cuda",
            value=f"no device ({built})",
            ok=False,
            required=False,
            cure="an NVIDIA GPU, its driver, and a torch built for CUDA",
        )
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        yield Finding(name=f"cuda:{index}", value=f"{properties.name}, {memory:.0f} GiB")


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _data_sets() -> Iterator[Finding]:
    from dynamoe_search.data import find_data
    from dynamoe_search.specs import DataSection

    for name, cure in _DATA_SETS.items():
        where = find_data(DataSection.model_validate({"name": name}))
        yield Finding(
            name=f"data {name}",
            value=where or "-",
            ok=where is not None,
            required=name == "digits",
            cure=cure,
        )


def _database(storage: str | None) -> Finding:
    from dynamoe_search.errors import StorageError
    from dynamoe_search.store import Store

    try:
        with Store.open(storage) as store:
            count = len(store.studies())
            return Finding(
                name="database", value=f"{store.url}, {_counted(count, 'study', 'studies')}"
            )
    except StorageError as error:
        return Finding(name="database", value=str(error), ok=False, cure="--storage URL")


def gc(
    storage: Storage = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would be deleted.")
    ] = False,
    cache_days: Annotated[
        float,
        typer.Option(
            "--cache-days",
            metavar="DAYS",
            min=0.0,
            help="Delete cached texts that nobody read for so long; 0 is all of them.",
        ),
    ] = USUAL_CACHE_DAYS,
    cache_size: Annotated[
        int | None,
        typer.Option(
            "--cache-size",
            metavar="MIB",
            min=0,
            help="Then the longest unread, until the rest takes no more than this.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete files that belong to no study, finish deletions that were cut short, and free cached texts.

    Cached texts are made again when they are needed; those that came over the network are downloaded again.
    """
    from dynamoe_search.cached_texts import find_cached, remove_cached, unused
    from dynamoe_search.cli import screens
    from dynamoe_search.cli.words import size
    from dynamoe_search.store import Store
    from dynamoe_search.store.garbage import find_garbage, remove_garbage

    cached = find_cached()
    most = None if cache_size is None else cache_size * 2**20
    freed = unused(cached, days=cache_days, most_bytes=most)
    with Store.open(storage, create=storage is None) as store:
        garbage = find_garbage(store)
        if not dry_run:
            remove_garbage(store, garbage)
    if not dry_run:
        remove_cached(freed)
    rows = [asdict(item) for item in garbage] + [_cached_row(one) for one in freed]
    if as_json:
        screens.print_json([{**row, "removed": not dry_run} for row in rows])
        return
    for row in rows:
        about = f" ({row['about']})" if row.get("about") else ""
        say(f"{row['kind']} {row['name']}{about}: {size(row['num_bytes'])}")
    total = size(sum(row["num_bytes"] for row in rows))
    done = "would be removed" if dry_run else "removed"
    things = "1 thing" if len(rows) == 1 else f"{len(rows)} things"
    typer.echo(f"{things} {done}, {total}" if rows else "nothing to remove")
    if kept := [one for one in cached if one not in freed and one.kind != "unfinished"]:
        typer.echo(
            f"cached texts that stay: {len(kept)}, {size(sum(one.num_bytes for one in kept))} "
            "(--cache-days 0 frees them)"
        )


def _cached_row(one: "CachedText") -> dict[str, Any]:
    """Returns an entry of the cache with the keys of other garbage, and what it is about."""
    days = f"unread for {seconds(one.idle_seconds)}"
    return {
        "kind": "cache",
        "name": str(one.path),
        "num_bytes": one.num_bytes,
        "about": ", ".join(part for part in (one.kind, one.source, days) if part),
    }


def bench(
    file: Annotated[
        str,
        typer.Argument(metavar="[FILE|PRESET]", help="Whose designs and data are used."),
    ] = "digits",
    packs: Annotated[
        str,
        typer.Option("--packs", metavar="SIZES", help="How many candidates to train together."),
    ] = "1,4,16,32",
    seconds: Annotated[
        float,
        typer.Option(
            "--time",
            metavar="TIME",
            parser=duration,
            help="How long to measure, e.g. 30s or 2m.",
        ),
    ] = "30s",  # type: ignore[assignment]
    changes: Changes = None,
    device: Device = "auto",
    threads: Threads = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Measure how fast this machine trains candidates together, against one at a time.

    The size to put into `search.cohort_size` is the smallest that comes within 5 % of the fastest.
    """
    from dynamoe_search.cli import screens
    from dynamoe_search.presets import read_study

    sizes = _sizes(packs)
    spec = read_study(file, changes or ()).spec

    import torch

    from dynamoe_search.search import measure_speed

    if threads is not None:
        torch.set_num_threads(threads)
    found = measure_speed(spec, sizes, device=device, seconds=seconds, trust_code=trust_code)
    if as_json:
        screens.print_json(asdict(found))
    else:
        screens.show_speed(found)


def _sizes(text: str) -> list[int]:
    """Returns pack sizes from text such as `1,4,16`."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and 1 <= int(part) <= _LARGEST_PACK for part in parts):
        raise typer.BadParameter(
            f"--packs must be numbers from 1 to {_LARGEST_PACK} such as 1,4,16, got {text!r}"
        )
    return [int(part) for part in parts]


COMMANDS: dict[str, Any] = {"doctor": doctor, "bench": bench, "gc": gc}
