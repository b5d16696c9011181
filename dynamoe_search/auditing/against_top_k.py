"""The claims that hold dynamic routing against top-k: noise of gradients, and activated parameters."""

import math
from collections.abc import Sequence

import numpy as np

from dynamoe_search.auditing.estimates import Estimate, interpolate, jackknife, mean_estimate
from dynamoe_search.auditing.findings import Finding, Margins, decide, finding, undecided
from dynamoe_search.auditing.observations import AuditPlan, Curve, Noise, Observation, Runs


def gradient(plan: AuditPlan, runs: Runs, margins: Margins) -> list[Finding]:
    """Is gradient noise lower than that of top-k with the same mean K? Two lines per dynamic router.

    The logarithm of top-k's noise is interpolated linearly in k to the mean K that was measured at that moment.
    """
    curves = [
        curve for curve in plan.curves if curve.label in plan.routers
    ]  # no trials of the front
    moments = [
        decide([_lower_noise(curve, moment, runs, margins.noise) for curve in curves])
        for moment in ("start", "end")
    ]
    return [one for pair in zip(*moments, strict=True) for one in pair]


def _lower_noise(curve: Curve, moment: str, runs: Runs, margin: float) -> Finding:
    subject = f"{curve.label}, {moment} of training"
    total, shared, mean_k = [], [], []
    for replicate in runs.replicates(curve.design, *curve.rivals.values()):
        own = _noise(runs.of(curve.design, replicate), moment)
        rivals = {k: _noise(runs.of(name, replicate), moment) for k, name in curve.rivals.items()}
        if own is None or None in rivals.values():
            continue
        mean_k.append(own.mean_k)
        total.append(_log_ratio(own.total, {k: r.total for k, r in rivals.items() if r}, own))
        shared.append(_log_ratio(own.shared, {k: r.shared for k, r in rivals.items() if r}, own))
    estimate = _in_per_cent(mean_estimate(total))
    if estimate.n == 0:
        return undecided("gradient", subject, 100 * margin, "too few runs with a gradient")
    others = _in_per_cent(mean_estimate(shared))
    direction = "lower" if estimate.effect > 0 else "higher"
    size = f"{abs(estimate.effect):.0f} % {direction} than"
    if abs(estimate.effect) < 0.5:
        size = "about"
    sentence = f"gradient noise is {size} that of top-k with K = {np.mean(mean_k):.2f}"
    details = {
        "mean_k": float(np.mean(mean_k)),
        "lower_without_experts": others.effect,
        "lower_without_experts_low": others.low,
        "lower_without_experts_high": others.high,
    }
    return finding("gradient", subject, estimate, 100 * margin, sentence, details)


def _noise(run: Observation, moment: str) -> Noise | None:
    return run.noise_start if moment == "start" else run.noise_end


def _log_ratio(own: float, rivals: dict[int, float], at: Noise) -> float:
    """Logarithm of top-k's noise at the same mean K, over one's own; NaN if a noise is no positive number."""
    values = [own, *rivals.values()]
    if not all(math.isfinite(value) and value > 0 for value in values):
        return math.nan
    rival = interpolate(list(rivals), [math.log(value) for value in rivals.values()], at.mean_k)
    return rival - math.log(own)


def _in_per_cent(estimate: Estimate) -> Estimate:
    """From the logarithm of a ratio to the share, in per cent, by which one's own is lower."""

    def lower(log_ratio: float) -> float:
        return 100 * (1 - math.exp(-log_ratio))

    return Estimate(
        effect=lower(estimate.effect),
        low=lower(estimate.low),
        high=lower(estimate.high),
        p=estimate.p,
        n=estimate.n,
    )


def activated(plan: AuditPlan, runs: Runs, margins: Margins) -> list[Finding]:
    """Is a dynamic design above the curve of top-k, score over activated parameters? One line each.

    Verdicts look at the score at equal parameters, not at the parameters at equal score: where the curve of
    top-k is flat, those are whatever the noise says. Where it rises the two are the same question. Outside the curve
    the score of its nearest end counts.
    """
    return decide([_above_curve(curve, plan, runs, margins.score) for curve in plan.curves])


def _above_curve(curve: Curve, plan: AuditPlan, runs: Runs, margin: float) -> Finding:
    replicates = runs.replicates(curve.design, *curve.rivals.values())
    own = [runs.of(curve.design, one) for one in replicates]
    rivals = [[runs.of(name, one) for name in curve.rivals.values()] for one in replicates]
    estimate = mean_estimate(
        [
            100 * (one.score - _height(points, one.activated_params))
            for one, points in zip(own, rivals, strict=True)
        ],
        resolution=max((one.step for one in own), default=0.0),
    )
    if estimate.n == 0:
        return undecided("activated", curve.label, margin, "too few runs ended well")
    score = np.array(
        [[one.score, *(r.score for r in points)] for one, points in zip(own, rivals, strict=True)]
    )
    size = np.array(
        [
            [one.activated_params, *(r.activated_params for r in points)]
            for one, points in zip(own, rivals, strict=True)
        ]
    )

    def saving(rows: Sequence[int]) -> float:
        return _saving(score[list(rows)].mean(0), size[list(rows)].mean(0))

    saved = jackknife(saving, len(own))
    mean = size[:, 0].mean()
    details = {
        "activated_params": float(mean),
        plan.score_name: plan.level(float(score[:, 0].mean())),
        "saving": saved.effect,
        "saving_low": saved.low,
        "saving_high": saved.high,
    }
    words = _saving_words(estimate.effect, float(mean), saved, plan.score_name)
    return finding("activated", curve.label, estimate, margin, words, details)


def _saving_words(above: float, size: float, saved: Estimate, score_name: str) -> str:
    low, middle, high = (100 * value for value in (saved.low, saved.effect, saved.high))
    if middle < 0:
        low, middle, high = -high, -middle, -low
        change = f"needs {middle:.0f} % [{low:.0f}, {high:.0f}] more"
    else:
        change = f"saves {middle:.0f} % [{low:.0f}, {high:.0f}]"
    return (
        f"{abs(above):.2f} points {'above' if above > 0 else 'below'} top-k at {size:,.0f} activated parameters; "
        f"{change} of them at equal {score_name}"
    )


def _height(points: Sequence[Observation], at: float) -> float:
    return interpolate([one.activated_params for one in points], [one.score for one in points], at)


def _saving(score: np.ndarray, size: np.ndarray) -> float:
    """Share of parameters that the first design saves against the smallest point of the others' curve as good.

    The curve is the best score with no more parameters, so it never falls; where no point is as good, its last one
    counts.
    """
    order = np.argsort(size[1:], kind="stable")
    x, y = size[1:][order], np.maximum.accumulate(score[1:][order])
    first = int(np.searchsorted(y, score[0]))  # the first point that is as good
    if first == 0 or first == len(y):
        needed = x[min(first, len(y) - 1)]
    else:
        share = (score[0] - y[first - 1]) / (y[first] - y[first - 1])
        needed = x[first - 1] + share * (x[first] - x[first - 1])
    return float(1 - size[0] / needed)
