"""Studies that reports are tested on: in a store, and in memory where thousands of candidates are wanted."""

from collections.abc import Sequence
from dataclasses import replace

from dynamoe_search.records import CandidateRecord, Outcome, Progress, StudyRecord
from dynamoe_search.report.reading import StudyData
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from tests.store.builders import SETTINGS, add, candidate, complete, finish

HOSTILE = (
    '</script><script>alert(1)</script><img src="https://example.org/x.png" onerror=alert(2)>&"\''
)
"""Text that would run or load something if a page took it for markup."""


def end(
    store: Store,
    name: str,
    outcome: Outcome,
    values: Sequence[float] | None = None,
    **design: object,
) -> int:
    """Adds a candidate with an outcome and returns its trial number."""
    trial = add(store, name, outcome.ordinal, **design)
    store.add_progress(name, [report(outcome.ordinal, 1, 0.4), report(outcome.ordinal, 2, 0.6)])
    finish(store, name, trial, outcome, values=values)
    return trial


def finished(store: Store, name: str, ordinal: int, accuracy: float, activated: float) -> int:
    """Adds a complete candidate."""
    outcome = complete(ordinal, accuracy, activated)
    values = [outcome.metrics[one] for one in store.study(name).objectives]
    return end(store, name, outcome, values)


def failed(store: Store, name: str, ordinal: int, message: str = "loss is nan") -> int:
    """Adds a candidate that failed."""
    outcome = Outcome(
        ordinal=ordinal, status="failed", epochs=1, seconds=0.5, reason="nan", message=message
    )
    return end(store, name, outcome)


def pruned(store: Store, name: str, ordinal: int) -> int:
    """Adds a candidate that a pruner stopped."""
    message = "pruned after epoch 2: beaten by 5 of 11 rivals (45%), the strongest of them trial 0"
    outcome = Outcome(
        ordinal=ordinal, status="stopped", epochs=2, seconds=0.5, reason="pruned", message=message
    )
    return end(store, name, outcome)


def report(ordinal: int, epoch: int, accuracy: float) -> Progress:
    """Returns what a candidate says after an epoch."""
    return Progress(
        ordinal=ordinal,
        epoch=epoch,
        train_loss=float("nan"),
        validation_loss=1.25,
        accuracy=accuracy,
        activated_params=1234.5,
        mean_k_per_layer=(1.5, 2.0),
        experts_per_layer=(8, 4),
        seconds=0.25,
    )


def in_memory(spec: StudySpec, num_candidates: int, num_epochs: int = 0) -> StudyData:
    """Returns a study with so many complete candidates, whose values spread over the plane."""
    records = []
    for place in range(num_candidates):
        outcome = complete(
            place,
            0.1 + 0.8 * (place * 37 % 101) / 101,
            500 + place * 61 % 4999,
            flops_per_token=1000.0 + place % 7,
        )
        record = CandidateRecord(
            trial=place,
            ordinal=place,
            cohort=place // 16,
            candidate=candidate(place),
            params={"router.k": 2},
            status="complete",
            created_at="2026-11-22T04:00:00.000+00:00",
            finished_at=f"2026-11-22T05:00:00.{place:06}+00:00",
            outcome=outcome,
            values={name: outcome.metrics[name] for name in spec.study.objectives},
        )
        records.append(record)
    reports = {
        place: tuple(report(place, epoch + 1, 0.5) for epoch in range(num_epochs))
        for place in range(num_candidates if num_epochs else 0)
    }
    return StudyData(
        record=study_record(spec),
        spec=spec,
        candidates=tuple(records),
        progress=reports,
    )


def study_record(spec: StudySpec) -> StudyRecord:
    """Returns the record of a study that is finished."""
    reference = (0.1, 5000.0, 20000.0, 9e9)[: len(spec.study.objectives)]
    return StudyRecord(
        name=spec.study.name,
        spec_json=spec.model_dump_json(),
        source="tiny.toml",
        settings=replace(SETTINGS, reference_point=reference),
        objectives=spec.study.objectives,
        maximise=tuple(name == "accuracy" for name in spec.study.objectives),
        state="finished",
        trials=spec.study.trials,
        created_at="2026-11-22T04:00:00.000+00:00",
        updated_at="2026-11-22T05:00:00.000+00:00",
    )
