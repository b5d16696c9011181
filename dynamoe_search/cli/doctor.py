"""The command that tells what this machine has and lacks, or whether a study is in order: doctor."""

import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer

from dynamoe_search.cli.options import AsJson, Storage, TrustCode
from dynamoe_search.wording import counted

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
    yield Finding(name="cpu", value=counted(torch.get_num_threads(), "thread"))
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
                name="database", value=f"{store.url}, {counted(count, 'study', 'studies')}"
            )
    except StorageError as error:
        return Finding(name="database", value=str(error), ok=False, cure="--storage URL")


COMMANDS: dict[str, Any] = {"doctor": doctor}
