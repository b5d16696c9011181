"""`PackRun`: a pack in training, with the ends of those who train no more, and all its tensors by name."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dynamoe_search.data import ImageData
from dynamoe_search.records import Candidate, Progress
from dynamoe_search.training.population import Population
from dynamoe_search.training.settings import Trained, TrainSettings


class PackRun:
    """A pack in training.

    Attributes:
        pack: All candidates that began together.
        population: Those still in training; none once everybody has ended.
        epoch: Epochs finished.
        seconds: What each candidate's share of the time was so far, by ordinal.
        reports: All reports so far, in the order of epochs.
        finished: The ends of those who train no more.
    """

    def __init__(self, pack: Sequence[Candidate], population: Population | None) -> None:
        self.pack = tuple(pack)
        self.population = population
        self.epoch = 0
        self.seconds = dict.fromkeys((candidate.ordinal for candidate in pack), 0.0)
        self.reports: list[Progress] = []
        self.finished: list[Trained] = []

    @classmethod
    def start(
        cls, pack: Sequence[Candidate], data: ImageData, settings: TrainSettings
    ) -> "PackRun":
        """Returns a pack before its first epoch."""
        return cls(pack, Population(pack, data, settings))

    @property
    def live(self) -> list[Candidate]:
        """Those still in training, in order."""
        return [] if self.population is None else self.population.candidates

    def go_on_with(self, positions: Sequence[int]) -> None:
        """Goes on with the live candidates at these positions; with none, the training is over."""
        if self.population is None:
            return
        if positions:
            self.population.keep(positions)
        else:
            self.population = None

    def only(self, ordinals: set[int]) -> None:
        """Forgets everybody else; the numbers of those who stay do not depend on it."""
        self.go_on_with([p for p, one in enumerate(self.live) if one.ordinal in ordinals])
        self.finished = [one for one in self.finished if one.outcome.ordinal in ordinals]
        self.reports = [report for report in self.reports if report.ordinal in ordinals]


def tensors_of(population: Population) -> dict[str, Tensor]:
    """Returns copies on the CPU of every tensor that training has changed, ghosts' rows included."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in _tensors(population).items()
    }


def _tensors(population: Population) -> dict[str, Tensor]:
    cohort, optimizer, adaptation = population.cohort, population.optimizer, population.adaptation
    quiet = {layer.start for layer in cohort.layers} | set(cohort.seeds)
    parts: dict[str, Mapping[str, Tensor]] = {
        "parameters": cohort.parameters,
        "buffers": {name: own for name, own in cohort.buffers.items() if name not in quiet},
        "mean": optimizer.mean,
        "square": optimizer.square,
        "powers": optimizer.powers,
        "routed": adaptation.routed,
        "unrouted": adaptation.unrouted,
        "population": {"is_finite": population.is_finite, "train_loss": population.train_loss},
    }
    return {
        f"{part}/{name}": own for part, tensors in parts.items() for name, own in tensors.items()
    }


def load_tensors(population: Population, tensors: Mapping[str, Tensor]) -> None:
    """Puts tensors that `tensors_of` returned for a population of the same candidates in place.

    Raises:
        ValueError: if a name, a shape or a type is not what this population has; then nothing is changed.
    """
    _check_layout(population, tensors)
    cohort, optimizer, adaptation = population.cohort, population.optimizer, population.adaptation
    holders = {
        "parameters": cohort.parameters,
        "buffers": cohort.buffers,
        "mean": optimizer.mean,
        "square": optimizer.square,
        "routed": adaptation.routed,
        "unrouted": adaptation.unrouted,
    }
    for full, tensor in tensors.items():
        part, _, name = full.partition("/")
        own = tensor.to(population.device)
        if part == "population":
            setattr(population, name, own)
        elif part == "powers":  # views of one tensor
            optimizer.powers[name].copy_(own)
        else:
            holders[part][name] = own.requires_grad_(part == "parameters")


def _check_layout(population: Population, tensors: Mapping[str, Tensor]) -> None:
    known = _tensors(population)
    paths = {f"unrouted/{layer.path}" for layer in population.cohort.layers}
    # these are made when recording begins, and stay when nobody is left who records
    optional = paths & tensors.keys() if population.adaptation.routed else set()
    if tensors.keys() - optional != known.keys() - paths:
        raise ValueError("its tensors have other names")
    for name, tensor in tensors.items():
        if name in optional:
            is_alike = tensor.dim() == 2 and len(tensor) == population.cohort.num_candidates
        else:
            own = known[name]
            is_alike = tensor.shape == own.shape and tensor.dtype == own.dtype
        if not is_alike:
            raise ValueError(f"its tensor {name} has another shape or type")
