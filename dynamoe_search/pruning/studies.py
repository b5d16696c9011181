"""The pruner for a user's own Optuna study with two objectives, which Optuna itself cannot prune.

Optuna's `trial.report` and `trial.should_prune` refuse such a study, and a pruned trial with intermediate values makes
its TPE sampler raise. So what a trial shows at a rung is kept in the trial's user attributes, where every process that
works on the same storage sees it, and Optuna's intermediate values stay empty.
"""

from collections.abc import Collection, Iterator
from dataclasses import asdict

import numpy as np
import optuna
from optuna.trial import TrialState

from dynamoe_search.errors import UsageError
from dynamoe_search.pruning.rules import judge
from dynamoe_search.pruning.rungs import RungRecord, usual_rungs
from dynamoe_search.specs import PrunerSection

RECORD = "pareto-pruner:{epoch}"
"""User attribute of a trial: its number, lowest error, loss and cost at a rung; null for what is not finite."""
STOPPED = "pareto-pruner:stopped"
"""User attribute of a trial that should stop: the decision, with trial numbers for ordinals."""

_COUNTED = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)


class ParetoPruner:
    """Says when a trial of an Optuna study should stop, by error, loss and cost at once.

    A trial is compared at rungs with every trial that reached them, running, pruned or complete. Those go on that the
    fewest rivals beat in error and loss at no more cost. Stopping is for good here, so trials that come early meet few
    rivals, and the order of trials matters somewhat.

    Args:
        epochs: Of a trial that is trained to its end.
        rungs: Epochs after which trials are compared; None means four early ones, such as 1, 2, 3, 5 of 27.
        share: How many go on from a rung; a smaller share stops more.
        guard: Also stop the worst share in error and loss alike, so that a useless trial of lowest cost ends too.
        min_records: Stop nobody at a rung that fewer trials have reached, unless a number is not finite.

    Raises:
        UsageError: If a rung is not an epoch.
    """

    def __init__(
        self,
        epochs: int,
        *,
        rungs: Collection[int] | None = None,
        share: float = 0.5,
        guard: float = 0.0,
        min_records: int = 8,
    ) -> None:
        if rungs is not None and (not rungs or min(rungs) < 1):
            raise UsageError(f"rungs must be epochs, which count from 1; got {sorted(rungs)}")
        self._rungs = frozenset(usual_rungs(epochs) if rungs is None else rungs)
        self._settings = PrunerSection(
            kind="pareto", share=share, guard=guard, min_records=min_records, pause=False
        )
        self._lowest: dict[tuple[str, int], float] = {}  # error so far, by study and trial

    def report(
        self,
        trial: optuna.Trial,
        epoch: int,
        *,
        error: float,
        cost: float,
        loss: float | None = None,
    ) -> bool:
        """Takes what a trial shows after an epoch and returns whether it should stop.

        If so, raise `optuna.TrialPruned`. Call it after every epoch: between rungs it remembers the lowest error.

        Args:
            trial: The running trial.
            epoch: Finished epochs, from 1.
            error: To be minimised, such as 1 - accuracy on validation data.
            cost: The other objective, to be minimised, as it is now.
            loss: A finer measure of quality than the error, such as the validation loss; None if there is no other.

        Raises:
            UsageError: If the epoch is below 1.
        """
        if epoch < 1:
            raise UsageError(f"epoch must count from 1, got {epoch}")
        key = (trial.study.study_name, trial.number)
        self._lowest[key] = float(np.minimum(error, self._lowest.get(key, np.inf)))
        if epoch not in self._rungs:
            return False
        shown = [self._lowest[key], float(error if loss is None else loss), float(cost)]
        numbers = [one if np.isfinite(one) else None for one in shown]
        trial.set_user_attr(RECORD.format(epoch=epoch), [trial.number, *numbers])
        records = list(_records(trial.study, epoch))
        (decision,) = judge(self._settings, {epoch: records}, {trial.number: epoch})
        if decision.keep:
            return False
        trial.set_user_attr(STOPPED, asdict(decision))
        return True


def _records(study: optuna.Study, epoch: int) -> Iterator[RungRecord]:
    """Yields what each trial showed at a rung."""
    name = RECORD.format(epoch=epoch)
    for trial in study.get_trials(deepcopy=False, states=_COUNTED):
        number, *numbers = trial.user_attrs.get(name, [None])
        if number != trial.number:  # nothing, or inherited from the trial that this one tries again
            continue
        error, loss, cost = (np.nan if one is None else one for one in numbers)
        yield RungRecord(ordinal=number, error=error, loss=loss, activated_params=cost)
