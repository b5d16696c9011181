"""What a study file leaves open, as Optuna distributions: values, middles, numbers."""

import math
from decimal import Decimal
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial

from dynamoe_search.specs import FloatRange, IntRange


def distribution_of(value: Any) -> BaseDistribution | None:
    """Returns the Optuna distribution of a value of a study file, None where it is fixed.

    The upper end of a stepped range moves down to the last value that whole steps reach.
    """
    if isinstance(value, IntRange):
        last = value.low + (value.high - value.low) // value.step * value.step
        if last == value.low:
            return None
        return IntDistribution(value.low, last, log=value.log, step=value.step)
    if isinstance(value, FloatRange):
        high = value.high if value.step is None else _last_step(value.low, value.high, value.step)
        if high == value.low:
            return None
        return FloatDistribution(value.low, high, log=value.log, step=value.step)
    if isinstance(value, tuple):
        choices = tuple(dict.fromkeys(value))
        return CategoricalDistribution(choices) if len(choices) > 1 else None
    return None


def _last_step(low: float, high: float, step: float) -> float:
    start, size = Decimal(str(low)), Decimal(str(step))
    return float(start + (Decimal(str(high)) - start) // size * size)


def only_value(value: Any) -> Any:
    """Returns the one value that a fixed setting can take."""
    if isinstance(value, IntRange | FloatRange):
        return value.low
    return value[0] if isinstance(value, tuple) else value


def middle_value(value: Any) -> Any:
    """Returns the value that stands for a setting: the middle of its range or of its numbers, else its first choice.

    The middle of a logarithmic range is the geometric one; it is moved to the nearest value on the
    range's steps.
    """
    distribution = distribution_of(value)
    if distribution is None:
        return only_value(value)
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        numbers = [one for one in choices if isinstance(one, int | float)]
        if len(numbers) < len(choices) or isinstance(numbers[0], bool):
            return choices[0]
        return sorted(numbers)[len(numbers) // 2]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = distribution.low, distribution.high
    middle = math.sqrt(low * high) if distribution.log else (low + high) / 2
    if distribution.step is not None and not distribution.log:
        middle = low + round((middle - low) / distribution.step) * distribution.step
    return round(middle) if isinstance(distribution, IntDistribution) else float(middle)


def lies_in(distribution: BaseDistribution, value: Any) -> bool:
    """Tells whether a distribution can produce a value."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if not distribution.low <= value <= distribution.high:
        return False
    if distribution.step is None:
        return True
    steps = (value - distribution.low) / distribution.step
    return math.isclose(steps, round(steps), abs_tol=1e-9)


def num_values(distribution: BaseDistribution) -> int | None:
    """Returns how many values a distribution can produce, None for a continuum."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if distribution.step is None:
        return None
    return round((distribution.high - distribution.low) / distribution.step) + 1


def all_values(value: Any) -> tuple[Any, ...]:
    """Returns every value that a setting without a continuum can take."""
    distribution = distribution_of(value)
    if distribution is None:
        return (only_value(value),)
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    assert isinstance(distribution, IntDistribution)
    return tuple(range(distribution.low, distribution.high + 1, distribution.step))


def suggest_from(trial: BaseTrial, path: str, distribution: BaseDistribution) -> Any:
    """Returns a value of one setting, sampled with an Optuna trial."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(path, distribution.choices)
    if isinstance(distribution, IntDistribution):
        low, high = distribution.low, distribution.high
        return trial.suggest_int(path, low, high, step=distribution.step, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    low_end, high_end = distribution.low, distribution.high
    return trial.suggest_float(
        path, low_end, high_end, step=distribution.step, log=distribution.log
    )


def value_at(distribution: BaseDistribution, fraction: float) -> Any:
    """Returns the value of a distribution below which a fraction of its mass lies.

    Args:
        distribution: Any of Optuna's three kinds.
        fraction: From 0 (included) to 1 (excluded).
    """
    count = num_values(distribution)
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(fraction * len(distribution.choices))]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        half = 0.5 if count is not None else 0.0  # whole numbers: each has its own stretch
        start, end = math.log(low - half), math.log(high + half)
        value = math.exp(start + fraction * (end - start))
    elif count is not None:
        value = low + int(fraction * count) * (distribution.step or 1)
    else:
        value = low + fraction * (high - low)
    value = min(high, max(low, value))
    return round(value) if isinstance(distribution, IntDistribution) else value
