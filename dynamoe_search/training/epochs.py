"""One epoch of a pack: training, evaluation, reports, and the ends of those for whom it was the last."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from dynamoe_search.data import TextData
from dynamoe_search.moe.accounting import flops_per_token
from dynamoe_search.records import Candidate, Outcome, language_metrics
from dynamoe_search.training.evaluation import Evaluation
from dynamoe_search.training.failures import Caller
from dynamoe_search.training.measurement import measure_module
from dynamoe_search.training.pack_run import PackRun
from dynamoe_search.training.population import Population
from dynamoe_search.training.settings import Trained


def train_epoch(
    run: PackRun, population: Population, caller: Caller, after_step: Callable[[], None]
) -> None:
    """Trains the live candidates to the end of an epoch and takes those who end out of the population.

    Args:
        run: The pack.
        population: Its live candidates.
        caller: Told the reports of those who did not fail.
        after_step: Called after every step; may raise.
    """
    population.train_epoch(after_step)
    evaluations = population.evaluate()
    num_live = len(population.candidates)
    elapsed = run.end_epoch()
    run.epoch = population.epoch
    progress = population.progress(evaluations, elapsed)
    failures = _failures(population, evaluations)
    alive = [position for position in range(num_live) if position not in failures]
    reports = [progress[position] for position in alive]
    run.reports += reports
    caller.on_epoch(reports, num_live)
    for position, (reason, message) in failures.items():
        outcome = _outcome(run, population, position, "failed")
        run.finished.append(Trained(outcome=replace(outcome, reason=reason, message=message)))
    going = []
    for position in alive:
        if population.epoch < population.candidates[position].train.epochs:
            going.append(position)
        else:
            run.finished.append(_complete(run, population, position, evaluations[position]))
    run.go_on_with(going)


def _failures(
    population: Population, evaluations: Sequence[Evaluation]
) -> dict[int, tuple[str, str]]:
    """Returns reason and message by position for the live candidates that cannot go on."""
    finite = population.is_finite.tolist()
    found = {}
    for position, evaluation in enumerate(evaluations):
        if not (finite[position] and math.isfinite(evaluation.loss)):
            message = f"the loss was not finite in epoch {population.epoch}"
            found[position] = ("nan", message)
        elif _is_dead(population.candidates[position], evaluation, population.epoch):
            message = (
                f"no validation token used an expert in any layer after epoch {population.epoch}; "
                "what is left is the network around the experts"
            )
            found[position] = ("no-active-experts", message)
    return found


def _is_dead(candidate: Candidate, evaluation: Evaluation, epoch: int) -> bool:
    """Tells whether a candidate without an active expert in any layer has failed.

    Before its last epoch it may come back, with every kind of router. The network around the experts goes on learning
    and moves the tokens, so that a `relu` gate opens again, although its rows have no gradient. `null-experts` has the
    load-balance loss and the balancing bias, which act on real experts that nobody chose. `expert-choice` uses experts
    in training even while its running threshold, which is for evaluation, lets nobody pass. All others take at least
    one expert wherever one is open, and where none is, experts are added. Only if none is open and none is ever added,
    no step can change it, and the candidate fails at once.
    """
    if any(evaluation.mean_k):
        return False
    has_open = any(layer.num_experts for layer in evaluation.routing)
    adds = candidate.adaptive is not None and candidate.adaptive.add
    return epoch >= candidate.train.epochs or not (has_open or adds)


def _outcome(
    run: PackRun, population: Population, position: int, status: Literal["complete", "failed"]
) -> Outcome:
    """Returns what every end of a candidate has."""
    ordinal = population.candidates[position].ordinal
    return Outcome(
        ordinal=ordinal,
        status=status,
        epochs=population.epoch,
        seconds=run.seconds[ordinal],
        expert_events=population.adaptation.events(position),
        device=str(population.device),
        pack_size=len(run.pack),
        pack_mode=population.cohort.mode,
        pack_note=population.cohort.note,
    )


def _complete(
    run: PackRun, population: Population, position: int, evaluation: Evaluation
) -> Trained:
    """Makes the record of a candidate that has trained all its epochs, with its weights."""
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
        "flops_per_token": flops_per_token(module, population.data.input_shape, evaluation.mean_k),
    }
    if isinstance(population.data, TextData):
        metrics |= language_metrics(evaluation.loss, population.data.bytes_per_token)
    if counts.embedding:
        metrics |= {
            "embedding_params": float(counts.embedding),
            "activated_params_with_embeddings": metrics["activated_params"] + counts.embedding,
            "total_params_with_embeddings": metrics["total_params"] + counts.embedding,
        }
    if population.settings.measure:
        metrics |= measure_module(module, population.data)
    outcome = _outcome(run, population, position, "complete")
    outcome = replace(outcome, metrics=metrics, routing=evaluation.routing)
    return Trained(outcome=outcome, state=population.cohort.unstack(position))
