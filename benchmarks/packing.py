"""How much faster a cohort is than its candidates one after the other, on digits.

    python -m benchmarks.packing [--candidates 16] [--epochs 3] [--threads 1]

Prints one JSON object with the configuration, the versions and the epochs per second of both. The
candidates are the first ones that the preset `digits` proposes with two layers. One after the other
each is accompanied by a copy of itself, as always, so that its numbers are the same as in company.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence

import numpy as np
import optuna
import torch

from dynamoe_search.data import ImageData, load_data
from dynamoe_search.presets import read_study
from dynamoe_search.records import Candidate
from dynamoe_search.search.sampling import Proposer
from dynamoe_search.search.space import Space
from dynamoe_search.training import TrainSettings, train_population


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    changes = ["model.num_layers=2", f"train.epochs={arguments.epochs}"]
    spec = read_study("digits", changes).spec
    proposer = Proposer(Space(spec))
    proposals = [proposer.propose() for _ in range(arguments.candidates)]
    candidates = [proposal.candidate for proposal in proposals if proposal is not None]
    data = load_data(spec.data)
    settings = TrainSettings(num_slots=Space(spec).num_slots, num_threads=arguments.threads)
    seconds(candidates[:1], data, settings)  # warm-up
    together = seconds(candidates, data, settings)
    alone = sum(seconds([candidate], data, settings) for candidate in candidates)
    epochs = len(candidates) * arguments.epochs
    result = {
        "candidates": len(candidates),
        "epochs_per_candidate": arguments.epochs,
        "threads": arguments.threads,
        "together_epochs_per_second": round(epochs / together, 2),
        "alone_epochs_per_second": round(epochs / alone, 2),
        "speed_up": round(alone / together, 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "optuna": optuna.__version__,
        "machine": platform.machine(),
    }
    json.dump(result, sys.stdout, indent=2)
    print()


def seconds(candidates: Sequence[Candidate], data: ImageData, settings: TrainSettings) -> float:
    """Returns the wall time of training candidates together."""
    begin = time.perf_counter()
    train_population(candidates, data, settings)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
