"""The claims that an audit asks about, where they come from, and the rule of the verdict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from dynamoe_search.auditing.estimates import Estimate
from dynamoe_search.intervals import holm

Verdict = Literal["holds", "does not hold", "not decided"]
FINDINGS = "findings"
"""Kind of evidence that has the answers of an audit, on its first trial."""
SIGNIFICANCE = 0.05
RULE = (
    "holds: the effect is at least the margin and its 95 % interval above 0, also with Holm's correction for the lines "
    "that ask the same; does not hold: the whole interval is below the margin; otherwise not decided with this budget"
)


POINTS_OF_TEXT = "a point is a hundredth of a nat of the loss, about 1 % of the perplexity"
"""What a point is where scores are losses; an accuracy's is a hundredth of the examples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A question of an audit.

    Attributes:
        key: Its name on the command line.
        words: The claim, as a sentence.
        source: Who makes it.
        effect: What the effect is and in which unit.
    """

    key: str
    words: str
    source: str
    effect: str


_CLAIMS = (
    Claim(
        key="schedule",
        words="The place of experts in the depth matters beyond the noise of seeds.",
        source="DynaMoE, arXiv:2603.01697 (descending beats uniform on images)",
        effect="accuracy (of text: minus the loss) of the best shape less that of the worst, in points",
    ),
    Claim(
        key="variation",
        words="The number of experts K differs from token to token.",
        source="DynaMoE, arXiv:2603.01697; DynMoE, arXiv:2405.14297; Dynamic MoE, arXiv:2403.07652",
        effect="standard deviation of K over the tokens of a layer, in experts",
    ),
    Claim(
        key="hardness",
        words="Harder inputs get more experts.",
        source="Dynamic MoE, arXiv:2403.07652",
        effect="Spearman correlation of K and loss, minus that of random K with the same histogram",
    ),
    Claim(
        key="gradient",
        words="Dynamic routing lowers the variance of gradients.",
        source="DynaMoE, arXiv:2603.01697",
        effect="how much lower the gradient noise is than that of top-k with the same mean K, in per cent",
    ),
    Claim(
        key="settling",
        words="The number of adaptive experts settles.",
        source="DynMoE, arXiv:2405.14297",
        effect="open experts changed per layer and update, first third of training minus last third",
    ),
    Claim(
        key="activated",
        words="Dynamic routing needs fewer activated parameters than a top-k that is as good.",
        source="Dynamic MoE, arXiv:2403.07652; DynMoE, arXiv:2405.14297",
        effect="accuracy (of text: minus the loss) above the curve of top-k at equal activated parameters, in points",
    ),
)
CLAIMS: Mapping[str, Claim] = {claim.key: claim for claim in _CLAIMS}
"""Every claim by its name on the command line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Margins:
    """The smallest effects that are worth talking about.

    Attributes:
        score: In points; what `--margin` sets.
        spread: Of K, in experts.
        correlation: Rank correlation.
        noise: Share by which gradient noise is lower.
        changes: Open experts per layer and update.
    """

    score: float = 0.5
    spread: float = 0.1
    correlation: float = 0.1
    noise: float = 0.1
    changes: float = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """An answer: one line of an audit.

    Attributes:
        claim: Key of the claim.
        subject: Which router, matching or design.
        verdict: The answer.
        effect: What was measured, in the claim's unit; NaN if nothing could be.
        low, high: Its 95 % interval.
        n: Replicates behind it.
        margin: The smallest effect of interest, in the same unit.
        p: Of an effect of 0, before Holm's correction; NaN if there is none.
        sentence: The answer in plain words.
        details: More numbers by name.
    """

    claim: str
    subject: str
    verdict: Verdict
    effect: float
    low: float
    high: float
    n: int
    margin: float
    p: float
    sentence: str
    details: Mapping[str, float] = field(default_factory=dict)


def finding(
    claim: str,
    subject: str,
    estimate: Estimate,
    margin: float,
    sentence: str,
    details: Mapping[str, float] | None = None,
) -> Finding:
    """Returns a line whose verdict is still open; `decide` gives all lines of a claim theirs."""
    return Finding(
        claim=claim,
        subject=subject,
        verdict="not decided",
        effect=estimate.effect,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        margin=margin,
        p=estimate.p,
        sentence=sentence,
        details=details or {},
    )


def undecided(claim: str, subject: str, margin: float, why: str) -> Finding:
    """Returns the line of a question that these runs cannot answer."""
    return finding(claim, subject, Estimate.unknown(), margin, why)


def decide(findings: Sequence[Finding]) -> list[Finding]:
    """Returns lines that ask the same of several designs with their verdicts, by the rule `RULE`."""
    asked = [one.p for one in findings if not math.isnan(one.p)]
    corrected = iter(holm(asked))
    decided = []
    for one in findings:
        p = math.nan if math.isnan(one.p) else next(corrected)
        decided.append(replace(one, verdict=_verdict(one, p)))
    return decided


def _verdict(one: Finding, p: float) -> Verdict:
    if math.isnan(one.effect):
        return "not decided"
    if one.high < one.margin:
        return "does not hold"
    if one.effect >= one.margin and one.low > 0 and p < SIGNIFICANCE:
        return "holds"
    return "not decided"
