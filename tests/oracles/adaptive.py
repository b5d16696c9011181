"""The adaptive process as loops over plain Python lists, one candidate and one slot at a time."""

import math


def update_slots_slowly(
    is_open: list[bool],
    exists: list[bool],
    routed: list[float],
    unrouted: list[float],
    *,
    add: bool,
    remove: bool,
    due: bool,
) -> tuple[list[bool], int, list[float]]:
    """Returns the open slots of one candidate, the opened slot or -1, and its router row."""
    mask = list(is_open)
    nothing = [0.0] * len(unrouted)
    if not due:
        return mask, -1, nothing
    if remove:
        for slot in range(len(mask)):
            if routed[slot] == 0:
                mask[slot] = False
    if not add or all(value == 0 for value in unrouted):
        return mask, -1, nothing
    for slot in range(len(mask)):
        if exists[slot] and not mask[slot]:
            mask[slot] = True
            norm = math.hypot(*unrouted)
            return mask, slot, [value / norm for value in unrouted]
    return mask, -1, nothing
