"""What the decisions of a pruner are called, in sentences for people."""

from collections.abc import Collection

from dynamoe_search.records import RungDecision
from dynamoe_search.specs import PrunerSection
from dynamoe_search.wording import counted

_WHY = {
    "not-finite": "its error, loss or activated parameters were not finite",
    "beaten": "beaten by {rivals}, and only the {allowed} that the fewest beat go on",
    "worst": "in the worst share ({guard}) of {everybody} in error and in loss",
    "rank": "ranked behind {rivals}, and at most {ahead} may be ahead",
    "median": "worse than the median in error and in loss, and than {rivals} in both",
    "useless": "no better than always giving the same answer, in error and in loss",
}
_NAMES_THE_STRONGEST: Collection[str] = ("beaten", "rank", "median")


def in_words(decision: RungDecision, settings: PrunerSection) -> str:
    """Returns for people why a candidate did not go on from a rung, without which one that is.

    Args:
        decision: What was decided; a reason that is not known is shown as it is.
        settings: The study's `[search.pruner]`, which says how many go on.
    """
    reason = decision.reason or "beaten"
    if reason not in _WHY:
        return reason
    num = decision.rivals + 1
    share = decision.beaten / max(1, decision.rivals)
    why = _WHY[reason].format(
        rivals=f"{decision.beaten} of {counted(decision.rivals, 'rival')} ({share:.0%})",
        everybody=counted(num, "candidate"),
        guard=f"{settings.guard:.3g}",
        allowed=f"{min(1.0, max(settings.share, settings.min_records / num)):.0%}",
        ahead=f"{1 / settings.eta:.0%}",
    )
    if decision.strongest is not None and reason in _NAMES_THE_STRONGEST:
        why += f"; its strongest rival is trial {decision.strongest}"
    return why
