"""From runs to answers: one function per claim, each a pure function of what was observed.

Replicates are paired: within one, all designs see the same batches in the same order, so what differs between seeds
cancels. A run that failed takes its replicate out of the comparisons that need it, and only out of those.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from dynamoe_search.auditing.against_top_k import activated, gradient
from dynamoe_search.auditing.estimates import Estimate, mean_estimate
from dynamoe_search.auditing.findings import Finding, Margins, decide, finding, undecided
from dynamoe_search.auditing.observations import AuditPlan, Observation, Runs, control_name
from dynamoe_search.auditing.shapes import schedule

LEAST_UPDATES = 2
"""Updates of adaptive experts that a third of the training needs, to say anything about it."""


def judge_claims(
    plan: AuditPlan, observations: Iterable[Observation], margins: Margins
) -> list[Finding]:
    """Returns the answers to all claims of a plan, in its order; lines that belong together stand together."""
    runs = Runs(observations)
    return [one for claim in plan.claims for one in _JUDGES[claim](plan, runs, margins)]


def variation(plan: AuditPlan, runs: Runs, margins: Margins) -> list[Finding]:
    """Does K differ between the tokens of a layer? One line per router, each a question of its own.

    It is no matter of luck whether one of many routers varies K, so there is no correction for their number.
    """
    found = []
    for kind, design in plan.routers.items():
        own = runs.all_of(design)
        spreads = [sum(one.std_k) / len(one.std_k) for one in own]
        estimate = mean_estimate(spreads)
        if estimate.n == 0:
            found.append(undecided("variation", kind, margins.spread, "too few runs ended well"))
            continue
        mean_k = sum(sum(one.mean_k) / len(one.mean_k) for one in own) / len(own)
        most = max(max(one.std_k) for one in own)
        if most == 0.0:
            words = f"every token uses the same number of experts in every layer and run (K = {mean_k:.2f})"
        else:
            words = f"K is {mean_k:.2f} on average, with a standard deviation of {estimate.effect:.2f} within a layer"
        details = {"mean_k": mean_k, "largest_std_k": most}
        found += decide([finding("variation", kind, estimate, margins.spread, words, details)])
    return found


def hardness(plan: AuditPlan, runs: Runs, margins: Margins) -> list[Finding]:
    """Do examples with a higher loss get more experts than chance gives them? One line per dynamic router."""
    found, inputs = [], "tokens" if plan.is_text else "inputs"
    for kind in plan.controls:
        design, control = plan.routers[kind], control_name(kind)
        alone = [one.hardness for one in runs.all_of(design) if one.hardness is not None]
        if len(alone) > 1 and all(one.overall is None for one in alone):
            words = f"K is the same for every {inputs[:-1]}, so it cannot follow how hard one is"
            none = Estimate(effect=0.0, low=0.0, high=0.0, p=1.0, n=len(alone))
            found.append(finding("hardness", kind, none, margins.correlation, words))
            continue
        pairs = [
            (runs.of(design, one).hardness, runs.of(control, one).hardness)
            for one in runs.replicates(design, control)
        ]
        known = [(one, other) for one, other in pairs if one is not None and other is not None]
        own = [one.overall or 0.0 for one, _ in known]
        chance = [other.overall or 0.0 for _, other in known]
        estimate = mean_estimate([one - other for one, other in zip(own, chance, strict=True)])
        if estimate.n == 0:
            found.append(
                undecided("hardness", kind, margins.correlation, "too few runs ended well")
            )
            continue
        mean, other = sum(own) / len(own), sum(chance) / len(chance)
        direction = "more" if mean > 0 else "fewer"
        words = (
            f"{inputs} with a higher loss get {direction} experts (rank correlation {mean:+.2f}; {other:+.2f} if K is "
            "drawn at random)"
        )
        details = {"correlation": mean, "correlation_of_random_k": other}
        found.append(finding("hardness", kind, estimate, margins.correlation, words, details))
    return decide(found)


def settling(plan: AuditPlan, runs: Runs, margins: Margins) -> list[Finding]:
    """Do open experts change less towards the end? One line; decided at once if nothing changes there."""
    subject = "top-any, adaptive"
    own = [] if plan.adaptive is None else runs.all_of(plan.adaptive)
    thirds = [_changes(one) for one in own]
    if len(own) < 2 or any(third is None for third in thirds):
        words = f"a third of the training has fewer than {LEAST_UPDATES} updates of the experts, or runs failed"
        return [undecided("settling", subject, margins.changes, words)]
    first = [third[0] for third in thirds if third]
    last = [third[1] for third in thirds if third]
    estimate = mean_estimate([early - late for early, late in zip(first, last, strict=True)])
    finals = mean_estimate([float(sum(one.events[-1][1])) for one in own])
    begin, end = sum(own[0].events[0][1]), finals.effect
    words = (
        f"{sum(first) / len(first):.2f} open experts change per layer and update in the first third of training, "
        f"{sum(last) / len(last):.2f} in the last; {begin} experts became {end:.1f} "
        f"[{finals.low:.1f}, {finals.high:.1f}] over seeds"
    )
    details = {
        "changes_first": sum(first) / len(first),
        "changes_last": sum(last) / len(last),
        "experts_at_start": float(begin),
        "experts_at_end": end,
    }
    (one,) = decide([finding("settling", subject, estimate, margins.changes, words, details)])
    if not any(last):
        if any(first):
            return [replace(one, verdict="holds")]
        return [replace(one, verdict="not decided", sentence=f"no expert came or went: {words}")]
    return [one]


def _changes(run: Observation) -> tuple[float, float] | None:
    """Mean change of the open experts per layer and update, in the first and the last third of training."""
    thirds: tuple[list[float], list[float]] = ([], [])
    for (_, before), (step, after) in zip(run.events, run.events[1:], strict=False):
        change = sum(abs(b - a) for a, b in zip(before, after, strict=True)) / len(after)
        if 3 * step <= run.num_steps:
            thirds[0].append(change)
        elif 3 * step > 2 * run.num_steps:
            thirds[1].append(change)
    if min(len(third) for third in thirds) < LEAST_UPDATES:
        return None
    return sum(thirds[0]) / len(thirds[0]), sum(thirds[1]) / len(thirds[1])


_JUDGES: Mapping[str, Callable[[AuditPlan, Runs, Margins], list[Finding]]] = {
    "schedule": schedule,
    "variation": variation,
    "hardness": hardness,
    "gradient": gradient,
    "settling": settling,
    "activated": activated,
}
