"""Runs of a designed study looked at pack by pack, in parts that fit into memory."""

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from dynamoe_search.records import StudyRecord
from dynamoe_search.training.failures import is_out_of_memory

_MOST_TOGETHER = 32

Run = TypeVar("Run")


def most_together(record: StudyRecord) -> int:
    """Returns how many runs of a study are looked at together: what training found to fit, and no more than 32."""
    known = _MOST_TOGETHER if record.max_pack is None else record.max_pack
    return max(1, min(_MOST_TOGETHER, record.settings.cohort_size, known))


def by_packs(
    runs: Iterable[Run],
    key: Callable[[Run], Hashable],
    look: Callable[[list[Run]], object],
    *,
    most: int,
    should_stop: Callable[[], bool],
) -> bool:
    """Calls `look` with all runs, those of one key together, in order and in parts.

    A part that does not fit into memory is halved, and so are all that follow; a single run that does not fit raises.

    Args:
        runs: What is looked at.
        key: Of a run; those of different keys are never together.
        look: Stores what it sees, so that nothing is seen twice.
        most: How many at a time.
        should_stop: Asked before every part.

    Returns:
        Whether it came to its end; false if `should_stop` returned true.
    """
    packs: dict[Hashable, list[Run]] = {}
    for run in runs:
        packs.setdefault(key(run), []).append(run)
    for pack in packs.values():
        start = 0
        while start < len(pack):
            if should_stop():
                return False
            part = pack[start : start + most]
            try:
                look(part)
            except (MemoryError, RuntimeError) as error:
                if len(part) == 1 or not is_out_of_memory(error):
                    raise
                most = len(part) // 2
            else:
                start += len(part)
    return True
