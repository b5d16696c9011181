"""What an audit trains and what it sees: plain records between the runs and the statistics."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dynamoe_search.records import Candidate


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedDesign:
    """A design that an audit trains once per replicate.

    Its candidate's seed and ordinal mean nothing: those are given when the study is made.
    """

    name: str
    candidate: Candidate


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A dynamic design, and top-k designs that differ from it in the routing only.

    Attributes:
        label: What people call it: a router, or a trial of the front.
        design: Name of the dynamic design.
        rivals: Names of the top-k designs by k.
    """

    label: str
    design: str
    rivals: Mapping[int, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditPlan:
    """Which designs answer which claims; a design that several claims need stands here once.

    Attributes:
        designs: Everything that is trained in the first round, in order.
        shapes: matching (`total`, `max`) -> experts per layer in words -> (shapes, design).
            Shapes with the same experts in every layer are one level.
        routers: Kind of router -> design, all on the same uniform schedule.
        curves: What is held against top-k.
        controls: Kinds that need a random-k control, whose histogram is known after the first round.
        adaptive: The design whose experts come and go; none if nobody asks.
        claims: Which claims are asked.
        is_text: Whether language models are trained, whose scores are losses.
    """

    designs: tuple[PlannedDesign, ...] = ()
    shapes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    routers: Mapping[str, str] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    controls: tuple[str, ...] = ()
    adaptive: str | None = None
    claims: tuple[str, ...] = ()
    is_text: bool = False

    @property
    def score_name(self) -> str:
        """What `level` gives."""
        return "perplexity" if self.is_text else "accuracy"

    def level(self, score: float) -> float:
        """Returns a score as people know it: an accuracy, or the perplexity that minus the loss stands for."""
        return math.exp(min(-score, 700.0)) if self.is_text else score


def control_name(kind: str) -> str:
    """Returns the name of the design that gives random tokens as many experts as a router of this kind."""
    return f"random-k as {kind}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardness:
    """Rank correlation of the loss of an example, or of a token of text, with its experts; None where K is constant."""

    overall: float | None  # of K summed over layers
    per_layer: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """How much the gradients of minibatches differ, at one moment of training.

    Attributes:
        total: Variance of the minibatch gradient over the squared norm of the mean gradient.
        shared: The same without the experts' parameters.
        mean_k: Experts per token in those minibatches, mean over layers.
        batches: How many minibatches.
    """

    total: float
    shared: float
    mean_k: float
    batches: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """One run of one design, measured on the training and the validation part."""

    design: str
    replicate: int
    score: float  # accuracy from 0 to 1; of a language model minus the loss in nats
    activated_params: float
    mean_k: tuple[float, ...]  # per layer
    std_k: tuple[float, ...]
    num_steps: int
    num_examples: (
        int  # of the validation part, which accuracies are counts of; 0 if the score is no count
    )
    events: tuple[tuple[int, tuple[int, ...]], ...] = ()  # (step, open experts per layer)
    hardness: Hardness | None = None
    noise_start: Noise | None = None
    noise_end: Noise | None = None

    @property
    def step(self) -> float:
        """One example's share of the accuracy, in points; 0 if the score is a loss."""
        return 100 / self.num_examples if self.num_examples else 0.0


class Runs:
    """Observations by design and replicate.

    Args:
        observations: At most one per design and replicate; runs that failed are missing.
    """

    def __init__(self, observations: Iterable[Observation]) -> None:
        self._known = {(one.design, one.replicate): one for one in observations}

    def replicates(self, *designs: str) -> list[int]:
        """Returns the replicates in which all of these designs ended well."""
        numbers = sorted({replicate for _, replicate in self._known})
        return [
            number for number in numbers if all((name, number) in self._known for name in designs)
        ]

    def of(self, design: str, replicate: int) -> Observation:
        """Returns one run; raises `KeyError` if it is missing."""
        return self._known[design, replicate]

    def all_of(self, design: str) -> list[Observation]:
        """Returns the runs of a design, by replicate."""
        return [self.of(design, number) for number in self.replicates(design)]
