"""A store on a new SQLite file, with and without a study in it."""

from collections.abc import Callable, Iterator

import pytest

from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from tests.store.builders import SETTINGS


@pytest.fixture
def store(storage_url: str) -> Iterator[Store]:
    with Store.open(storage_url) as opened:
        yield opened


@pytest.fixture
def study(store: Store, tiny_spec: Callable[..., StudySpec]) -> str:
    """Name of a study that stands in `store`."""
    store.create_study(tiny_spec(), source="tiny.toml", settings=SETTINGS)
    return "tiny"
