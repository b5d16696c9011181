"""The rungs of a study: who reached them with what, as the pruner and the forecast want it.

What counts of a candidate are the epochs that a checkpoint or an outcome keeps: reports of a leg that was cut short do
not, so a study that was interrupted decides as if it had not been.
"""

from collections.abc import Iterable, Mapping, Sequence

from dynamoe_search.pruning import Decision, Rung, RungRecord, at_rungs, judge, ladder
from dynamoe_search.records import Progress, RungDecision, Standing
from dynamoe_search.search.planner import rung_of
from dynamoe_search.specs import PrunerSection

PRUNED = "pruned"
"""The reason of an outcome that a pruner brought about."""


class Rungs:
    """All records of a study's rungs.

    Args:
        settings: The study's `[search.pruner]`.
        epochs: Of a candidate that is trained to its end.
        constant: Validation error and loss of the predictor that says the same for every example.
        by_loss: Whether candidates are as good as their loss is low; the loss then takes the place of the error.
    """

    def __init__(
        self,
        settings: PrunerSection,
        epochs: int,
        constant: tuple[float, float] | None = None,
        *,
        by_loss: bool = False,
    ) -> None:
        self._settings = settings
        self.by_loss = by_loss
        if by_loss and constant is not None:
            constant = constant[1], constant[1]
        self._constant = constant
        self.ladder = ladder(settings, epochs)
        self.records: dict[int, dict[int, RungRecord]] = {rung: {} for rung in self.ladder}
        """By rung and ordinal."""
        self._known: dict[int, int] = {}  # epochs that are in the records, by ordinal
        self._settled: dict[int, Standing] = {}  # who was not behind, by ordinal
        self._columns: dict[int, Rung] = {}  # by rung, as last judged
        self._changed = set(self.ladder)  # rungs of which the records changed since

    def is_behind(self, one: Standing) -> bool:
        """Whether a candidate has reached a rung that the records do not know of, or failed since."""
        if self._settled.get(one.ordinal) is one:  # most are over, and the same object every time
            return False
        if one.status == "failed":
            is_behind = any(one.ordinal in records for records in self.records.values())
        else:
            is_behind = rung_of(one.epochs, self.ladder) > self._known.get(one.ordinal, 0)
        if not is_behind:
            self._settled[one.ordinal] = one
        return is_behind

    def take(self, one: Standing, reports: Iterable[Progress]) -> None:
        """Takes over what a candidate reported.

        Args:
            one: Where it stands; later epochs do not count, and nothing does of one that failed: it will never be on
                a front, so it holds nobody back.
            reports: All of its reports, in the order of epochs.
        """
        for rung, known in self.records.items():
            if known.pop(one.ordinal, None) is not None:
                self._changed.add(rung)
        if one.status == "failed":
            return
        kept = [report for report in reports if report.epoch <= one.epochs]
        for rung, records in at_rungs(kept, self.ladder, by_loss=self.by_loss).items():
            self.records[rung] |= {record.ordinal: record for record in records}
            if records:
                self._changed.add(rung)
        self._known[one.ordinal] = one.epochs

    def forget(self, ordinals: Iterable[int]) -> None:
        """Forgets what candidates reported: it was not stored, and another worker's numbers will count."""
        for ordinal in ordinals:
            for rung, known in self.records.items():
                if known.pop(ordinal, None) is not None:
                    self._changed.add(rung)
            self._known.pop(ordinal, None)
            self._settled.pop(ordinal, None)

    def judge(self, standing: Iterable[Standing]) -> list[Decision]:
        """Returns what the pruner makes of candidates where they stand, by ordinal; references are not judged."""
        asked = {}
        for one in standing:
            rung = rung_of(one.epochs, self.ladder)
            if rung and one.reference is None and one.ordinal in self.records[rung]:
                asked[one.ordinal] = rung
        columns = {rung: self._as_columns(rung) for rung in set(asked.values())}
        return judge(self._settings, columns, asked, constant=self._constant)

    def _as_columns(self, rung: int) -> Rung:
        """Returns the records of a rung as columns; what was known of those that are there is kept."""
        if rung in self._changed:
            records = self.records[rung].values()
            self._columns[rung] = Rung.of(records, self._columns.get(rung))
            self._changed.discard(rung)
        return self._columns[rung]

    def by_rung(self) -> dict[int, tuple[RungRecord, ...]]:
        """Returns the records of every rung."""
        return {rung: tuple(records.values()) for rung, records in self.records.items()}


def to_store(decisions: Iterable[Decision], trials: Mapping[int, int]) -> list[RungDecision]:
    """Returns decisions as they are stored.

    Args:
        decisions: By the pruner.
        trials: Trial number of every ordinal.
    """
    return [
        RungDecision(
            trial=trials[one.ordinal],
            rung=one.rung,
            action=one.action,
            beaten=one.beaten,
            rivals=one.rivals,
            strongest=None if one.strongest is None else trials[one.strongest],
            reason=one.reason,
        )
        for one in decisions
    ]


def changed(
    decisions: Sequence[RungDecision], stored: Mapping[tuple[int, int], RungDecision]
) -> list[RungDecision]:
    """Returns the decisions that differ from what is stored in more than numbers that keep moving.

    Args:
        decisions: What was decided now.
        stored: Earlier decisions by trial and rung.
    """
    found = []
    for one in decisions:
        before = stored.get((one.trial, one.rung))
        if before is None or (before.action, before.reason) != (one.action, one.reason):
            found.append(one)
    return found
