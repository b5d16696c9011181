"""Schedules: how many experts each layer has, as pure functions of depth. No torch.

A schedule is a shape s over the relative depth t = layer / (num_layers - 1); t = 0 if there is
only one layer:

    uniform        s = 1
    descending     s = 1 - t
    ascending      s = t
    pyramid-up     s = 1 - |2t - 1|                   highest in the middle
    pyramid-down   s = |2t - 1|                       lowest in the middle
    wave-up        s = (1 + sin(2 pi cycles t)) / 2   starts half-way, rising
    wave-down      s = (1 - sin(2 pi cycles t)) / 2   starts half-way, falling

A ramp then bends s, which runs from 0 (lowest) to 1 (highest): `linear` s, `cosine`
(1 - cos(pi s)) / 2, `quadratic` s^2. It bends the height and not the depth, so from two layers on
`ascending` is `descending` read backwards, and `wave-down` is `wave-up` read backwards, with every
ramp. The level of a layer is min_experts + (max_experts - min_experts) * ramp(s).

`match = "max"` rounds the levels, halves up. `match = "total"` first moves all levels up or down by
one common amount, cut off at min_experts and max_experts, so that they sum to the total, and then
rounds them by largest remainder.

Short networks have fewer shapes. With one layer `descending` and `pyramid-down` are highest,
`ascending` and `pyramid-up` lowest, waves half-way. With two layers pyramids and waves are flat,
with three layers waves are. From four layers on the shapes of one cycle differ; a wave is flat
wherever 2 * cycles is a multiple of num_layers - 1.

Source: Guelmez, 2026, arXiv:2603.01697 names the families. Its formulas were not available to us:
those above, the ramps and the matching are our own.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from dynamoe_search.errors import UsageError
from dynamoe_search.records import ScheduleConfig

SHAPES: Mapping[str, Callable[[float, int], float]] = MappingProxyType(
    {
        "uniform": lambda _, __: 1.0,
        "descending": lambda t, _: 1.0 - t,
        "ascending": lambda t, _: t,
        "pyramid-up": lambda t, _: 1.0 - abs(2.0 * t - 1.0),
        "pyramid-down": lambda t, _: abs(2.0 * t - 1.0),
        "wave-up": lambda t, cycles: (1.0 + math.sin(2.0 * math.pi * cycles * t)) / 2.0,
        "wave-down": lambda t, cycles: (1.0 - math.sin(2.0 * math.pi * cycles * t)) / 2.0,
    }
)
"""Name of a shape -> its height in [0, 1] at depth t in [0, 1], given the cycles of a wave."""

RAMPS: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "linear": lambda s: s,
        "cosine": lambda s: (1.0 - math.cos(math.pi * s)) / 2.0,
        "quadratic": lambda s: s * s,
    }
)
"""Name of a ramp -> the function that bends a height; each keeps 0, 1 and the order."""

_DECIMALS = 9  # equal heights are made equal in spite of float noise


def profile(config: ScheduleConfig, num_layers: int) -> tuple[float, ...]:
    """Returns the levels of the layers before they are rounded to whole experts.

    Args:
        config: The schedule.
        num_layers: Number of layers, at least 1.

    Raises:
        UsageError: If min_experts is not between 1 and max_experts, or the total is below one
            expert per layer.
    """
    _check(config, num_layers)
    ramp = RAMPS[config.ramp]
    span = config.max_experts - config.min_experts
    levels = [config.min_experts + span * ramp(s) for s in _heights(config, num_layers)]
    if config.match == "total":
        levels = _shift_to_total(levels, total_experts(config, num_layers), config)
    return tuple(round(level, _DECIMALS) for level in levels)


def experts_per_layer(config: ScheduleConfig, num_layers: int) -> tuple[int, ...]:
    """Returns the number of experts of each layer, at least 1.

    With match = "max" every number is between min_experts and max_experts, and `uniform` has
    max_experts everywhere.

    With match = "total" the numbers sum to `total_experts` exactly, and `uniform` spreads it
    evenly. They keep the order of the shape: where it is higher there are never fewer experts.
    A shape that is its own mirror image stays so if that can be had by rounding; otherwise the two
    layers of one pair differ by one. No number is below min_experts or above max_experts if
    the total is between num_layers * min_experts and num_layers * max_experts. Beyond that it is
    spread evenly, which loses the shape.

    Args:
        config: The schedule.
        num_layers: Number of layers, at least 1.

    Raises:
        UsageError: If min_experts is not between 1 and max_experts, or the total is below one
            expert per layer.
    """
    levels = profile(config, num_layers)
    if config.match == "max":
        return tuple(math.floor(level + 0.5) for level in levels)
    total = total_experts(config, num_layers)
    least, most = _bounds(config, total / num_layers)
    heights = _heights(config, num_layers)
    ranks = _ranks(heights, is_backwards=config.shape == "wave-down")
    if num_layers % 2 and heights == heights[::-1]:
        options = [
            counts
            for counts in _mirrored(levels, total, (math.floor(least), math.ceil(most)), ranks)
            if _keeps_order(heights, counts)
        ]
        if options:
            return min(options, key=lambda counts: math.dist(levels, counts))
    return _apportion(levels, total, math.ceil(most), ranks)


def total_experts(config: ScheduleConfig, num_layers: int) -> int:
    """Returns what the experts of all layers sum to with match = "total".

    If the schedule does not say, it is num_layers * (min_experts + max_experts) / 2, half up.
    """
    if config.total_experts is not None:
        return config.total_experts
    return (num_layers * (config.min_experts + config.max_experts) + 1) // 2


def _check(config: ScheduleConfig, num_layers: int) -> None:
    if num_layers < 1:
        raise UsageError(f"num_layers must be at least 1, got {num_layers}")
    if not 1 <= config.min_experts <= config.max_experts:
        raise UsageError(
            "schedule.min_experts must be between 1 and schedule.max_experts "
            f"({config.max_experts}), got {config.min_experts}"
        )
    if config.match == "total" and total_experts(config, num_layers) < num_layers:
        raise UsageError(
            f"schedule.total_experts must be at least one per layer ({num_layers}), "
            f"got {config.total_experts}; raise it or lower model.num_layers"
        )


def _heights(config: ScheduleConfig, num_layers: int) -> list[float]:
    shape = SHAPES[config.shape]
    steps = max(1, num_layers - 1)
    return [round(shape(layer / steps, config.cycles), _DECIMALS) for layer in range(num_layers)]


def _bounds(config: ScheduleConfig, mean: float) -> tuple[float, float]:
    """The fewest and most experts of a layer: the schedule's, unless the mean lies outside."""
    return min(float(config.min_experts), mean), max(float(config.max_experts), mean)


