"""What designs are compared by: accuracy, or a loss in one of three units; on which scale, and how it is written.

Means, differences and intervals are made of *values*, on a scale on which adding up makes sense: accuracies are shares
of the examples, and perplexities are taken by their logarithm, the loss in nats. A perplexity's mean over seeds is
thus the geometric one, its interval is that of the loss carried over, and differences are ratios. So perplexity and
loss always come to the same verdict, and so do bits per byte, a multiple of the loss.

*Gains* are differences that are positive where the first design is better, whichever way better is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from dynamoe_search.intervals import Difference, Interval

MeasureName = Literal["accuracy", "perplexity", "bits_per_byte", "validation_loss"]
_Estimate = TypeVar("_Estimate", bound=Interval | Difference)
_MOST_NATS = 700.0  # beyond it a perplexity is no number, see `records.language_metrics`


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """What designs are compared by.

    Attributes:
        name: The objective.
        words: What it is called: `test perplexity` is that of the test part.
        plural: Several of it.
        is_maximised: Whether more is better.
        unit: Of gains, as it stands after a number; with a space before it if it has one.
    """

    name: MeasureName
    words: str
    plural: str
    is_maximised: bool = False
    unit: str = ""

    @property
    def value_name(self) -> str:
        """The metric of a candidate that has its values."""
        return "validation_loss" if self.name == "perplexity" else self.name

    def of(self, metrics: Mapping[str, float]) -> float:
        """Returns the value of a candidate on the validation part."""
        return metrics[self.value_name]

    def of_test(self, accuracy: float, loss: float, metrics: Mapping[str, float]) -> float:
        """Returns the value of a candidate on the test part.

        Args:
            accuracy: Share of the examples, or tokens, that were guessed right.
            loss: In nats.
            metrics: Of the validation part, which says how many bytes a token has.
        """
        if self.name == "accuracy":
            return accuracy
        if self.name == "bits_per_byte":
            return loss * metrics["bits_per_byte"] / metrics["validation_loss"]
        return loss

    def resolution(self, examples: int) -> float:
        """Returns the step of the scale that values are read from; a loss has none."""
        return 1 / examples if examples and self.name == "accuracy" else 0.0

    def gain(self, first: float, second: float) -> float:
        """Returns by how much the first value is better."""
        return first - second if self.is_maximised else second - first

    def shown(self, value: float) -> float:
        """Returns a value as people know it: of perplexities not their logarithm."""
        if self.name == "perplexity":
            return math.exp(min(value, _MOST_NATS))
        return value

    def shown_gain(self, gain: float) -> float:
        """Returns a gain as people know it: of perplexities the share by which the better one is lower."""
        return -math.expm1(min(-gain, _MOST_NATS)) if self.name == "perplexity" else gain

    def possible(self, found: Interval) -> Interval:
        """Returns an interval whose ends are none beyond what a value can be."""
        most = 1.0 if self.name == "accuracy" else math.inf
        return _within(found, 0.0, most)

    def possible_gain(self, found: _Estimate) -> _Estimate:
        """Returns an interval whose ends are none beyond what a gain can be."""
        most = 1.0 if self.name == "accuracy" else math.inf
        return _within(found, -most, most)

    def text(self, value: float) -> str:
        """Returns a value in words, without a unit: 93.4 (points) for an accuracy of 0.934."""
        if math.isnan(value):
            return "-"
        shown = self.shown(value)
        if self.name == "accuracy":
            return f"{100 * shown:.1f}"
        if self.name == "perplexity":
            return f"{shown:,.{2 if shown < 100 else 1 if shown < 1000 else 0}f}"
        return f"{shown:.3f}"

    def gain_text(self, gain: float, *, signed: bool = True) -> str:
        """Returns a gain in words, without its unit."""
        if math.isnan(gain):
            return "-"
        sign = "+" if signed else ""
        shown = self.shown_gain(gain)
        if self.name in ("accuracy", "perplexity"):
            return f"{100 * shown:{sign}.1f}"
        return f"{shown:{sign}.3f}"

    def interval_text(self, found: Interval) -> str:
        """Returns a mean with its interval in words: `93.4 (92.9 to 93.9)`."""
        if math.isnan(found.low):
            return self.text(found.mean)
        ends = self.possible(found)
        return f"{self.text(found.mean)} ({self.text(ends.low)} to {self.text(ends.high)})"

    def gains_text(self, found: Interval | Difference) -> str:
        """Returns a mean gain with its interval and unit in words: `+1.5 (-0.2 to +3.2) points`."""
        if math.isnan(found.low):
            return f"{self.gain_text(found.mean)}{self.unit}"
        ends = self.possible_gain(found)
        between = f"{self.gain_text(ends.low)} to {self.gain_text(ends.high)}"
        return f"{self.gain_text(found.mean)} ({between}){self.unit}"

    def by_text(self, found: Interval | Difference) -> str:
        """Returns the size of a gain or loss whose interval has one sign only: `by 1.5 (0.2 to 2.8) points`."""
        ends = self.possible_gain(found)
        least, most = (ends.low, ends.high) if found.mean >= 0 else (ends.high, ends.low)
        number, least_text, most_text = (self._size(end) for end in (found.mean, least, most))
        return f"by {number} ({least_text} to {most_text}){self.unit}"

    def sided_text(self, gain: float, ahead: str, behind: str, *, unit: bool = True) -> str:
        """Returns a gain without a sign: `2.0 points above`, or below.

        Args:
            gain: The gain.
            ahead: The word for one.
            behind: The word for a loss.
            unit: Whether to name the unit.
        """
        return f"{self._size(gain)}{self.unit if unit else ''} {ahead if gain >= 0 else behind}"

    def _size(self, gain: float) -> str:
        return self.gain_text(gain, signed=False).removeprefix("-")

    def width_text(self, half: float) -> str:
        """Returns half of an interval's width in words: `±1.5 points`, or a factor where ± would mislead."""
        if self.name != "perplexity":
            return f"±{self.gain_text(half, signed=False)}{self.unit}"
        more = math.expm1(min(half, _MOST_NATS))
        return (
            f"±{100 * more:.1f}{self.unit}"
            if more < 0.5
            else f"a factor of {1 + more:.3g} each way"
        )


def _within(found: _Estimate, least: float, most: float) -> _Estimate:
    low, high = (min(max(end, least), most) for end in (found.low, found.high))  # a NaN stays one
    return replace(found, low=low, high=high)


ACCURACY = Measure(
    name="accuracy", words="accuracy", plural="accuracies", is_maximised=True, unit=" points"
)
MEASURES: Mapping[MeasureName, Measure] = {
    one.name: one
    for one in (
        ACCURACY,
        Measure(name="perplexity", words="perplexity", plural="perplexities", unit=" %"),
        Measure(name="bits_per_byte", words="bits per byte", plural="bits per byte", unit=" bits"),
        Measure(name="validation_loss", words="loss", plural="losses", unit=" nats"),
    )
}
"""Every measure by the objective that it is."""


def measure_of(objectives: Sequence[str]) -> Measure:
    """Returns what the designs of a study are compared by: accuracy if that is an objective, else the first loss.

    A study that has neither among its objectives is compared by accuracy.
    """
    losses = [MEASURES[name] for name in MEASURES if name in objectives]
    if "accuracy" in objectives or not losses:
        return ACCURACY
    return min(losses, key=lambda one: list(objectives).index(one.name))
