"""Where a study stands, before a run and after it, as one record."""

from dynamoe_search.pruning import ladder
from dynamoe_search.search.events import EndReason, StudyStarted, StudySummary
from dynamoe_search.search.objectives import front_hypervolume
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store


def started(store: Store, name: str) -> StudyStarted:
    """Returns where a study stands before a run."""
    record = store.study(name)
    spec = StudySpec.model_validate_json(record.spec_json)
    return StudyStarted(
        name=name,
        trials=record.trials,
        num_finished=record.num_complete + record.num_failed + record.num_stopped,
        num_running=record.num_running,
        num_paused=record.num_paused,
        epochs=store.spent(name).epochs,
        epochs_per_candidate=spec.train.epochs,
        max_epochs=record.max_epochs,
        is_pruned=bool(ladder(spec.pruner, spec.train.epochs)),
        device=record.settings.device,
    )


def summarise(store: Store, name: str, reason: EndReason, seconds: float) -> StudySummary:
    """Returns where a study stands after a run.

    Args:
        store: The open database.
        name: The study.
        reason: Why the run ended.
        seconds: Wall time of the run.
    """
    record, spent = store.study(name), store.spent(name)
    front = tuple(store.front(name))
    return StudySummary(
        name=name,
        state="finished" if reason in ("trials", "exhausted") else "interrupted",
        reason=reason,
        trials=record.trials,
        complete=spent.complete,
        failed=spent.failed,
        pruned=spent.stopped,
        paused=spent.paused,
        running=spent.running,
        epochs=spent.epochs,
        seconds=seconds,
        front=front,
        hypervolume=front_hypervolume(
            [[member.values[name] for name in record.objectives] for member in front],
            record.settings.reference_point,
            StudySpec.model_validate_json(record.spec_json),
        ),
    )
