"""What a live view reads: the same as the rest of the store says, in one transaction."""

from dataclasses import replace

from dynamoe_search.records import Ended, Outcome, RungDecision, Stood
from dynamoe_search.store import Store
from tests.store.builders import add, add_complete, complete, leg_of, report


def test_a_study_that_never_ran(store: Store, study: str) -> None:
    view = store.overview(study)
    assert (view.record, view.spent) == (store.study(study), store.spent(study))
    assert not view.legs
    assert not view.front
    assert not view.happenings


def test_everybody_stands_somewhere(store: Store, study: str) -> None:
    for ordinal in range(4):
        add(store, study, ordinal)
    worker = store.join(study)
    leg = leg_of(store, study, worker, [0, 1, 2], end=1)
    ended = replace(complete(1, 0.5, 5.0), status="stopped", reason="pruned", epochs=1)
    told = [
        RungDecision(trial=0, rung=1, action="go", beaten=0, rivals=2),
        RungDecision(trial=2, rung=1, action="pause", beaten=1, rivals=2, reason="beaten"),
    ]
    store.add_progress(study, [report(ordinal, 1, 0.25 * ordinal) for ordinal in range(3)])
    store.close_leg(
        study,
        worker,
        leg.number,
        ended=[Ended(trial=1, outcome=ended)],
        stood=[Stood(trial=trial, epochs=1, checkpoint="x") for trial in (0, 2)],
        decisions=told,
        versions={},
    )
    going = leg_of(store, study, worker, [0])
    view = store.overview(study)
    assert view.standing == {
        ("running", 1): 1,
        ("running", 0): 1,
        ("paused", 1): 1,
        ("stopped", 1): 1,
    }
    assert sum(view.standing.values()) == len(store.standings(study))
    assert view.may_go_on == {}  # the only one that was told so is in training
    (one,) = view.legs
    assert (one.leg, one.epoch, one.best_accuracy) == (going, 1, None)
    assert [one["accuracy"] for one in view.latest] == [0.0, 0.5]
    assert [one["activated_params"] for one in view.latest] == [123.25, 123.25]
    assert [one["validation_loss"] for one in view.latest] == [
        report(0, 1, 0.0).validation_loss
    ] * 2
    store.add_progress(study, [report(0, 2, 0.75)])
    (one,) = store.overview(study).legs
    assert (one.epoch, one.best_accuracy) == (2, 0.75)
    assert one.lowest_loss == report(0, 2, 0.75).validation_loss


def test_front_and_what_happened(store: Store, study: str) -> None:
    add_complete(store, study, 0, 0.5, 10.0)
    add_complete(store, study, 1, 0.25, 20.0)
    failed = add(store, study, 2)
    leg = leg_of(store, study, store.join(study), [failed])
    outcome = Outcome(
        ordinal=2, status="failed", epochs=1, seconds=1.0, reason="nan", message="not finite"
    )
    store.close_leg(
        study,
        store.join(study),
        leg.number,
        ended=[Ended(trial=failed, outcome=outcome)],
        stood=[],
        versions={},
    )
    store.refresh_front(study)
    view = store.overview(study)
    assert [one.trial for one in view.front] == [one.trial for one in store.front(study)] == [0]
    assert view.front[0].values == {"accuracy": 0.5, "activated_params": 10.0}
    assert view.front[0].experts_per_layer == store.front(study)[0].experts_per_layer
    assert sorted(one["accuracy"] for one in view.complete) == [0.25, 0.5]
    assert [one.id for one in view.workers] == [store.join(study)]
    told = {(one.kind, one.number) for one in view.happenings}
    assert {("complete", 0), ("complete", 1), ("failed", 2), ("leg", 0), ("leg", 2)} <= told
    moments = [one.at for one in view.happenings]
    assert moments == sorted(moments, reverse=True)
    assert store.overview(study, num_happenings=2).happenings == view.happenings[:2]
