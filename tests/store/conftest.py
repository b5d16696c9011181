"""A store on a new SQLite file, with and without a study in it."""

from collections.abc import Callable, Iterator

import pytest

from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from tests.store.builders import SETTINGS

_SQLITE_ONLY = ("test_checks", "test_migrations", "test_opening", "test_patience")
"""Tests of what only SQLite does, or that look into the file itself."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs everything else on both kinds of database."""
    if "store_url" in metafunc.fixturenames:
        is_sqlite = metafunc.module.__name__.endswith(_SQLITE_ONLY)
        kinds = ["sqlite"] if is_sqlite else ["sqlite", "postgresql"]
        metafunc.parametrize("store_url", kinds, indirect=True)


@pytest.fixture
def store_url(request: pytest.FixtureRequest) -> str:
    """URL of a new database of either kind."""
    kinds = {"sqlite": "storage_url", "postgresql": "postgres_store_url"}
    return str(request.getfixturevalue(kinds[request.param]))


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store.open(store_url) as opened:
        yield opened


@pytest.fixture
def study(store: Store, tiny_spec: Callable[..., StudySpec]) -> str:
    """Name of a study that stands in `store`."""
    store.create_study(tiny_spec(), source="tiny.toml", settings=SETTINGS)
    return "tiny"
