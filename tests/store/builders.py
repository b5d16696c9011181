"""Records that store tests and their sub-processes are made of."""

from collections.abc import Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from dynamoe_search.records import (
    Candidate,
    Ended,
    LayerRouting,
    Leg,
    LossWeights,
    ModelConfig,
    Outcome,
    Progress,
    RouterConfig,
    ScheduleConfig,
    StudySettings,
    TrainConfig,
)
from dynamoe_search.store import Addition, Store

SETTINGS = StudySettings(
    device="cpu",
    num_slots=8,
    expert_backend="grouped",
    num_threads=1,
    cohort_size=4,
    reference_point=(0.1, 5000.0),
    versions={"torch": "2.13.0"},
)

DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "router.tau": FloatDistribution(0.01, 0.99, log=True),
    "model.d_model": IntDistribution(4, 64, step=4),
    "router.kind": CategoricalDistribution(("top-k", "dense")),
    "router.learn_logit_scale": CategoricalDistribution((True, False)),
}


def params(ordinal: int) -> dict[str, Any]:
    return {
        "router.tau": 0.1 + ordinal / 1000,
        "model.d_model": 16,
        "router.kind": "top-k",
        "router.learn_logit_scale": True,
    }


def candidate(ordinal: int, **changes: Any) -> Candidate:
    return Candidate(
        **{
            "study_seed": 7,
            "ordinal": ordinal,
            "model": ModelConfig(backbone="mlp", d_model=16, num_layers=2, d_expert=8),
            "schedule": ScheduleConfig(shape="descending", min_experts=2, max_experts=8),
            "experts_per_layer": (8, 4),
            "router": RouterConfig(kind="top-k", k=2, softmax="after"),
            "losses": LossWeights(load_balance=0.01),
            "train": TrainConfig(epochs=3, batch_size=32, learning_rate=0.01),
            **changes,
        }
    )


def complete(ordinal: int, accuracy: float, activated: float, **metrics: float) -> Outcome:
    return Outcome(
        ordinal=ordinal,
        status="complete",
        epochs=3,
        seconds=1.5,
        metrics={
            "accuracy": accuracy,
            "activated_params": activated,
            "total_params": 4 * activated,
            **metrics,
        },
        routing=(
            LayerRouting(
                layer=0,
                num_experts=2,
                mean_k=1.5,
                std_k=0.5,
                k_histogram=(0, 5, 5),
                load=(0.5, 1.0),
                load_cv=0.25,
                max_share=0.66,
                loss_by_k=(None, 1.25, 2.0),
            ),
            LayerRouting(
                layer=1,
                num_experts=1,
                mean_k=1.0,
                std_k=0.0,
                k_histogram=(0, 10),
                load=(1.0,),
                load_cv=0.0,
                max_share=1.0,
            ),
        ),
        expert_events=((10, (8, 4)), (20, (7, 4))),
        device="cuda:0",
        pack_size=8,
        pack_mode="loop",
        pack_note="the backbone cannot be packed",
    )


def report(ordinal: int, epoch: int, accuracy: float = 0.5) -> Progress:
    return Progress(
        ordinal=ordinal,
        epoch=epoch,
        train_loss=float("nan"),
        validation_loss=float("inf"),
        accuracy=accuracy,
        activated_params=123.25,
        mean_k_per_layer=(1.5, 2.0),
        experts_per_layer=(8, 4),
        seconds=0.25,
    )


KEY = candidate(0).pack_key


def addition(ordinal: int, **changes: Any) -> Addition:
    return Addition(
        candidate=candidate(ordinal, **changes),
        params=params(ordinal),
        distributions=DISTRIBUTIONS,
        cohort=ordinal // 4,
        sampler_state={"ordinal": ordinal, "seen": [1, 2]},
    )


def add(store: Store, name: str, ordinal: int, **changes: Any) -> int:
    (trial,) = store.add_candidates(name, [addition(ordinal, **changes)])
    return trial


def finish(
    store: Store,
    name: str,
    trial: int,
    outcome: Outcome,
    *,
    values: Sequence[float] | None,
    violations: Sequence[float] = (),
    versions: dict[str, str] | None = None,
) -> None:
    """Trains a candidate, so to say, in a leg of its own."""
    worker = store.join(name)
    leg = leg_of(store, name, worker, [trial])
    ended = Ended(
        trial=trial,
        outcome=outcome,
        values=None if values is None else tuple(values),
        violations=tuple(violations),
    )
    store.close_leg(
        name, worker, leg.number, ended=[ended], stood=[], versions=versions or {"torch": "2.13.0"}
    )


def leg_of(store: Store, name: str, worker: str, trials: Sequence[int], end: int = 3) -> Leg:
    first = store.candidate(name, trials[0])
    with store.planning(name, worker):
        return store.open_leg(
            name, worker, trials, start=first.epochs, end=end, pack_key=first.candidate.pack_key
        )


def add_complete(
    store: Store, name: str, ordinal: int, accuracy: float, activated: float, *violations: float
) -> int:
    trial = add(store, name, ordinal)
    outcome = complete(ordinal, accuracy, activated)
    finish(store, name, trial, outcome, values=[accuracy, activated], violations=violations)
    return trial
