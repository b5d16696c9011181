"""Who runs in the benchmark of the training step: our packs of several sizes, and the rivals of `rivals.py`."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.speed import rivals
from dynamoe_search.data import ImageData, Split
from dynamoe_search.records import Candidate
from dynamoe_search.search.designs import candidate_from
from dynamoe_search.specs import StudySpec
from dynamoe_search.training import TrainSettings
from dynamoe_search.training.trial_runs import TrialRun

THRESHOLDS = {4.0: 0.0, 1.5: 0.078}
"""Where the thresholds of `top-any` start, for about so many experts per token at width 128."""
LOOP = "expert loop, DataLoader, AdamW"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """One row of the table: makes steps, and says afterwards how many experts a token had, and what else it did."""

    name: str
    candidates: int
    steps: Callable[[int], None]
    mean_k: Callable[[], float]
    note: Callable[[], str] = str


def random_examples(num: int) -> tuple[Tensor, Tensor]:
    """Examples of the shape of Fashion-MNIST, (num, 1, 28, 28) and (num,)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num, 1, 28, 28, generator=generator)
    return x, torch.randint(rivals.CLASSES, (num,), generator=generator)


def image_data(num: int) -> ImageData:
    """The same examples as our trainer takes them."""
    x, y = random_examples(num)
    return ImageData(
        name="random",
        train=Split(x=x, y=y),
        validation=Split(x=x, y=y),
        input_shape=(1, 28, 28),
        num_classes=rivals.CLASSES,
        source="random numbers",
        mean=(0.0,),
        std=(1.0,),
    )


def study(width: int, num_active: float) -> StudySpec:
    """A study of the rivals' network alone; the learning rate is so small that the routing stays as it is."""
    threshold = THRESHOLDS[num_active] * (128 / width) ** 0.5
    return StudySpec.model_validate(
        {
            "study": {"name": "speed"},
            "model": {"d_model": width, "d_expert": width, "num_layers": rivals.LAYERS},
            "schedule": {
                "shape": "uniform",
                "min_experts": rivals.EXPERTS,
                "max_experts": rivals.EXPERTS,
            },
            "router": {"kind": "top-any", "threshold": threshold},
            "losses": {"load_balance": 0.0, "diversity": 0.0, "simplicity": 0.0},
            "train": {
                "epochs": 1000,
                "batch_size": rivals.BATCH,
                "learning_rate": 1e-5,
                "clip_norm": 0.0,  # as the rivals do
                "weight_decay": 0.01,
            },
        }
    )


def candidates(num: int, width: int, num_active: float) -> list[Candidate]:
    """Candidates of that study."""
    spec = study(width, num_active)
    return [candidate_from({}, spec, ordinal) for ordinal in range(num)]


def ours(num: int, width: int, num_active: float, device: str, backend: str) -> Contestant:
    """A pack of `num` candidates, trained as in a study."""
    settings = TrainSettings(num_slots=rivals.EXPERTS, device=device, expert_backend=backend)
    pack = candidates(num, width, num_active)
    runs: dict[int, TrialRun] = {}

    def steps(number: int) -> None:
        if number not in runs:
            runs.clear()
            runs[number] = TrialRun(pack, image_data(number * rivals.BATCH), settings)
        runs[number].train_epoch()

    def mean_k() -> float:
        (run,) = runs.values()
        population = run.population
        population.cohort.train(True)
        with torch.no_grad():
            _, routings = population.cohort.forward(population.data.train.x[: rivals.BATCH])
        return sum(float(one.mask.sum(-1).float().mean()) for one in routings) / len(routings)

    def note() -> str:
        (run,) = runs.values()
        population, own = run.population, run.population._steps
        if population.device.type != "cuda":
            return f", {run.num_parts} processes" if run.num_parts > 1 else ""
        refusal = "" if own.refusal is None else f" ({own.refusal})"
        return f", {own.num_replays} of {population.step} steps replayed{refusal}"

    name = f"dynamoe_search, {backend}, {num} together"
    return Contestant(name=name, candidates=num, steps=steps, mean_k=mean_k, note=note)


def others(
    width: int, num_active: float, device: str, *, with_transformers: bool = True
) -> list[Contestant]:
    """The rivals, one candidate at a time; of transformers' two implementations both."""
    threshold = THRESHOLDS[num_active] * (128 / width) ** 0.5
    top = round(num_active) if num_active > 2 else 1
    return [
        _rival(LOOP, lambda: rivals.loop(width, threshold), device, None),
        _rival("the same, tuned", lambda: rivals.loop(width, threshold), device, None, tuned=True),
        *(
            _rival(
                f"transformers, {implementation}, top-{k}",
                lambda k=k, how=implementation: rivals.hugging_face(width, k, how),  # type: ignore[misc]
                device,
                float(k),
            )
            for k in (sorted({top, -int(-num_active // 1)}) if with_transformers else ())
            for implementation in ("eager", "grouped_mm")
        ),
        _rival(
            "one dense MLP of as many FLOPs",
            lambda: rivals.dense(width, num_active),
            device,
            num_active,
        ),
    ]


def _rival(
    name: str, build: rivals.Build, device: str, mean_k: float | None, *, tuned: bool = False
) -> Contestant:
    torch.manual_seed(0)
    x, y = random_examples(8 * rivals.BATCH)
    trainer = rivals.Trainer(build(), x, y, device, is_tuned=tuned)
    measured = (lambda: rivals.mean_chosen(trainer.model)) if mean_k is None else lambda: mean_k
    return Contestant(name=name, candidates=1, steps=trainer.steps, mean_k=measured)
