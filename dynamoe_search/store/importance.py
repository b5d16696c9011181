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
MAX_CANDIDATES = {"fanova": 200, "ped-anova": 1000}
"""More candidates are thinned out evenly to so many; the time of fANOVA grows with their square."""
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
        trials = _searched_trials(store, name)
        if len(trials) < MIN_CANDIDATES:
            return []
        among = {
            method: _in_memory(trials, record.maximise, most)
            for method, most in MAX_CANDIDATES.items()
        }
        return [
            found
            for place, objective in enumerate(record.objectives)
            for found in _of_objective(among, trials, place, objective, record.maximise[place])
        ]


def _searched_trials(store: Store, name: str) -> list[FrozenTrial]:
    """Returns the complete candidates that the space proposed."""
    study = optuna.load_study(study_name=name, storage=store.storage_for_optuna())
    return [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if trial.user_attrs.get("reference") is None and trial.params
    ]


def _in_memory(trials: list[FrozenTrial], maximise: tuple[bool, ...], most: int) -> optuna.Study:
    """Returns a study of its own with an even share of the trials."""
    study = optuna.create_study(
        directions=["maximize" if upwards else "minimize" for upwards in maximise]
    )
    step = max(1.0, len(trials) / most)
    study.add_trials([trials[int(place * step)] for place in range(min(most, len(trials)))])
    return study


def _of_objective(
    among: dict[str, optuna.Study],
    trials: list[FrozenTrial],
    place: int,
    objective: str,
    upwards: bool,
) -> list[Importance]:
    sign = -1.0 if upwards else 1.0

    def loss(trial: FrozenTrial) -> float:
        return sign * float(trial.values[place])

    if len({loss(trial) for trial in trials}) < 2:
        return []  # nothing varies, so nothing explains it
    evaluators: dict[str, BaseImportanceEvaluator] = {
        "fanova": FanovaImportanceEvaluator(n_trees=NUM_TREES, seed=0),
        "ped-anova": PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE),
    }
    return [
        Importance(
            objective=objective,
            parameter=parameter,
            method=method,
            importance=float(share),
            candidates=sum(parameter in trial.params for trial in trials),
        )
        for method, evaluator in evaluators.items()
        for parameter, share in get_param_importances(
            among[method], evaluator=evaluator, target=loss
        ).items()
    ]
