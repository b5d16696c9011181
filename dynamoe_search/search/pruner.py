"""Rules of `dynamoe_search.pruning` in the form that `rungs.py` uses."""

from collections.abc import Collection, Iterable

from dynamoe_search.pruning import Decision, RungRecord, judge
from dynamoe_search.specs import PrunerSection
from dynamoe_search.specs.vocabulary import PrunerKind

__all__ = ["Decision", "RungRecord", "decide"]


def decide(
    kind: PrunerKind,
    records: Iterable[RungRecord],
    settings: PrunerSection,
    asked: Collection[int] | None = None,
) -> list[Decision]:
    """Returns what becomes of candidates at one rung, by ordinal; whoever does not go on is stopped for good."""
    known = list(records)
    chosen = [one.ordinal for one in known if asked is None or one.ordinal in asked]
    rule = settings.model_copy(update={"kind": kind, "pause": False})
    return judge(rule, {0: known}, dict.fromkeys(chosen, 0))
