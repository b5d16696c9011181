"""Do points of a front keep their order with other seeds? Trains some again, other initial weights and batch orders.

    python -m benchmarks.front_seeds STORAGE STUDY [TRIAL ...] > benchmarks/results/front-seeds_STUDY_cpu.md

Without trials: the smallest, the knee and the most accurate point of the front. Validation accuracy; the test part
stays untouched.
"""

import platform
import statistics
import sys
from dataclasses import replace

import torch

from dynamoe_search.data import ImageData, load_data
from dynamoe_search.pareto import knee_point
from dynamoe_search.records import Candidate, FrontMember
from dynamoe_search.search.machine import train_settings
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from dynamoe_search.training import TrainSettings, train_leg

SEEDS = (1, 2, 3)


def chosen(front: list[FrontMember], trials: list[int]) -> list[FrontMember]:
    """The members with these trial numbers, or three that span the front."""
    if trials:
        return [member for member in front if member.trial in trials]
    points = [[member.values["accuracy"], member.values["activated_params"]] for member in front]
    knee = knee_point(points, (True, False))
    assert knee is not None
    return [front[i] for i in sorted({0, knee, len(front) - 1})]


def again_accurate(
    candidates: list[Candidate], data: ImageData, settings: TrainSettings
) -> list[float]:
    """Trains candidates of one seed to their end, pack by pack, and returns their accuracies."""
    packs: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        packs.setdefault(candidate.pack_key, []).append(candidate)
    found: dict[int, float] = {}
    for pack in packs.values():
        until = max(candidate.train.epochs for candidate in pack)
        for trained in train_leg(pack, data, settings, until=until):
            assert trained.outcome is not None
            found[trained.ordinal] = trained.outcome.metrics["accuracy"]
    return [found[candidate.ordinal] for candidate in candidates]


def _conditions(study: str, device: str) -> str:
    return (
        f"Command: `python -m benchmarks.front_seeds STORAGE {study}`. Validation accuracy; "
        f"torch {torch.__version__}, Python {platform.python_version()}, {device}."
    )


def main(storage: str, study: str, trials: list[int]) -> None:
    """Trains again and prints a table."""
    with Store.open(storage, create=False) as store:
        record = store.study(study)
        members = chosen(store.front(study), trials)
    spec = StudySpec.model_validate_json(record.spec_json)
    again = [
        replace(member.candidate, study_seed=spec.study.seed + seed, ordinal=index, reference=None)
        for seed in SEEDS
        for index, member in enumerate(members)
    ]
    data, settings = load_data(spec.data), train_settings(spec, record.settings)
    accuracies: dict[int, list[float]] = {member.trial: [] for member in members}
    for seed in SEEDS:  # batches are shared within a call, so each seed is a call of its own
        pack = [one for one in again if one.study_seed == spec.study.seed + seed]
        for member, accuracy in zip(members, again_accurate(pack, data, settings), strict=True):
            accuracies[member.trial].append(accuracy)
    orders = {
        tuple(sorted(accuracies, key=lambda trial: accuracies[trial][index]))
        for index in range(len(SEEDS))
    }
    lines = [
        f"# Points of the front of {study}, trained again with other seeds",
        "",
        _conditions(study, record.settings.device),
        "",
        "| trial | activated parameters | in the study | seeds "
        + ", ".join(str(seed) for seed in SEEDS)
        + " | mean |",
        "| --: | --: | --: | --- | --: |",
    ]
    for member in members:
        own = accuracies[member.trial]
        lines.append(
            f"| {member.trial} | {member.values['activated_params']:,.0f} "
            f"| {member.values['accuracy']:.4f} | {', '.join(f'{a:.4f}' for a in own)} "
            f"| {statistics.mean(own):.4f} |"
        )
    same = "the same with every seed" if len(orders) == 1 else "not the same with every seed"
    lines += ["", f"The order by accuracy is {same}."]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], [int(trial) for trial in sys.argv[3:]])
