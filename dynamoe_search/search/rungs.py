"""The rungs of a study: who reached them with what, and what was decided there.

Decisions are made from candidates that have an outcome and from the present attempt of the pack in training. Reports
that an attempt left behind which was killed or halved do not count, so a study that was interrupted decides as if it
had not been.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

from dynamoe_search.records import CandidateRecord, Outcome, Progress
from dynamoe_search.search.pruner import Decision, RungRecord, decide
from dynamoe_search.specs import PrunerSection

PRUNED = "pruned"
"""The reason of an outcome that a pruner brought about."""


def ladder(settings: PrunerSection, epochs: int) -> tuple[int, ...]:
    """Returns the epochs after which candidates are compared; none if pruning is off.

    Args:
        settings: The study's `[search.pruner]`.
        epochs: Of a candidate that is trained to its end.
    """
    if settings.kind == "none":
        return ()
    if settings.rungs is not None:
        return settings.rungs
    rungs, rung = [], 1
    while rung < epochs:
        rungs.append(rung)
        rung = -(-3 * rung // 2)  # half as much again, rounded up: 1, 2, 3, 5, 8, 12, 18, ...
    return tuple(rungs)


class Rungs:
    """All records of a study's rungs.

    Args:
        settings: The study's `[search.pruner]`.
        epochs: Of a candidate that is trained to its end.
    """

    def __init__(self, settings: PrunerSection, epochs: int) -> None:
        self._settings = settings
        self._records: dict[int, dict[int, RungRecord]] = {
            rung: {} for rung in ladder(settings, epochs)
        }  # by rung and ordinal
        self._errors: dict[int, float] = {}  # lowest so far, by ordinal
        self._trials: dict[int, int] = {}  # by ordinal
        self._references: set[int] = set()
        self._attempts: list[frozenset[int]] = []  # of the pack in training
        self._stopped: dict[int, tuple[int, Decision]] = {}  # with the rung, by ordinal

    @property
    def are_used(self) -> bool:
        """Whether anybody is compared at all."""
        return bool(self._records)

    def load(self, candidates: Iterable[CandidateRecord], reports: Iterable[Progress]) -> None:
        """Takes over what earlier runs have left: of each candidate with an outcome, the epochs that it counts.

        Args:
            candidates: Of the study.
            reports: Of the study; those of one candidate in the order of epochs.
        """
        epochs = {}
        for record in candidates:
            self._meet(record)
            if record.outcome is not None:
                epochs[record.ordinal] = record.outcome.epochs
        for report in reports:
            if report.epoch <= epochs.get(report.ordinal, 0):
                self._note(report)

    def begin_pack(self, pack: Sequence[CandidateRecord]) -> None:
        """Says who is trained next."""
        self._attempts.clear()
        self._stopped.clear()
        for record in pack:
            self._meet(record)

    def replay(self, reports: Iterable[Progress]) -> None:
        """Takes over the epochs of the pack that a checkpoint saves from being trained again, decisions included.

        Args:
            reports: Of the pack, all epochs up to the checkpoint and none after it, in the order of epochs.
        """
        for _, epoch in groupby(reports, key=lambda report: report.epoch):
            self.judge(list(epoch))

    def judge(self, reports: Sequence[Progress]) -> set[int]:
        """Takes the reports of one epoch and returns the ordinals of candidates to stop."""
        if not (self._records and reports):
            return set()
        epoch = reports[0].epoch
        live = frozenset(report.ordinal for report in reports)
        if epoch == 1:
            self._begin_attempt(live)
        for report in reports:
            self._note(report)
        if epoch not in self._records:
            return set()
        decisions = decide(
            self._settings.kind,
            self._records[epoch].values(),
            self._settings,
            live - self._references,
        )
        stopped = {one.ordinal: (epoch, one) for one in decisions if one.action == "stop"}
        self._stopped |= stopped
        return set(stopped)

    def explained(self, outcome: Outcome) -> Outcome:
        """Returns how a candidate ended, with the reason if it was stopped here; it is at its rungs from now on."""
        ordinal = outcome.ordinal
        for rung, records in self._records.items():
            if rung > outcome.epochs:  # an exception undoes all epochs
                records.pop(ordinal, None)
        if outcome.status != "stopped" or ordinal not in self._stopped:
            return outcome
        rung, decision = self._stopped[ordinal]
        return replace(outcome, reason=PRUNED, message=self._words(rung, decision))

    def _meet(self, record: CandidateRecord) -> None:
        self._trials[record.ordinal] = record.trial
        if record.candidate.reference is not None:
            self._references.add(record.ordinal)

    def _begin_attempt(self, live: frozenset[int]) -> None:
        """Forgets attempts that had one of these candidates: the trainer gave them up to start again."""
        given_up = [attempt for attempt in self._attempts if attempt & live]
        self._attempts = [attempt for attempt in self._attempts if not attempt & live]
        self._attempts.append(live)
        for ordinal in live.union(*given_up):
            self._errors.pop(ordinal, None)
            self._stopped.pop(ordinal, None)
            for records in self._records.values():
                records.pop(ordinal, None)

    def _note(self, report: Progress) -> None:
        error = 1.0 - report.accuracy
        lowest = self._errors.get(report.ordinal, error)
        self._errors[report.ordinal] = error = min(error, lowest)
        if report.epoch in self._records:
            self._records[report.epoch][report.ordinal] = RungRecord(
                ordinal=report.ordinal,
                error=error,
                loss=report.validation_loss,
                activated_params=report.activated_params,
            )

    def _words(self, rung: int, decision: Decision) -> str:
        """Returns for people why a candidate was stopped."""
        share = decision.beaten / max(1, decision.rivals)
        why = _WHY[decision.reason or "beaten"].format(
            rivals=f"{decision.beaten} of {decision.rivals} rivals ({share:.0%})",
            everybody=decision.rivals + 1,
            guard=f"{self._settings.guard:.3g}",
        )
        if decision.strongest is not None and decision.reason in _NAMES_THE_STRONGEST:
            why += f", the strongest of them trial {self._trials[decision.strongest]}"
        return f"pruned after epoch {rung}: {why}"


_WHY = {
    "not-finite": "its error, loss or activated parameters were not finite",
    "beaten": "beaten by {rivals}",
    "worst": "in the worst share ({guard}) of {everybody} candidates in error and in loss",
    "rank": "ranked behind {rivals}",
    "median": "worse than the median in error and in loss, and than {rivals} in both",
}
_NAMES_THE_STRONGEST = ("beaten", "rank", "median")
