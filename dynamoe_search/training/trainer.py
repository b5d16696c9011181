"""`train_population`: trains candidates to their end, pack by pack, and turns what goes wrong into outcomes."""

import logging
import math
from collections.abc import Callable, Sequence

import torch

from dynamoe_search.data import ImageData
from dynamoe_search.errors import InputError
from dynamoe_search.moe.accounting import flops_per_token
from dynamoe_search.records import Candidate, Outcome
from dynamoe_search.training.checkpoints import CheckpointFolder
from dynamoe_search.training.evaluation import Evaluation
from dynamoe_search.training.failures import (
    Caller,
    MixedModulesError,
    OnProgress,
    OnRestore,
    ShouldStop,
    failed,
)
from dynamoe_search.training.measurement import measure_module
from dynamoe_search.training.pack_run import PackRun
from dynamoe_search.training.population import Population, stopwatch
from dynamoe_search.training.settings import Interrupted, Trained, TrainSettings

logger = logging.getLogger(__name__)


def train_population(
    candidates: Sequence[Candidate],
    data: ImageData,
    settings: TrainSettings,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
    *,
    checkpoints: CheckpointFolder | None = None,
    on_restore: OnRestore | None = None,
) -> list[Trained]:
    """Trains candidates and returns how each ended, in the order in which they were given.

    Candidates with equal `pack_key` and study seed are trained as one pack. A candidate's numbers do not depend on its
    company: on the CPU they are the same bit for bit in any pack. A candidate whose loss stops being finite fails
    alone. If a pack runs out of memory or raises, it is halved and each half starts again, until the candidate at fault
    stands alone and fails.

    Args:
        candidates: At most one per ordinal.
        data: See `data.load_data`.
        settings: See `TrainSettings`.
        on_progress: Called after every epoch with a report of each live candidate of the pack; returns the ordinals
            of candidates to stop.
        should_stop: Asked after every step.
        checkpoints: Where the state of training is kept after epochs, and taken up again if it is there. A pack that is
            halved starts again without. The caller removes the folder.
        on_restore: Called before training with the reports of the epochs that a checkpoint saves from being trained
            again; `on_progress` is not called for them.

    Raises:
        ValueError: if there are checkpoints, but the candidates make more than one pack.
        Interrupted: if `should_stop` returned true; the pack in training has no results yet.
        InputError: for what would be wrong for every candidate, such as a backbone that cannot be imported.
    """
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    caller = Caller(on_progress, should_stop, on_restore)
    packs: dict[tuple[str, int], list[Candidate]] = {}
    for candidate in candidates:  # the study's seed decides the order of the examples
        packs.setdefault((candidate.pack_key, candidate.study_seed), []).append(candidate)
    if checkpoints is not None and len(packs) > 1:
        raise ValueError(f"a folder of checkpoints is for one pack, not for {len(packs)}")
    trained: dict[int, Trained] = {}
    for pack in packs.values():
        for result in _train_or_halve(pack, data, settings, caller, checkpoints):
            trained[result.outcome.ordinal] = result
    return [trained[candidate.ordinal] for candidate in candidates]


