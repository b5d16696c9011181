"""How many connections to a server the workers need, and what is said when there are too few."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import sqlalchemy as sa

from dynamoe_search.errors import StorageError
from dynamoe_search.search import create_study, run_study
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store

MakeSpec = Callable[..., StudySpec]
LIMIT = 4
HELD = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE usename = :role AND backend_type = 'client backend'"
)


@pytest.fixture
def server(postgres_store_url: str) -> Iterator[sa.Connection]:
    """A connection of the server's owner."""
    engine = sa.create_engine(postgres_store_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def role(server: sa.Connection) -> str:
    """A user of the database who may have few connections at a time."""
    name = f"worker_{uuid.uuid4().hex[:8]}"
    server.exec_driver_sql(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT {LIMIT}")
    server.exec_driver_sql(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
    server.exec_driver_sql(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {name}")
    return name


@pytest.fixture
def limited_url(postgres_store_url: str, role: str) -> str:
    return sa.make_url(postgres_store_url).set(username=role).render_as_string(hide_password=False)


def test_too_few_connections_are_named_with_what_to_do(
    limited_url: str, server: sa.Connection, role: str
) -> None:
    with ExitStack() as stack:
        for _ in range(LIMIT):
            stack.enter_context(Store.open(limited_url)).studies()
        assert server.execute(HELD, {"role": role}).scalar() == LIMIT  # one each
        with pytest.raises(StorageError, match=r"has no free connection: .* raise max_connections"):
            Store.open(limited_url)
    with Store.open(limited_url) as store:
        assert store.studies() == []


def test_a_worker_keeps_one_connection(
    limited_url: str, server: sa.Connection, role: str, tiny_spec: MakeSpec
) -> None:
    seen = []

    def look(_: object) -> None:
        seen.append(server.execute(HELD, {"role": role}).scalar())

    with Store.open(limited_url) as store:
        create_study(store, tiny_spec(), source="test", device="cpu")
        summary = run_study(store, "tiny", on_event=look)
    assert summary.reason in ("trials", "exhausted")
    assert max(seen) <= 2  # the second one for signs of life
    assert sorted(seen)[len(seen) // 2] == 1
