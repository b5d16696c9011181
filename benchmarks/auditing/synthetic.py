"""Audits whose truth is known: every number is drawn, and the effects are put in by hand."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dynamoe_search.auditing import AuditPlan, Curve, Hardness, Noise, Observation
from dynamoe_search.auditing.findings import CLAIMS
from dynamoe_search.auditing.observations import control_name

SHAPES = ("uniform", "descending", "ascending", "pyramid-up")
KINDS = ("top-any", "top-p")
RIVALS = {1: "k1", 2: "k2", 4: "k4"}
PLAN = AuditPlan(
    shapes={
        matching: {shape: f"{matching} {shape}" for shape in SHAPES}
        for matching in ("total", "max")
    },
    routers={kind: kind for kind in KINDS},
    curves=tuple(Curve(label=kind, design=kind, rivals=RIVALS) for kind in KINDS),
    controls=KINDS,
    adaptive="adaptive",
    claims=tuple(CLAIMS),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What is so, in the units of the claims; seeds add noise of `sd` points of accuracy."""

    shape: float = 0.0  # points that `descending` has more than other shapes
    correlation: float = 0.0
    noise: float = 0.0  # share by which dynamic gradients are less noisy
    above: float = 0.0  # points above the curve of top-k
    settles: float = 0.0  # changes per update in the first third more than in the last
    sd: float = 0.5


def observations(truth: Truth, replicates: int, seed: int) -> list[Observation]:
    """Runs of every design of `PLAN`; within a replicate they share its luck."""
    draw = np.random.default_rng(seed)
    return [one for number in range(replicates) for one in _replicate(truth, number, draw)]


def _replicate(truth: Truth, number: int, draw: np.random.Generator) -> Iterable[Observation]:
    luck = draw.normal(scale=1.0)

    def accuracy(points: float) -> float:
        return (90 + luck + points + draw.normal(scale=truth.sd)) / 100

    for designs in PLAN.shapes.values():
        for shape, design in designs.items():
            yield _run(design, number, accuracy(truth.shape * (shape == "descending")), 1000.0)
    for k, design in RIVALS.items():
        yield _run(design, number, accuracy(_curve(k)), 400.0 * k, _noise(draw, 5.0, k))
    for kind in KINDS:
        yield _run(
            kind,
            number,
            accuracy(_curve(1.5) + truth.above),
            600.0,
            _noise(draw, 5.0 * (1 - truth.noise), 1.5),
            draw.normal(truth.correlation, 0.05),
        )
        yield _run(control_name(kind), number, accuracy(0), 600.0, None, draw.normal(0, 0.05))
    yield _run("adaptive", number, accuracy(0), 700.0, events=_events(truth, draw))


def _curve(k: float) -> float:
    """Points of accuracy of top-k, straight between its own values of k."""
    return float(np.interp(k, [1, 2, 4], [0.0, 1.0, 1.5]))


def _noise(draw: np.random.Generator, level: float, mean_k: float) -> Noise:
    total = level * float(np.exp(draw.normal(scale=0.1)))
    return Noise(total=total, shared=total, mean_k=mean_k, batches=8)


def _events(truth: Truth, draw: np.random.Generator) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Updates at 10, 20, ..., 120 of 120 steps, in two layers."""
    counts = [50, 50]
    events = [(0, (50, 50))]
    for step in range(10, 130, 10):
        rate = 0.5 + truth.settles * (step <= 40)
        for layer in (0, 1):
            counts[layer] += int(draw.poisson(rate)) * int(draw.choice((-1, 1)))
        events.append((step, (counts[0], counts[1])))
    return tuple(events)


def _run(
    design: str,
    replicate: int,
    accuracy: float,
    activated: float,
    noise: Noise | None = None,
    rho: float | None = None,
    events: tuple[tuple[int, tuple[int, ...]], ...] = (),
) -> Observation:
    return Observation(
        design=design,
        replicate=replicate,
        score=accuracy,
        activated_params=activated,
        mean_k=(2.0, 1.0),
        std_k=(0.5, 0.5),
        num_steps=120,
        num_examples=10_000,
        events=events,
        hardness=None if rho is None else Hardness(overall=rho, per_layer=(rho, rho)),
        noise_start=noise,
        noise_end=noise,
    )
