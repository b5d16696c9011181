"""How long is a training step, by the size of the pack? Candidate-steps per second, each pack against one at a time.

    python -m benchmarks.steps > benchmarks/results/steps_DEVICE.md

Fashion-MNIST-sized input (random numbers, so that no data are needed), MLP of 4 layers with up to 8 experts, top-any
and top-k in turn, batch 256, AdamW. All sizes are measured in turn in one run; the median of the rounds is shown.
"""

import argparse
import platform
import statistics
import sys
import time

import torch

from benchmarks.pages import Page
from dynamoe_search.data import ImageData, Split
from dynamoe_search.records import Candidate
from dynamoe_search.search.designs import candidate_from
from dynamoe_search.specs import StudySpec
from dynamoe_search.training import TrainSettings
from dynamoe_search.training.population import Population
from dynamoe_search.wording import counted

BATCH = 256


def candidates(num: int, d_model: int) -> list[Candidate]:
    """Half of them top-any on eight experts, half top-2 on a descending schedule."""
    designs = [("top-any", "uniform"), ("top-k", "descending")]
    specs = [
        StudySpec.model_validate(
            {
                "study": {"name": "steps"},
                "model": {"d_model": d_model, "d_expert": d_model, "num_layers": 4},
                "schedule": {"shape": shape, "min_experts": 2, "max_experts": 8},
                "router": {"kind": kind},
                "train": {"epochs": 1000, "batch_size": BATCH, "learning_rate": 1e-5},
            }
        )
        for kind, shape in designs
    ]
    return [candidate_from({}, specs[i % 2], i) for i in range(num)]


def random_data(num: int) -> ImageData:
    """Examples of the shape of Fashion-MNIST."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num, 1, 28, 28, generator=generator)
    y = torch.randint(10, (num,), generator=generator)
    split = Split(x=x, y=y)
    return ImageData(
        name="random",
        train=split,
        validation=split,
        input_shape=(1, 28, 28),
        num_classes=10,
        source="random numbers",
        mean=(0.0,),
        std=(1.0,),
    )


def seconds_per_step(population: Population) -> float:
    """Trains one epoch and returns its time by steps."""
    if population.device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    population.train_epoch()
    if population.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / population.num_steps


def _conditions(name: str) -> str:
    command = " ".join(["python -m benchmarks.steps", *sys.argv[1:]])
    return (
        f"Command: `{command}`. {name}, {counted(torch.get_num_threads(), 'CPU thread')}, torch "
        f"{torch.__version__}; a pack of 1 runs with a ghost beside it, as in a study."
    )


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    data = random_data(BATCH * options.steps)
    settings = TrainSettings(num_slots=8, device=device)
    page = Page(None)
    head = [
        "# Candidate-steps per second by pack size",
        "",
        _conditions(name),
        "",
        "| d_model | candidates | ms per step | candidate-steps per second | against one at a time |",
        "| --: | --: | --: | --: | --: |",
    ]
    page.add(head)
    for width in options.widths:
        populations = {
            num: Population(candidates(num, width), data, settings) for num in options.packs
        }
        for population in populations.values():
            seconds_per_step(population)  # warm up
        times: dict[int, list[float]] = {num: [] for num in options.packs}
        for _ in range(options.rounds):
            for num, population in populations.items():
                times[num].append(seconds_per_step(population))
        alone = options.packs[0] / statistics.median(times[options.packs[0]])
        for num, own in times.items():
            rate = num / statistics.median(own)
            milliseconds = statistics.median(own) * 1e3
            page.add(
                [f"| {width} | {num} | {milliseconds:.1f} | {rate:.0f} | {rate / alone:.1f}x |"]
            )


if __name__ == "__main__":
    main()
