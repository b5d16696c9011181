"""Shared fixtures: one thread, nothing outside a temporary folder, real SQLite, tiny studies."""

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# Before torch is imported: results are compared bit by bit, and many processes share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep instead of spinning

import pytest
from hypothesis import settings

from dynamoe_search.specs import StudySpec
from tests.postgres import database as postgres_database
from tests.postgres import server as postgres_server

# A shell that starts the tests in the background has Ctrl-C ignored, and what is ignored is inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("project", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("project")

TINY: dict[str, dict[str, Any]] = {
    "study": {"name": "tiny", "trials": 4, "references": []},
    "data": {"name": "digits", "max_train": 256},
    "model": {"d_model": 16, "num_layers": 2, "d_expert": 8},
    "schedule": {"min_experts": 1, "max_experts": 3},
    "train": {"epochs": 1, "batch_size": 64},
    "search": {"cohort_size": 2, "startup_trials": 2},
}
"""Sections of a study on digits that runs in a second or two."""
FORGETFUL = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
"""A PostgreSQL server that would lose its data with the power: every test makes a database, and the disk is slow."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where there is no CUDA device."""
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_tests:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def user_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of its own for the whole run, so that no test reads or writes the user's data."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DYNAMOE_SEARCH_STORAGE", raising=False)
        patch.delenv("DYNAMOE_SEARCH_FILES", raising=False)
        patch.setenv("XDG_DATA_HOME", str(home / "data"))
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        yield home


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Folder of the socket of a PostgreSQL server that runs as long as the tests do."""
    # Not pytest's folder: the server's own user must be able to reach it.
    with TemporaryDirectory(prefix="dynamoe-pg-") as folder:
        Path(folder).chmod(0o755)
        with postgres_server(Path(folder) / "data", FORGETFUL) as socket:
            yield socket


@pytest.fixture
def postgres_url(postgres: str) -> str:
    """URL of a new database on the PostgreSQL server."""
    return postgres_database(postgres, f"t{uuid.uuid4().hex}")


@pytest.fixture(scope="session")
def postgres_template(postgres: str) -> str:
    """Name of a database with empty tables, to make copies of: making the tables takes a second."""
    from dynamoe_search.store import Store

    with Store.open(postgres_database(postgres, "empty")) as store:
        store.storage_for_optuna()
    return "empty"


@pytest.fixture
def postgres_store_url(postgres: str, postgres_template: str) -> str:
    """URL of a new PostgreSQL database that has its tables."""
    return postgres_database(postgres, f"t{uuid.uuid4().hex}", postgres_template)


@pytest.fixture
def storage_url(tmp_path: Path) -> str:
    """URL of a SQLite database that does not exist yet."""
    return f"sqlite:///{tmp_path / 'studies.db'}"


@pytest.fixture
def tiny_spec() -> Callable[..., StudySpec]:
    """Makes a small study on digits; keywords change it: `tiny_spec(router={"kind": "top-p"})`."""

    def make(**sections: dict[str, Any]) -> StudySpec:
        names = TINY.keys() | sections.keys()
        return StudySpec.model_validate(
            {name: TINY.get(name, {}) | sections.get(name, {}) for name in names}
        )

    return make
