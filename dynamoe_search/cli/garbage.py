"""The command that frees room on the disk: gc."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dynamoe_search.cli.options import AsJson, Storage, finite
from dynamoe_search.cli.words import say, seconds, size
from dynamoe_search.wording import counted

if TYPE_CHECKING:
    from dynamoe_search.cached_texts import CachedText

USUAL_CACHE_DAYS = 30.0


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
            callback=finite,
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
    typer.echo(f"{counted(len(rows), 'thing')} {done}, {total}" if rows else "nothing to remove")
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


COMMANDS: dict[str, Any] = {"gc": gc}
