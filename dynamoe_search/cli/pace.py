"""How far a study is, from what is stored of it."""

from functools import lru_cache

from pydantic import ValidationError

from dynamoe_search.pruning import ladder
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Overview


def is_over(view: Overview) -> bool:
    """Whether nobody will go on without being asked: the study is finished, or a budget is used up."""
    record = view.record
    if record.state == "running":
        return False
    out_of_epochs = record.max_epochs is not None and view.spent.epochs >= record.max_epochs
    out_of_time = record.max_seconds is not None and record.seconds_spent >= record.max_seconds
    return record.state == "finished" or out_of_epochs or out_of_time


def done(view: Overview) -> float:
    """Returns the share of a study that is done, from 0 to 1; of its candidates if a pruner decides."""
    record, spent = view.record, view.spent
    total = _total_epochs(view)
    if record.state == "finished":
        return 1.0
    if total is None:
        past = spent.complete + spent.failed + spent.stopped + spent.paused
        return min(1.0, past / max(1, record.trials))
    return min(1.0, spent.epochs / max(1, total))


def seconds_left(view: Overview, rate: float | None) -> float | None:
    """Returns how long it will take at this rate, None if that cannot be said."""
    total = _total_epochs(view)
    if not rate or total is None:
        return None
    return max(0.0, (total - view.spent.epochs) / rate)


def _total_epochs(view: Overview) -> int | None:
    """The epochs that the study will train; None if a pruner decides."""
    record = view.record
    spec = _spec(record.spec_json)
    each = None if spec is None else spec.train.epochs
    if record.max_epochs is None:
        return None if each is None or _rungs(record.spec_json) else record.trials * each
    return record.max_epochs if each is None else min(record.max_epochs, record.trials * each)


def rung_rows(view: Overview) -> list[tuple[int, ...]]:
    """Returns, for every rung: who reached it, went on from it, may go on, is paused there, was pruned there."""
    counts = {key: number for key, number in view.standing.items() if key[0] != "failed"}
    rows: list[tuple[int, ...]] = []
    for rung in _rungs(view.record.spec_json):
        reached = sum(number for (_, epochs), number in counts.items() if epochs >= rung)
        waiting = counts.get(("paused", rung), 0)
        pruned = counts.get(("stopped", rung), 0)
        may_go_on = min(waiting, view.may_go_on.get(rung, 0))
        gone = reached - waiting - pruned
        rows.append((rung, reached, gone, may_go_on, waiting - may_go_on, pruned))
    return rows


@lru_cache(maxsize=4)
def _spec(spec_json: str) -> StudySpec | None:
    try:
        return StudySpec.model_validate_json(spec_json)
    except ValidationError:  # of another version of this program
        return None


def _rungs(spec_json: str) -> tuple[int, ...]:
    spec = _spec(spec_json)
    return () if spec is None else ladder(spec.pruner, spec.train.epochs)
