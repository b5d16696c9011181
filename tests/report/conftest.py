"""A study with a front, references, a pruned and a failed candidate, in a store."""

from collections.abc import Callable, Iterator

import pytest

from dynamoe_search.report.reading import StudyData, read
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from tests.report.studies import HOSTILE, end, failed, finished, pruned
from tests.store.builders import SETTINGS, complete


@pytest.fixture
def store(storage_url: str) -> Iterator[Store]:
    with Store.open(storage_url) as opened:
        yield opened


@pytest.fixture
def empty(store: Store, tiny_spec: Callable[..., StudySpec]) -> str:
    """Name of a study without a candidate."""
    spec = tiny_spec(study={"name": "tiny", "trials": 9, "description": HOSTILE})
    store.create_study(spec, source="tiny.toml", settings=SETTINGS)
    return "tiny"


@pytest.fixture
def study(store: Store, empty: str) -> str:
    """Name of a study with everything in it."""
    end(store, empty, complete(0, 0.80, 1000.0), [0.80, 1000.0], reference="dense")
    finished(store, empty, 1, 0.70, 500.0)
    finished(store, empty, 2, 0.90, 1500.0)
    finished(store, empty, 3, 0.95, 4000.0)
    finished(store, empty, 4, 0.60, 3000.0)
    pruned(store, empty, 5)
    failed(store, empty, 6, f"loss is nan\n{HOSTILE}")
    store.refresh_front(empty)
    return empty


@pytest.fixture
def data(store: Store, study: str) -> StudyData:
    return read(store, study)
