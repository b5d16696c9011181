"""Records the learning curves on which pruners are compared: random designs of a preset, trained to the end.

    python -m benchmarks.pruning.record --data digits --decay constant --out benchmarks/pruning/curves
    python -m benchmarks.pruning.record --data digits --decay constant --out benchmarks/pruning/curves --again

The second command trains the 20 best of the first again with three other seeds. With one free core a set takes about
five minutes on digits and a quarter of an hour on fashion-mnist; `--again` a third of that. What is done already is not
done again: every pack is written when it ends, so the command can be interrupted and repeated. No pruner takes part,
nor does the library's own loop: a population is trained epoch by epoch, with moving averages of its weights beside it.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import torch
from torch import Tensor

from benchmarks.pruning.curves import WEIGHTS, Array, Curves, join, load, save
from dynamoe_search.data import Split, describe, load_data, load_test
from dynamoe_search.presets import read_study
from dynamoe_search.records import Candidate
from dynamoe_search.search.estimate import largest_design
from dynamoe_search.search.machine import library_versions
from dynamoe_search.search.sampling import Proposal, Proposer
from dynamoe_search.search.space import Space
from dynamoe_search.specs import StudySpec
from dynamoe_search.training import TrainSettings
from dynamoe_search.training.evaluation import Evaluation
from dynamoe_search.training.population import Population

EPOCHS = 27
NUM_CANDIDATES = {"digits": 416, "fashion-mnist": 208}  # references included
NUM_AGAIN = 20
SEEDS = (1, 2, 3)  # added to the study's, for the best again
TIME_CONSTANTS = {"ema-half": 0.5, "ema-one": 1.0}  # of the averages, in epochs

CHANGES = {
    "digits": (),
    "fashion-mnist": ("model.d_model=[4, 16, 32]", "data.max_train=5000"),
}
"""What is changed in the preset besides epochs, sampler and decay."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """After which epochs what is evaluated: a pass over 10,000 images costs as much as training on 4,000."""

    by_weights: tuple[frozenset[int], ...]  # on the validation part, in the order of `WEIGHTS`
    test: frozenset[int]  # all weights


_EVERY = frozenset(range(1, EPOCHS + 1))
_LAST = frozenset([EPOCHS])
_RUNGS = frozenset([1, 2, 3, 5, 8, 12, 18, EPOCHS])
_MORE = frozenset([4, 6, 9, 13, 16, 21, 24])  # rungs of other rules
ALL = Moments(by_weights=(_EVERY, _EVERY, _EVERY), test=_EVERY)
SPARING = Moments(by_weights=(_RUNGS | _MORE, _RUNGS, frozenset([3, 8, 18, EPOCHS])), test=_LAST)
LAST = Moments(by_weights=(_LAST, _LAST, _LAST), test=_LAST)


class Averages:
    """Exponential moving averages of a population's weights over steps, one for every time constant.

    Until a time constant has passed, an average is the plain mean of the weights so far.
    """

    def __init__(self, population: Population) -> None:
        self._population = population
        self._steps = 0
        self._own = {
            name: {key: tensor.detach().clone() for key, tensor in self._weights.items()}
            for name in TIME_CONSTANTS
        }

    @property
    def _weights(self) -> dict[str, Tensor]:
        return self._population.cohort.parameters

    @torch.no_grad()
    def after_step(self) -> None:
        """Takes the weights after a step into the averages."""
        self._steps += 1
        weights = [*self._weights.values()]
        for name, epochs in TIME_CONSTANTS.items():
            most = max(1.0, epochs * self._population.num_steps)
            own = [*self._own[name].values()]
            torch._foreach_lerp_(own, weights, 1 / min(self._steps, most))

    def evaluate(self, name: str) -> list[Evaluation]:
        """Returns the evaluation of an average, or of the weights themselves for any other name."""
        population = self._population
        before = population.cohort.parameters
        population.cohort.parameters = self._own.get(name, before)
        try:
            return population.evaluate()
        finally:
            population.cohort.parameters = before


def study_of(data: str, decay: str) -> StudySpec:
    """Returns the preset as it is recorded."""
    changes = (f"train.epochs={EPOCHS}", f"train.decay={decay}", "search.sampler=random")
    return read_study(data, (*CHANGES[data], *changes)).spec


def proposals_of(space: Space, num: int) -> list[Proposal]:
    """Returns the first proposals of the study, reference designs first."""
    proposer = Proposer(space)
    found = [proposer.propose() for _ in range(num)]
    return [one for one in found if one is not None]


def packs_of(proposals: Sequence[Proposal], size: int) -> list[list[Proposal]]:
    """Divides proposals into packs of equal shapes and seed, of `size` at most and about as large."""
    groups: dict[tuple[int, str], list[Proposal]] = {}
    for one in proposals:
        key = (one.candidate.study_seed, one.candidate.pack_key)
        groups.setdefault(key, []).append(one)
    packs = []
    for group in groups.values():
        parts = np.array_split(np.arange(len(group)), -(-len(group) // size))
        packs += [[group[row] for row in part] for part in parts]
    return packs


class Recorder:
    """Trains packs of one study and returns their curves.

    Args:
        spec: The study.
        moments: When to evaluate.
    """

    def __init__(self, spec: StudySpec, moments: Moments) -> None:
        self.spec = spec
        self.moments = moments
        self.space = Space(spec)
        self.data = load_data(spec.data)
        self.test: Split = load_test(spec.data)
        self.meta = self._meta()

    def _meta(self) -> dict[str, Any]:
        section = self.spec.data
        info = describe(section)
        return {
            "data": section.name,
            "decay": self.spec.train.decay,
            "spec": self.spec.model_dump(mode="json"),
            "num_train": len(self.data.train.y),
            "num_validation": len(self.data.validation.y),
            "num_test": len(self.test.y),
            "num_classes": self.data.num_classes,
            "largest_params": largest_design(self.space, info).parameters,
            "time_constants": TIME_CONSTANTS,
            "versions": library_versions(),
        }

    def record(self, pack: Sequence[Proposal]) -> Curves:
        """Returns the curves of a pack."""
        candidates = [one.candidate for one in pack]
        settings = TrainSettings(num_slots=self.space.num_slots)
        population = Population(candidates, self.data, settings)
        averages = Averages(population)
        arrays = self._empty(candidates)
        for epoch in range(EPOCHS):
            begin = time.perf_counter()
            population.train_epoch(averages.after_step)
            arrays["train_loss"][:, epoch] = population.train_loss[: len(pack)].numpy()
            self._evaluate(population, averages, arrays, epoch)
            broken = ~population.is_finite[: len(pack)].numpy()
            for name in ("error", "loss", "activated", "mean_k", "test_error"):
                arrays[name][:, broken, epoch] = np.nan
            arrays["seconds"][:, epoch] = (time.perf_counter() - begin) / len(pack)
        totals = [population.counts(position).total for position in range(len(pack))]
        return Curves(
            meta=self.meta,
            ordinal=np.array([one.ordinal for one in candidates]),
            seed=np.array([one.study_seed for one in candidates]),
            params=tuple(one.params for one in pack),
            router=np.array([one.router.kind for one in candidates]),
            shape=np.array([one.schedule.shape for one in candidates]),
            reference=np.array([one.reference or "" for one in candidates]),
            experts=np.array([one.experts_per_layer for one in candidates]),
            total_params=np.array(totals),
            **arrays,
        )

    def _empty(self, candidates: Sequence[Candidate]) -> dict[str, Array]:
        num, layers = len(candidates), candidates[0].model.num_layers
        plain, many = (num, EPOCHS), (len(WEIGHTS), num, EPOCHS)
        shapes = {
            "seconds": plain,
            "train_loss": plain,
            "error": many,
            "loss": many,
            "activated": many,
            "mean_k": (*many, layers),
            "test_error": many,
        }
        return {name: np.full(shape, np.nan, dtype=np.float32) for name, shape in shapes.items()}

    def _evaluate(
        self, population: Population, averages: Averages, arrays: dict[str, Array], epoch: int
    ) -> None:
        """Fills in one epoch; the test part stands in for the validation part, in the same code."""
        moments, now = self.moments, epoch + 1
        for which, name in enumerate(WEIGHTS):
            if now not in moments.by_weights[which]:
                continue
            for row, one in enumerate(averages.evaluate(name)):
                arrays["error"][which, row, epoch] = 1 - one.accuracy
                arrays["loss"][which, row, epoch] = one.loss
                arrays["mean_k"][which, row, epoch] = one.mean_k
                activated = population.counts(row).activated(one.mean_k)
                arrays["activated"][which, row, epoch] = activated
        if now in moments.test:
            data = population.data
            population.data = replace(data, validation=self.test)
            for which, name in enumerate(WEIGHTS):
                accuracies = [one.accuracy for one in averages.evaluate(name)]
                arrays["test_error"][which, :, epoch] = 1 - np.array(accuracies)
            population.data = data


def best(curves: Curves, num: int) -> list[int]:
    """Returns the ordinals of the front of the last epoch and then of the lowest errors, `num` in all."""
    error, activated = curves.error[0, :, -1], curves.activated[0, :, -1]
    points = np.nan_to_num(np.stack([error, activated], axis=1), nan=np.inf)
    is_front = moocore.is_nondominated(points)
    order = np.lexsort((error, ~is_front))
    return [int(ordinal) for ordinal in curves.ordinal[order[:num]]]


def again(proposals: Sequence[Proposal], first: Curves) -> list[Proposal]:
    """Returns the best of a recorded set once more for every other seed."""
    chosen = [proposals[ordinal] for ordinal in best(first, NUM_AGAIN)]
    return [
        replace(one, candidate=replace(one.candidate, study_seed=one.candidate.study_seed + seed))
        for seed in SEEDS
        for one in chosen
    ]


def _packs(recorder: Recorder, args: argparse.Namespace) -> list[list[Proposal]]:
    proposals = proposals_of(recorder.space, args.candidates or NUM_CANDIDATES[args.data])
    if args.again:
        proposals = again(proposals, load(args.out / f"{args.data}_{args.decay}.npz"))
    return packs_of(proposals, args.pack)


def _parts(recorder: Recorder, packs: Sequence[list[Proposal]], folder: Path) -> Iterator[Curves]:
    """Yields the curves of every pack, read where they have been recorded before."""
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    for number, pack in enumerate(packs):
        path = folder / f"{number:03}.npz"
        ordinals = [one.candidate.ordinal for one in pack]
        if not (path.exists() and load(path).ordinal.tolist() == ordinals):
            save(path, recorder.record(pack))
        minutes = (time.monotonic() - begin) / 60
        print(f"pack {number + 1} of {len(packs)}, {minutes:.1f} min", file=sys.stderr, flush=True)
        yield load(path)


def main() -> None:
    """Records one set."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=sorted(CHANGES), required=True)
    parser.add_argument("--decay", choices=("constant", "cosine"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--again", action="store_true", help="the best again with other seeds")
    parser.add_argument("--candidates", type=int, help="proposals of the study")
    parser.add_argument("--pack", type=int, default=72, help="candidates trained at a time")
    args = parser.parse_args()
    name = f"{args.data}_{args.decay}" + ("_again" if args.again else "")
    path: Path = args.out / f"{name}.npz"
    if path.exists():
        print(f"{path} is there already", file=sys.stderr)
        return
    torch.set_num_threads(1)
    moments = ALL if args.data == "digits" else LAST if args.again else SPARING
    recorder = Recorder(study_of(args.data, args.decay), moments)
    folder = args.out / f"{name}.parts"
    save(path, join([*_parts(recorder, _packs(recorder, args), folder)]))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
