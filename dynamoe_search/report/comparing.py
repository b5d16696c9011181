"""Studies side by side: the same measures, one reference point, equal budgets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from dynamoe_search.errors import UsageError
from dynamoe_search.pareto import dominated_share
from dynamoe_search.report.findings import best_of
from dynamoe_search.report.history import hypervolumes, reference_of
from dynamoe_search.report.reading import StudyData, axes, is_ranked, points, value
from dynamoe_search.report.tables import Row
from dynamoe_search.report.words import is_maximised
from dynamoe_search.specs.vocabulary import LOGARITHMIC

SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of the smallest study's epochs at which studies are compared."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two studies or more with what they have in common.

    Args:
        studies: In the order in which they were named.
    """

    studies: tuple[StudyData, ...]

    @cached_property
    def objectives(self) -> tuple[str, ...]:
        """Objectives that all studies have, in the order of the first."""
        first, *others = self.studies
        return tuple(
            name for name in first.objectives if all(name in one.objectives for one in others)
        )

    @cached_property
    def axes(self) -> tuple[str, str]:
        """The measures of the plot of fronts."""
        return axes(self.objectives)

    @cached_property
    def reference(self) -> tuple[float, ...]:
        """The worst of the studies' reference points in every common objective."""
        found = []
        for name in self.objectives:
            worst = [reference_of(one)[one.objectives.index(name)] for one in self.studies]
            found.append(min(worst) if is_maximised(name) else max(worst))
        return tuple(found)

    @cached_property
    def warnings(self) -> list[str]:
        """What keeps the numbers from being compared, in sentences."""
        found = []
        hashes = {one.record.settings.data_hash for one in self.studies}
        if len(hashes) > 1:
            found.append(
                "These studies were not trained and validated on the same data, "
                "so their numbers do not compare."
            )
        budgets = {one.spec.train.epochs for one in self.studies if one.spec is not None}
        if len(budgets) > 1:
            found.append("A full training is not equally long in these studies.")
        if any(len(one.objectives) > len(self.objectives) for one in self.studies):
            found.append("Only the objectives that all of these studies have are compared.")
        return found

    def hypervolume(self, data: StudyData) -> float:
        """Returns the hypervolume of a study's candidates on the common objectives and reference."""
        maximise = [is_maximised(name) for name in self.objectives]
        return dominated_share(
            points(data.ranked, self.objectives),
            maximise,
            self.reference,
            [name in LOGARITHMIC for name in self.objectives],
        )

    def budgets(self) -> Iterator[Row]:
        """Yields what each study had reached after the same numbers of epochs."""
        smallest = min(one.epochs for one in self.studies)
        for epochs in dict.fromkeys(round(share * smallest) for share in SHARES):
            for data in self.studies:
                yield self._at(data, epochs)

    def _at(self, data: StudyData, epochs: int) -> Row:
        across, upwards = self.axes
        moments = [
            moment
            for moment in hypervolumes(data, self.objectives, self.reference)
            if moment.epochs <= epochs
        ]
        done = [one for one in data.finished[: len(moments)] if is_ranked(one)]
        best = best_of(done, upwards) if done else None
        return {
            "study": data.name,
            "epochs": epochs,
            "finished": sum(one.status == "complete" for one in data.finished[: len(moments)]),
            "hypervolume": moments[-1].hypervolume if moments else 0.0,
            "best": value(best, upwards) if best else None,
            "cost_of_best": value(best, across) if best else None,
        }


def compare(studies: Sequence[StudyData]) -> Comparison:
    """Returns studies side by side.

    Raises:
        UsageError: They are fewer than two, or have no objective in common.
    """
    names = [one.name for one in studies]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise UsageError(f"--compare needs two or more different studies, got {', '.join(names)}")
    found = Comparison(studies=tuple(studies))
    if not found.objectives:
        raise UsageError(f"the studies {', '.join(names)} have no objective in common")
    return found