def _train_or_halve(
    pack: list[Candidate],
    data: ImageData,
    settings: TrainSettings,
    caller: Caller,
    checkpoints: CheckpointFolder | None,
) -> list[Trained]:
    try:
        return _train_pack(pack, data, settings, caller, checkpoints)
    except (Interrupted, InputError):
        raise
    except MixedModulesError as error:
        parts = [[pack[position] for position in group] for group in error.groups]
    except Exception as error:  # a candidate's own code, or memory
        if error is caller.error:
            raise
        if len(pack) == 1:
            return [failed(pack[0], error, settings.device)]
        logger.info("a pack of %d failed (%s); halving it", len(pack), error)
        parts = [pack[: len(pack) // 2], pack[len(pack) // 2 :]]
    if checkpoints is not None:  # of a pack that there is no more; its parts have none
        checkpoints.remove()
    return [
        result for part in parts for result in _train_or_halve(part, data, settings, caller, None)
    ]


def _train_pack(
    pack: list[Candidate],
    data: ImageData,
    settings: TrainSettings,
    caller: Caller,
    checkpoints: CheckpointFolder | None,
) -> list[Trained]:
    run = None if checkpoints is None else checkpoints.restore(pack, data, settings)
    if run is None:
        run = PackRun.start(pack, data, settings)
    else:
        caller.on_restore(run.reports)
    lap = stopwatch()
    while run.population is not None:
        _train_epoch(run, run.population, caller, lap)
        if checkpoints is not None:
            checkpoints.write_if_due(run, data, settings)
    return run.finished


def _train_epoch(
    run: PackRun, population: Population, caller: Caller, lap: Callable[[], float]
) -> None:
    """Trains the live candidates for one epoch and takes those who end out of the population."""
    population.train_epoch(caller.should_stop)
    evaluations = population.evaluate()
    elapsed = lap()
    run.epoch = population.epoch
    for candidate in population.candidates:
        run.seconds[candidate.ordinal] += elapsed / len(population.candidates)

    def end(position: int, status: str) -> None:
        evaluation = evaluations[position]
        run.finished.append(
            _end(population, position, evaluation, run.seconds, len(run.pack), status)
        )

    wild = _not_finite(population, evaluations)
    for position in wild:
        end(position, "failed")
    alive = [p for p in range(len(population.candidates)) if p not in wild]
    progress = population.progress(evaluations, elapsed)
    reports = [progress[position] for position in alive]
    stop = caller.on_progress(reports)
    run.reports += reports
    going = []
    for position in alive:
        candidate = population.candidates[position]
        if population.epoch >= candidate.train.epochs:
            end(position, "complete")
        elif candidate.ordinal in stop:
            end(position, "stopped")
        else:
            going.append(position)
    run.go_on_with(going)


def _not_finite(population: Population, evaluations: Sequence[Evaluation]) -> list[int]:
    finite = population.is_finite.tolist()
    return [
        position
        for position, evaluation in enumerate(evaluations)
        if not (finite[position] and math.isfinite(evaluation.loss))
    ]


def _end(
    population: Population,
    position: int,
    evaluation: Evaluation,
    seconds: dict[int, float],
    pack_size: int,
    status: str,
) -> Trained:
    """Makes the record of a candidate's end, and its weights unless it failed."""
    candidate = population.candidates[position]
    cohort = population.cohort
    is_failed = status == "failed"
    metrics: dict[str, float] = {}
    if not is_failed:
        counts = population.counts(position)
        module = population.plain_model(position)
        metrics = {
            "accuracy": evaluation.accuracy,
            "validation_loss": evaluation.loss,
            "train_loss": float(population.train_loss[position]),
            "activated_params": counts.activated(evaluation.mean_k),
            "total_params": float(counts.total),
            "shared_params": float(counts.shared),
            "router_params": float(counts.router),
            "flops_per_token": flops_per_token(
                module, population.data.input_shape, evaluation.mean_k
            ),
        }
        if population.settings.measure:
            metrics |= measure_module(module, population.data)
    outcome = Outcome(
        ordinal=candidate.ordinal,
        status=status,  # type: ignore[arg-type]
        epochs=population.epoch,
        seconds=seconds[candidate.ordinal],
        metrics=metrics,
        routing=() if is_failed else evaluation.routing,
        expert_events=population.adaptation.events(position),
        reason="nan" if is_failed else None,
        message=f"the loss was not finite in epoch {population.epoch}" if is_failed else None,
        device=str(population.device),
        pack_size=pack_size,
        pack_mode=cohort.mode,
        pack_note=cohort.note,
    )
    return Trained(outcome=outcome, state=None if is_failed else cohort.unstack(position))
