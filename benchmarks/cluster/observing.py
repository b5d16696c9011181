"""What a machine and its PostgreSQL server do while others work: processor time by process, waits, connections."""

import os
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

_TICKS = os.sysconf("SC_CLK_TCK")
_ACTIVITY = sa.text(
    "SELECT state, coalesce(wait_event_type, 'CPU') AS kind, coalesce(wait_event, 'running') AS event "
    "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


@dataclass(kw_only=True, slots=True)
class Observed:
    """What was seen between two moments.

    Attributes:
        cores: Processors in use by `workers`, `database`, `others`, and `idle`, on average.
        waits: What the active connections did, by (kind, event), summed over the looks.
        looks: How often was looked.
        connections: Most connections of clients at a look.
    """

    cores: dict[str, float] = field(default_factory=dict)
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    looks: int = 0
    connections: int = 0


def observe(
    begin: float, end: float, workers: Collection[int], postmaster: int | None, url: str | None
) -> Observed:
    """Watches until the end; returns then.

    Args:
        begin: When to begin, by the monotonic clock.
        end: When to end.
        workers: Numbers of the processes that work.
        postmaster: Number of the PostgreSQL server's main process, if there is one.
        url: Of a database of it.
    """
    found = Observed()
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT") if url is not None else None
    time.sleep(max(0.0, begin - time.monotonic()))
    before, start = _ticks(workers, postmaster), time.monotonic()
    while time.monotonic() < end:
        if engine is not None:
            _look(engine, found)
        time.sleep(max(0.0, min(0.5, end - time.monotonic())))
    after, seconds = _ticks(workers, postmaster), time.monotonic() - start
    used = {name: (after[name] - before[name]) / _TICKS / seconds for name in before}
    busy, idle = used.pop("busy"), used.pop("idle")
    found.cores = used | {"others": max(0.0, busy - sum(used.values())), "idle": idle}
    if engine is not None:
        engine.dispose()
    return found


def _look(engine: sa.Engine, found: Observed) -> None:
    with engine.connect() as connection:
        rows = connection.execute(_ACTIVITY).all()
    found.looks += 1
    found.connections = max(found.connections, len(rows))
    for row in rows:
        if row.state == "active":
            found.waits[row.kind, row.event] += 1
        elif row.state is not None and row.state.startswith("idle in transaction"):
            found.waits["Client", "thinks within a transaction"] += 1


def _ticks(workers: Collection[int], postmaster: int | None) -> dict[str, float]:
    """Returns processor time so far, in clock ticks."""
    used = {"workers": sum(_of(pid)[0] for pid in workers), "database": 0.0}
    if postmaster is not None:
        processes = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        server = [pid for pid in processes if pid == postmaster or _of(pid)[2] == postmaster]
        own, ended, _ = _of(postmaster)
        used["database"] = sum(_of(pid)[0] for pid in server if pid != postmaster) + own + ended
    fields = [float(one) for one in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return used | {"busy": sum(fields) - idle, "idle": idle}


def _of(pid: int) -> tuple[float, float, int]:
    """Returns processor time of a process, of its children that ended, and its parent; zeros if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, 0.0, 0
    own, ended = map(float, fields[11:13]), map(float, fields[13:15])
    return sum(own), sum(ended), int(fields[1])