def _shift_to_total(levels: Sequence[float], total: int, config: ScheduleConfig) -> list[float]:
    """Adds one amount to all levels, cut off at the bounds, such that they sum to the total."""
    least, most = _bounds(config, total / len(levels))

    def shifted(amount: float) -> list[float]:
        return [min(most, max(least, level + amount)) for level in levels]

    below, above = least - max(levels), most - min(levels)
    for _ in range(100):  # bisection, to the last bit
        middle = (below + above) / 2
        if math.fsum(shifted(middle)) < total:
            below = middle
        else:
            above = middle
    return shifted(above)


def _ranks(heights: Sequence[float], *, is_backwards: bool) -> list[int]:
    """Places (0 first) of the layers among those that deserve one more expert equally.

    The highest of the shape comes first. Layers of equal height come in mirrored pairs, the outer
    pair first, and of a pair the first layer, or the last with `is_backwards`.
    """
    last = len(heights) - 1
    sign = -1 if is_backwards else 1
    order = sorted(
        range(len(heights)),
        key=lambda layer: (-heights[layer], min(layer, last - layer), sign * layer),
    )
    return [order.index(layer) for layer in range(len(heights))]


def _apportion(
    levels: Sequence[float], total: int, most: int, ranks: Sequence[int]
) -> tuple[int, ...]:
    """Whole numbers near the levels that sum to the total, by largest remainder.

    Starting from the levels rounded down, the layer that is furthest below its level gets one more
    expert each time; of several such layers the one of lowest rank.
    """
    counts = [math.floor(level) for level in levels]
    while sum(counts) < total:
        free = [layer for layer, count in enumerate(counts) if count < most]
        counts[min(free, key=lambda i: (counts[i] - levels[i], ranks[i]))] += 1
    return tuple(counts)


def _mirrored(
    levels: Sequence[float], total: int, bounds: tuple[int, int], ranks: Sequence[int]
) -> list[tuple[int, ...]]:
    """The same for an odd number of mirrored levels; returns results that are mirrored too.

    The middle layer gets a number that leaves an even rest, which goes to the others in pairs.
    """
    half = len(levels) // 2
    sides = [layer for layer in range(len(levels)) if layer != half]
    options = []
    for middle in (math.floor(levels[half]) + step for step in (-1, 0, 1)):
        rest = total - middle
        if rest % 2 or not bounds[0] <= middle <= bounds[1] or rest > len(sides) * bounds[1]:
            continue
        counts = _apportion(
            [levels[layer] for layer in sides],
            rest,
            bounds[1],
            [ranks[layer] for layer in sides],
        )
        options.append((*counts[:half], middle, *counts[half:]))
    return options


def _keeps_order(heights: Sequence[float], counts: Sequence[int]) -> bool:
    """Whether there are never fewer experts where the shape is higher."""
    ranked = sorted(zip(heights, counts, strict=True))
    return all(few <= many for (low, few), (high, many) in itertools.pairwise(ranked) if low < high)
