"""The claim about schedules: does it matter where in the depth the experts are?"""

from collections.abc import Mapping

import numpy as np

from dynamoe_search.auditing.estimates import blocked_anova, mean_estimate
from dynamoe_search.auditing.findings import Finding, Margins, decide, finding, undecided
from dynamoe_search.auditing.observations import AuditPlan, Runs

_WORDS = {"total": "equal total", "max": "equal maximum"}


def schedule(plan: AuditPlan, runs: Runs, margins: Margins) -> list[Finding]:
    """Two lines per matching: all shapes against each other, and descending against uniform."""
    asked = [(_WORDS[matching], designs) for matching, designs in plan.shapes.items()]
    whole = [_all_shapes(words, designs, plan, runs, margins) for words, designs in asked]
    return decide(
        [*whole, *(_descending(words, designs, runs, margins) for words, designs in asked)]
    )


def _all_shapes(
    words: str, designs: Mapping[str, str], plan: AuditPlan, runs: Runs, margins: Margins
) -> Finding:
    levels = _levels(designs)
    replicates = runs.replicates(*levels)
    if len(levels) < 2:
        why = "with so few layers all shapes are the same network"
        return undecided("schedule", words, margins.score, why)
    if len(replicates) < 2:
        return undecided("schedule", words, margins.score, "too few runs ended well")
    points = np.array(
        [[100 * runs.of(design, one).score for design in levels] for one in replicates]
    )
    result = blocked_anova(points, resolution=runs.of(next(iter(levels)), replicates[0]).step)
    order = np.argsort(-result.means, kind="stable").tolist()
    names = list(levels.values())
    lead = float(result.means[order[0]] - result.means[order[1]])
    is_clear = lead > result.half_width
    level = plan.level(float(result.means[order[0]]) / 100)
    best = f"{names[order[0]]} ({f'perplexity {level:.4g}' if plan.is_text else f'{100 * level:.2f} %'})"
    winner = (
        f"{best} wins, {lead:.2f} points before {names[order[1]]}"
        if is_clear
        else f"no clear winner: {best} is {lead:.2f} ± {result.half_width:.2f} points before {names[order[1]]}"
    )
    sentence = (
        f"{winner}; shapes explain {100 * result.share:.0f} % of the variance within seeds "
        f"[{100 * result.share_low:.0f}, {100 * result.share_high:.0f}] (F = {result.f:.2f}, {_p_words(result.p)})"
    )
    details = {
        "f": result.f,
        "p_of_f": result.p,
        "omega_squared": result.share,
        "omega_squared_low": result.share_low,
        "omega_squared_high": result.share_high,
        "lead": lead,
        "half_width": result.half_width,
        **{
            f"{plan.score_name} of {name}": plan.level(m / 100) if plan.is_text else float(m)
            for name, m in zip(names, result.means, strict=True)
        },
    }
    return finding("schedule", words, result.spread, margins.score, sentence, details)


def _p_words(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _levels(designs: Mapping[str, str]) -> dict[str, str]:
    """Returns design -> names of the shapes that it stands for."""
    levels: dict[str, str] = {}
    for shape, design in designs.items():
        levels[design] = f"{levels[design]} = {shape}" if design in levels else shape
    return levels


def _descending(words: str, designs: Mapping[str, str], runs: Runs, margins: Margins) -> Finding:
    subject = f"descending against uniform, {words}"
    first, second = designs.get("descending"), designs.get("uniform")
    if first is None or second is None or first == second:
        why = "with so few layers they are the same network"
        return undecided("schedule", subject, margins.score, why)
    pairs = [(runs.of(first, one), runs.of(second, one)) for one in runs.replicates(first, second)]
    estimate = mean_estimate(
        [100 * (one.score - other.score) for one, other in pairs],
        resolution=max((one.step for one, _ in pairs), default=0.0),
    )
    if estimate.n == 0:
        return undecided("schedule", subject, margins.score, "too few runs ended well")
    side = "above" if estimate.effect > 0 else "below"
    sentence = f"descending is {abs(estimate.effect):.2f} points {side} uniform"
    return finding("schedule", subject, estimate, margins.score, sentence)
