"""Values that a study may vary: a scalar is fixed, a list is a choice, `{low, high, log, step}` is a range."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    Tag,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_MOST_STEPS = 1_000_000  # of a range, which Optuna counts exactly


class Frozen(BaseModel):
    """Base of every part of a study file: immutable, strict, and closed to unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class IntRange(Frozen):
    """Whole numbers from `low` to `high`, both included."""

    low: int
    """Smallest value."""
    high: int
    """Largest value, included."""
    step: int = Field(default=1, ge=1)
    """Distance between two values; must be 1 when `log` is true."""
    log: bool = False
    """Sample on a logarithmic scale."""

    @model_validator(mode="after")
    def _is_not_empty(self) -> "IntRange":
        _check_range(self.low, self.high, self.step if self.step != 1 else None, self.log)
        return self


class FloatRange(Frozen):
    """Real numbers from `low` to `high`, both included."""

    low: float
    """Smallest value."""
    high: float
    """Largest value, included."""
    step: float | None = Field(default=None, gt=0)
    """Distance between two values; none means any real number."""
    log: bool = False
    """Sample on a logarithmic scale."""

    @model_validator(mode="after")
    def _is_not_empty(self) -> "FloatRange":
        _check_range(self.low, self.high, self.step, self.log)
        return self


def _check_range(low: float, high: float, step: float | None, log: bool) -> None:
    if low > high:
        raise PydanticCustomError("empty_range", "the range is empty: low must be at most high")
    if step is not None and low < high and step > high - low:
        raise PydanticCustomError("long_step", "the step is longer than the range")
    if step is not None and high - low > _MOST_STEPS * step:
        raise PydanticCustomError("short_step", "the step is too short: over a million values")
    if log and low <= 0:
        raise PydanticCustomError("log_range", "a logarithmic range needs low above 0")
    if log and step is not None:
        raise PydanticCustomError("log_step", "a range has either log or step, not both")


def form_of(value: Any) -> Literal["value", "choice", "range"]:
    """Tells which of the three forms a searchable value has."""
    if isinstance(value, dict | IntRange | FloatRange):
        return "range"
    return "choice" if isinstance(value, list | tuple | set | frozenset) else "value"


def values_of(value: Any) -> Iterator[Any]:
    """Yields the scalar, every member of a choice, or both ends of a range: enough to check bounds on."""
    if isinstance(value, IntRange | FloatRange):
        yield value.low
        yield value.high
    elif isinstance(value, tuple):
        yield from value
    else:
        yield value


def whole_numbers_of(value: Any) -> Iterator[int]:
    """Yields every number that a searchable whole number can take."""
    if isinstance(value, IntRange):
        yield from range(value.low, value.high + 1, value.step)
    else:
        yield from values_of(value)


def is_fixed(value: Any) -> bool:
    """Tells whether a searchable value can take one value only."""
    if isinstance(value, IntRange | FloatRange):
        return value.low == value.high
    return not isinstance(value, tuple) or len(value) == 1


@dataclass(frozen=True, slots=True)
class Within:
    """Bounds that hold for the scalar, for each member of a choice and for every value of a range."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    multiple_of: int | None = None

    def describe(self) -> str:
        """Returns the bounds in words, for messages and the reference page."""
        words = [
            (self.ge, "at least"),
            (self.gt, "above"),
            (self.le, "at most"),
            (self.lt, "below"),
            (self.multiple_of, "a multiple of"),
        ]
        return " and ".join(f"{word} {bound:g}" for bound, word in words if bound is not None)

    def allows(self, number: float) -> bool:
        """Tells whether one number is inside the bounds."""
        return (
            (self.ge is None or number >= self.ge)
            and (self.gt is None or number > self.gt)
            and (self.le is None or number <= self.le)
            and (self.lt is None or number < self.lt)
            and (self.multiple_of is None or number % self.multiple_of == 0)
        )

    def _check_steps(self, value: Any) -> None:
        """Refuses a range that leaves the multiples between its ends."""
        if self.multiple_of is None or not isinstance(value, IntRange) or value.low == value.high:
            return
        if value.log:
            raise PydanticCustomError(
                "log_between_multiples",
                "must be a multiple of {multiple}, which a range with log does not keep to; "
                "write a list, or step = {multiple} without log",
                {"multiple": self.multiple_of},
            )
        if value.step % self.multiple_of:
            raise PydanticCustomError(
                "step_between_multiples",
                "must be a multiple of {multiple}, which steps of {step} do not keep to; "
                "write step = {good}",
                {
                    "multiple": self.multiple_of,
                    "step": value.step,
                    "good": -(-value.step // self.multiple_of) * self.multiple_of,
                },
            )

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def check(value: Any) -> Any:
            for member in values_of(value):
                if member is not None and not self.allows(member):
                    raise PydanticCustomError(
                        "out_of_bounds",
                        "must be {bounds}, which {member} is not",
                        {"bounds": self.describe(), "member": member},
                    )
            self._check_steps(value)
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))


_Choices = Field(strict=False, min_length=1, max_length=1000)

SearchInt: TypeAlias = Annotated[
    Annotated[int, Tag("value")]
    | Annotated[tuple[int, ...], Tag("choice"), _Choices]
    | Annotated[IntRange, Tag("range")],
    Discriminator(form_of),
]
SearchFloat: TypeAlias = Annotated[
    Annotated[float, Tag("value")]
    | Annotated[tuple[float, ...], Tag("choice"), _Choices]
    | Annotated[FloatRange, Tag("range")],
    Discriminator(form_of),
]
SearchBool: TypeAlias = Annotated[
    Annotated[bool, Tag("value")] | Annotated[tuple[bool, ...], Tag("choice"), _Choices],
    Discriminator(form_of),
]
