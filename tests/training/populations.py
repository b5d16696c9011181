"""Small candidates and data that the training tests share."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dynamoe_search.data import ImageData, load_data
from dynamoe_search.records import (
    AdaptiveConfig,
    Candidate,
    LossWeights,
    ModelConfig,
    RouterConfig,
    ScheduleConfig,
    TrainConfig,
)
from dynamoe_search.specs import DataSection, RouterSection
from dynamoe_search.specs.vocabulary import ROUTER_KINDS, ROUTER_LOSSES, ROUTER_SETTINGS
from dynamoe_search.training import (
    CandidateState,
    StateFolder,
    Trained,
    TrainSettings,
    train_leg,
)
from dynamoe_search.training.population import Population

NUM_SLOTS = 6
SETTINGS = TrainSettings(num_slots=NUM_SLOTS)
ADAPTIVE = AdaptiveConfig(max_experts=6, period=4, record_from=0, update_at=3)
_DEFAULTS = RouterSection()


@cache
def digits(max_train: int = 200) -> ImageData:
    return load_data(DataSection(max_train=max_train))


def router(kind: str, **settings: Any) -> RouterConfig:
    """A router with the study file's defaults, but noisy and with a moving bias where it has them."""
    defaults: dict[str, Any] = {
        name: getattr(_DEFAULTS, name)
        for name in ROUTER_SETTINGS[kind]  # type: ignore[index]
    }
    lively = {"noise": 0.1, "bias_rate": 0.01, "threshold_spread": 0.1, "momentum": 0.8}
    defaults |= {name: value for name, value in lively.items() if name in defaults}
    return RouterConfig(kind=kind, **defaults | settings)


def candidate(
    ordinal: int,
    kind: str = "top-any",
    experts: tuple[int, ...] = (2, 4),
    *,
    backbone: str = "mlp",
    dropout: float = 0.0,
    weight: float = 0.01,
    adaptive: AdaptiveConfig | None = None,
    train: dict[str, Any] | None = None,
    **settings: Any,
) -> Candidate:
    """A candidate of width 16 with every auxiliary loss that its router has, each weighted alike."""
    losses = dict.fromkeys(ROUTER_LOSSES[kind], weight)  # type: ignore[index]
    options = {"epochs": 2, "batch_size": 48, "learning_rate": 3e-3} | (train or {})
    return Candidate(
        study_seed=0,
        ordinal=ordinal,
        model=ModelConfig(
            backbone=backbone,
            d_model=16,
            num_layers=len(experts),
            d_expert=12,
            num_heads=2,
            dropout=dropout,
        ),
        schedule=ScheduleConfig(shape="uniform", min_experts=1, max_experts=NUM_SLOTS),
        experts_per_layer=experts,
        router=router(kind, **settings),
        losses=LossWeights(**losses),
        adaptive=adaptive,
        train=TrainConfig(**options),
    )


def mixed_pack(backbone: str = "mlp") -> list[Candidate]:
    """Every kind of router, ragged expert counts, dropout in some, experts added and removed in two."""
    shapes = ((2, 4), (5, 3), (6, 1))
    kinds = [
        candidate(
            ordinal,
            kind,
            shapes[ordinal % 3],
            backbone=backbone,
            dropout=0.1 * (ordinal % 2),
            train={"learning_rate": 1e-3 * (1 + ordinal % 4), "weight_decay": 0.1 * (ordinal % 3)},
        )
        for ordinal, kind in enumerate(ROUTER_KINDS)
    ]
    first = len(kinds)
    return [
        *kinds,
        candidate(first, experts=(3, 2), backbone=backbone, adaptive=ADAPTIVE, threshold=0.1),
        candidate(
            first + 1,
            experts=(2, 3),
            backbone=backbone,
            adaptive=replace(ADAPTIVE, new_expert="fresh"),
            weight_gradient="constant",
            learn_logit_scale=True,
            logit_scale=3.0,
        ),
    ]


def train_population(
    candidates: Sequence[Candidate], data: ImageData, settings: TrainSettings, **options: Any
) -> list[Trained]:
    """Trains candidates of one pack to their end in one leg."""
    until = max(one.train.epochs for one in candidates)
    return train_leg(candidates, data, settings, until=until, **options)


def in_legs(
    pack: Sequence[Candidate],
    settings: TrainSettings,
    folder: StateFolder,
    companies: Sequence[Sequence[Sequence[int]]],
) -> dict[int, CandidateState]:
    """Trains legs of one epoch each and returns where everybody stands, as it was written to the disk.

    Args:
        pack: All candidates.
        settings: How they are trained.
        folder: Where they stand between legs.
        companies: For each epoch the packs, as positions in `pack`.
    """
    states: dict[int, CandidateState] = {}
    for epoch, groups in enumerate(companies):
        after: dict[int, CandidateState] = {}
        for group in groups:
            own = [pack[position] for position in group]
            start = {one.ordinal: states[one.ordinal] for one in own} if epoch else {}
            for trained in train_leg(own, digits(), settings, until=epoch + 1, start=start):
                assert trained.outcome is None
                assert trained.standing is not None
                checksum = folder.save(trained.standing)
                design = trained.standing.candidate
                after[trained.ordinal] = folder.load(
                    design, epoch + 1, checksum, digits(), settings
                )
        states = after
    return states


def without_company(trained: Trained) -> Any:
    """An outcome without what company may change: time and the size of the pack."""
    assert trained.outcome is not None
    return replace(trained.outcome, seconds=0.0, pack_size=0)


def differing(first: Trained, second: Trained) -> list[str]:
    """Names of what is not equal to the last bit between two ends of the same candidate's training."""
    assert first.state is not None
    assert second.state is not None
    names = sorted(
        name
        for name in first.state.keys() | second.state.keys()
        if not torch.equal(first.state[name], second.state[name])
    )
    return names if without_company(first) == without_company(second) else [*names, "outcome"]


def gradients(population: Population, position: int) -> dict[str, Tensor]:
    """The gradients of one candidate under the names and shapes of its plain module."""
    cohort = population.cohort
    own: dict[str, Tensor] = {}
    for name, parameter in cohort.parameters.items():
        rows = (cohort.owner[name] == position).nonzero().squeeze(1)
        if len(rows):
            assert parameter.grad is not None
            plain, value = cohort._plain(name, parameter.grad[rows], position)
            own[plain] = value
    return own
