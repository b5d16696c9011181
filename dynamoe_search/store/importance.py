"""Which searched parameters mattered, computed by Optuna on the study's own trials."""

import warnings
from dataclasses import dataclass

import optuna
from optuna.importance import (
    BaseImportanceEvaluator,
    FanovaImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)
from optuna.trial import FrozenTrial, TrialState

from dynamoe_search.store import Store, quiet_optuna

MIN_CANDIDATES = 16
"""Below this many candidates nothing is said about importance."""
MAX_CANDIDATES = 200
"""The time of fANOVA grows with the square: more candidates are thinned out evenly to this many."""
NUM_TREES = 32
"""Trees of fANOVA's forest; with 64, Optuna's default, it takes twice as long and says the same."""
BEST_SHARE = 0.25
"""Share of the candidates that PED-ANOVA calls good; with less, small studies compare a handful."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Importance:
    """How much a parameter mattered for one objective.

    `fanova` is the share of the objective's variance that the parameter explains by itself, over all candidates;
    it knows only parameters that every candidate has. `ped-anova` says how much the parameter's values among the
    best quarter differ from those of all; it knows conditional parameters too. Per objective and method the
    numbers sum to 1.

    Source: Hutter et al., 2014, "An efficient approach for assessing hyperparameter importance" (fANOVA);
    Watanabe et al., 2023, arXiv:2304.10255 (PED-ANOVA).
    """

    objective: str
    parameter: str
    method: str
    importance: float
    candidates: int  # that have the parameter


def importances(store: Store, name: str) -> list[Importance]:
    """Returns the importance of every searched parameter for every objective, the largest first.

    Reference designs are left out: they were not drawn from the space. Empty if fewer than `MIN_CANDIDATES`
    candidates are complete.

    Args:
        store: The open database.
        name: The study.
    """
    record = store.study(name)
    if record.num_complete < MIN_CANDIDATES:
        return []
    with quiet_optuna(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that low values are sought, which the sign sees to
        study = _searched_trials(store, name, record.maximise)
        trials = study.get_trials(deepcopy=False)
        if len(trials) < MIN_CANDIDATES:
            return []
        return [
            found
            for place, objective in enumerate(record.objectives)
            for found in _of_objective(study, trials, place, objective, record.maximise[place])
        ]


def _searched_trials(store: Store, name: str, maximise: tuple[bool, ...]) -> optuna.Study:
    """Returns a study in memory with the complete candidates that the space proposed."""
    stored = optuna.load_study(study_name=name, storage=store.storage_for_optuna())
    study = optuna.create_study(
        directions=["maximize" if upwards else "minimize" for upwards in maximise]
    )
    study.add_trials(
        [
            trial
            for trial in stored.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if trial.user_attrs.get("reference") is None and trial.params
        ]
    )
    return study


def _of_objective(
    study: optuna.Study, trials: list[FrozenTrial], place: int, objective: str, upwards: bool
) -> list[Importance]:
    sign = -1.0 if upwards else 1.0

    def loss(trial: FrozenTrial) -> float:
        return sign * float(trial.values[place])

    if len({loss(trial) for trial in trials}) < 2:
        return []  # nothing varies, so nothing explains it
    evaluators: dict[str, tuple[optuna.Study, BaseImportanceEvaluator]] = {
        "fanova": (_thinned(study, trials), FanovaImportanceEvaluator(n_trees=NUM_TREES, seed=0)),
        "ped-anova": (study, PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)),
    }
    return [
        Importance(
            objective=objective,
            parameter=parameter,
            method=method,
            importance=float(share),
            candidates=sum(parameter in trial.params for trial in trials),
        )
        for method, (among, evaluator) in evaluators.items()
        for parameter, share in get_param_importances(
            among, evaluator=evaluator, target=loss
        ).items()
    ]


def _thinned(study: optuna.Study, trials: list[FrozenTrial]) -> optuna.Study:
    if len(trials) <= MAX_CANDIDATES:
        return study
    fewer = optuna.create_study(directions=study.directions)
    step = len(trials) / MAX_CANDIDATES
    fewer.add_trials([trials[int(place * step)] for place in range(MAX_CANDIDATES)])
    return fewer
