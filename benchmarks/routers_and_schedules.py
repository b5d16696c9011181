"""Does every router and every schedule learn? Each is trained for ten epochs on digits, all in one pack.

    python -m benchmarks.routers_and_schedules > benchmarks/results/routers-and-schedules_digits_cpu.md

Settings that are not named are the defaults of a study file; the learning rate is 0.01 for all.
"""

import platform
import sys

import torch

from dynamoe_search.data import load_data
from dynamoe_search.records import Candidate
from dynamoe_search.search.designs import candidate_from
from dynamoe_search.specs import StudySpec
from dynamoe_search.specs.vocabulary import ROUTER_KINDS, SHAPES
from dynamoe_search.training import Trained, TrainSettings, train_leg

EPOCHS = 10
NUM_SLOTS = 8


def spec_of(kind: str, shape: str) -> StudySpec:
    """The study file in which only the router and the shape are chosen."""
    return StudySpec.model_validate(
        {
            "study": {"name": "sweep"},
            "model": {"d_model": 32, "d_expert": 32, "num_layers": 4},
            "schedule": {"shape": shape, "min_experts": 2, "max_experts": NUM_SLOTS},
            "router": {"kind": kind},
            "train": {"epochs": EPOCHS, "batch_size": 64, "learning_rate": 0.01},
        }
    )


def candidates() -> list[Candidate]:
    """Every router on a uniform schedule, then every schedule with top-any."""
    designs = [(kind, "uniform") for kind in ROUTER_KINDS]
    designs += [("top-any", shape) for shape in SHAPES if shape != "uniform"]
    return [
        candidate_from({}, spec_of(kind, shape), ordinal)
        for ordinal, (kind, shape) in enumerate(designs)
    ]


def row(candidate: Candidate, trained: Trained) -> str:
    """One line of the table."""
    outcome = trained.outcome
    assert outcome is not None
    mean_k = " ".join(f"{layer.mean_k:.2f}" for layer in outcome.routing)
    experts = " ".join(str(count) for count in candidate.experts_per_layer)
    return (
        f"| {candidate.router.kind} | {candidate.schedule.shape} | {experts} "
        f"| {outcome.metrics['accuracy']:.3f} | {outcome.metrics['activated_params']:,.0f} "
        f"| {mean_k} |"
    )


def _conditions(num: int) -> str:
    return (
        "Command: `python -m benchmarks.routers_and_schedules`. Validation accuracy on 240 images; 4 layers, "
        f"d_model and d_expert 32, batch 64, learning rate 0.01, seed 0; torch {torch.__version__}, "
        f"Python {platform.python_version()}, CPU, one pack of {num} candidates."
    )


def main() -> None:
    """Trains and prints the table."""
    spec = spec_of("top-any", "uniform")
    designs = candidates()
    settings = TrainSettings(num_slots=NUM_SLOTS)
    results = train_leg(designs, load_data(spec.data), settings, until=spec.train.epochs)
    lines = [
        "# Every router and every schedule after ten epochs on digits",
        "",
        _conditions(len(designs)),
        "",
        "| router | schedule | experts per layer | accuracy | activated parameters | mean experts per token |",
        "| --- | --- | --- | --: | --: | --- |",
        *(row(design, result) for design, result in zip(designs, results, strict=True)),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
