"""The pruner in a user's own Optuna study: real storages, real samplers, two processes."""

import math
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from dynamoe_search.errors import UsageError
from dynamoe_search.pruning import ParetoPruner
from dynamoe_search.pruning.studies import RECORD, STOPPED

EPOCHS = 9
OBJECTIVE = """
import optuna
from dynamoe_search.pruning import ParetoPruner

pruner = ParetoPruner({epochs}, min_records=4)

def objective(trial):
    rate = trial.suggest_float("rate", 1e-3, 1, log=True)
    width = trial.suggest_int("width", 1, 64)
    for epoch in range(1, {epochs} + 1):
        loss = (0.1 + abs(rate - 0.1)) * (1 + 4 / width) / epoch
        if pruner.report(trial, epoch, error=loss / 4, loss=loss, cost=width):
            raise optuna.TrialPruned()
    return loss / 4, width

optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.load_study(
    study_name="own", storage={storage!r}, sampler=optuna.samplers.TPESampler(seed={seed}, n_startup_trials=8)
)
study.optimize(objective, n_trials=25)
"""


def new_study(storage: str | None = None, **kwargs: object) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        study_name="own", storage=storage, directions=["minimize", "minimize"], **kwargs
    )


def shown(
    study: optuna.Study, pruner: ParetoPruner, epoch: int = 1, **numbers: float
) -> tuple[optuna.Trial, bool]:
    trial = study.ask()
    return trial, pruner.report(trial, epoch, **numbers)


@pytest.mark.slow
def test_two_processes_share_a_study_in_sqlite_and_tpe_lives_with_pruned_trials(
    tmp_path: Path,
) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = new_study(storage)
    programs = [OBJECTIVE.format(storage=storage, seed=seed, epochs=EPOCHS) for seed in range(2)]
    workers = [
        subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
        for program in programs
    ]
    for worker in workers:
        assert not worker.communicate()[1]
        assert worker.returncode == 0
    trials = study.get_trials()
    states = [trial.state for trial in trials]
    assert len(trials) == 50
    assert {TrialState.COMPLETE, TrialState.PRUNED} == set(states)
    assert not any(trial.intermediate_values for trial in trials)
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    for trial in pruned:
        told = trial.user_attrs[STOPPED]
        assert told["action"] == "stop"
        assert RECORD.format(epoch=told["rung"]) in trial.user_attrs
    rivals = {trial.user_attrs[STOPPED]["strongest"] for trial in pruned} - {None}
    assert rivals <= {trial.number for trial in trials}
    assert study.best_trials


def test_intermediate_values_of_a_pruned_trial_break_tpe_which_is_why_there_are_none() -> None:
    study = new_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=1))
    trial = study.ask()
    value = trial.suggest_float("x", 0, 1)
    study._storage.set_trial_intermediate_value(trial._trial_id, 1, value)
    study.tell(trial, state=TrialState.PRUNED)
    with pytest.raises(RuntimeError, match="single direction"):
        study.ask().suggest_float("x", 0, 1)


def test_a_trial_stops_if_too_many_of_no_more_cost_beat_it() -> None:
    study, pruner = new_study(), ParetoPruner(9, min_records=2)
    for number in range(6):
        _, is_over = shown(study, pruner, error=0.1 + number / 100, cost=19.0 - number)
        assert not is_over
    bad, is_over = shown(study, pruner, error=0.9, cost=20.0)
    assert is_over
    assert bad.user_attrs[STOPPED]["strongest"] == 0
    _, is_over = shown(study, pruner, error=0.9, cost=1.0)  # nobody is as cheap
    assert not is_over


def test_running_pruned_and_complete_trials_count_but_failed_ones_do_not() -> None:
    study, pruner = new_study(), ParetoPruner(9, min_records=2)
    for state in (TrialState.PRUNED, TrialState.FAIL, None, TrialState.COMPLETE):
        trial, _ = shown(study, pruner, error=0.1, cost=1.0)
        if state is not None:
            values = [0.1, 1.0] if state == TrialState.COMPLETE else None
            study.tell(trial, values, state=state)
    trial, is_over = shown(study, pruner, error=0.9, cost=1.0)
    assert is_over
    assert trial.user_attrs[STOPPED]["rivals"] == 3
    assert trial.user_attrs[STOPPED]["beaten"] == 3


def test_what_a_retried_trial_inherits_does_not_count_twice() -> None:
    study, pruner = new_study(), ParetoPruner(9, min_records=1)
    first, _ = shown(study, pruner, epoch=2, error=0.1, cost=1.0)
    study.enqueue_trial({}, user_attrs=first.user_attrs)
    study.tell(first, state=TrialState.FAIL)
    again = study.ask()
    assert again.user_attrs == first.user_attrs
    other, _ = shown(study, pruner, epoch=2, error=0.9, cost=2.0)
    assert STOPPED not in other.user_attrs


def test_between_rungs_nothing_is_written_and_the_lowest_error_is_remembered() -> None:
    study, pruner = new_study(), ParetoPruner(9, rungs=(2, 4), min_records=1)
    trial = study.ask()
    for epoch, error in ((1, 0.3), (2, 0.5), (3, 0.2), (4, 0.6)):
        assert not pruner.report(trial, epoch, error=error, loss=1.0, cost=7.0)
    assert trial.user_attrs == {
        RECORD.format(epoch=2): [0, 0.3, 1.0, 7.0],
        RECORD.format(epoch=4): [0, 0.2, 1.0, 7.0],
    }


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_not_finite_stops_a_trial(bad: float) -> None:
    study, pruner = new_study(), ParetoPruner(9)
    trial, is_over = shown(study, pruner, error=0.1, loss=bad, cost=1.0)
    assert is_over
    assert trial.user_attrs[STOPPED]["reason"] == "not-finite"
    assert trial.user_attrs[RECORD.format(epoch=1)] == [0, 0.1, None, 1.0]


@pytest.mark.parametrize("rungs", [(), (0, 3)])
def test_rungs_must_be_epochs(rungs: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="rungs must be epochs"):
        ParetoPruner(9, rungs=rungs)


def test_an_epoch_counts_from_1() -> None:
    with pytest.raises(UsageError, match="epoch must count from 1, got 0"):
        ParetoPruner(9).report(new_study().ask(), 0, error=0.1, cost=1.0)


def test_the_pruner_needs_no_torch() -> None:
    code = "import sys, dynamoe_search.pruning; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
