"""What a worker does next, worked out from the database and put down there before it is done."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from dynamoe_search.pruning import Decision
from dynamoe_search.records import Ended, Leg, Purpose, RungDecision, Standing, StudyRecord
from dynamoe_search.search.legs import LegTrainer, by_ordinal
from dynamoe_search.search.planner import Over, Position, Propose, TakeOver, Train, Wait, plan
from dynamoe_search.search.proposals import Proposals
from dynamoe_search.search.rungs import Rungs, changed, to_store
from dynamoe_search.search.sampling import Proposer
from dynamoe_search.search.space import Space
from dynamoe_search.search.stopwatch import Stopwatch
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Addition, Pulse, Store
from dynamoe_search.training import Interrupted

_NO_LEG = 2**31 - 1
"""Above all numbers of legs."""
_LOOK_SECONDS = 5.0
"""How often a worker that waits looks for others that died, though nothing else has changed."""
_STORED_TOGETHER = 16
"""Proposals that are written to the database at a time."""

_Ending = Literal["enough", "exhausted", "stopped"]
"""Why no more designs were drawn: there were as many as wanted, the space has no other, or somebody asked to stop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """What is stored of a study at one moment, as far as the next leg depends on it."""

    legs: list[Leg]  # open
    standings: list[Standing]
    decisions: list[RungDecision]  # of the paused
    pulse: Pulse


class NextLegs:
    """Plans one study for one worker.

    Who found nothing to do asks for no turn to plan until it sees, without one, that there is something: otherwise the
    many that wait at the end of a study would keep those few from planning that have something to do.

    Args:
        store: The open database.
        worker: The lease of this process.
        spec: The study.
        rungs: What candidates reported.
        trainer: Makes the outcomes of those who are stopped for good.
        on_ended: Told who that was.
        should_stop: Asked between proposals, and while another worker plans.
        watch: Told what the time goes into.
    """

    def __init__(
        self,
        store: Store,
        worker: str,
        spec: StudySpec,
        rungs: Rungs,
        trainer: LegTrainer,
        on_ended: Callable[[Sequence[Ended]], None],
        should_stop: Callable[[], bool],
        watch: Stopwatch,
    ) -> None:
        self._store, self._worker, self._name, self._spec = store, worker, spec.study.name, spec
        self._rungs, self._trainer, self._on_ended = rungs, trainer, on_ended
        self._proposals = Proposals(Space(spec))
        self._should_stop, self._watch = should_stop, watch
        self._is_waiting = False
        self._seen: Pulse | None = None  # the study when there was nothing to do
        self._first_leg = 0  # the lowest that was open then
        self._at_work: set[str | None] = set()  # who had legs then
        self._look_at = 0.0
        self._alive: set[str] = set()  # empty: not looked yet

    def next(self) -> Leg | Wait | Over:
        """Returns the leg to train, or why there is none; proposes designs that are missing.

        Raises:
            Interrupted: Somebody asked to stop.
            LeaseLostError: This worker counted as dead and lost its turn; it plans again.
            StoppedError: Somebody asked to stop while another worker planned, or the database was waited for.
        """
        if self._is_waiting and not self._has_news():
            return Wait()
        self._is_waiting, self._seen = False, None
        drafts: Sequence[Addition] | None = None
        while True:
            with self._store.planning(self._name, self._worker, self._should_stop):
                step = self._planned(drafts)
            if not isinstance(step, Propose):
                self._is_waiting = isinstance(step, Wait)
                return step
            drafts = self._drawn(step)

    def _planned(self, drafts: Sequence[Addition] | None) -> Leg | Propose | Wait | Over:
        """Returns what this worker does next while it is its turn to plan; `Propose` if it is to draw designs first.

        Args:
            drafts: Designs that it has drawn; None if it has not.
        """
        self._alive = set()  # one look for each turn
        position = self._position()
        while True:
            step = plan(position)
            match step:
                case TakeOver():
                    if self._store.take_leg(self._name, self._worker, step.leg.number):
                        return replace(step.leg, worker=self._worker)
                    self._alive = set()  # somebody was not dead
                    position = self._position()
                case Propose():
                    if drafts is None and self._draws_apart(position):
                        return step
                    new = self._add(drafts, step, position.candidates) if drafts else []
                    new, drafts = new or self._propose(step, position.candidates), None
                    if (
                        len(new) == step.number
                    ):  # whatever else happened meanwhile is seen next time
                        position = replace(position, candidates=[*position.candidates, *new])
                    else:
                        position = self._position()
                case Train():
                    return self._store.open_leg(
                        self._name,
                        self._worker,
                        step.trials,
                        start=step.start,
                        end=step.end,
                        pack_key=step.pack_key,
                    )
                case Over():
                    self._close(step, position)
                    return step
                case Wait():
                    return step

    def _has_news(self) -> bool:
        """Says whether there is something to do, as far as can be seen without the turn to plan."""
        pulse = self._store.pulse(self._name, self._first_leg)  # first: the rest may be newer
        if pulse == self._seen and not self._has_died():
            return False
        self._alive = set()
        position = self._position(is_planning=False)
        if not isinstance(plan(position), Wait):
            return True
        self._seen = pulse
        self._first_leg = min((leg.number for leg in position.open_legs), default=0)
        self._at_work = {leg.worker for leg in position.open_legs}
        self._look_at = _soon()
        return False

    def _has_died(self) -> bool:
        """Says whether somebody with a leg is dead, which is looked for now and then."""
        if time.monotonic() < self._look_at:
            return False
        self._look_at = _soon()
        return not self._at_work <= {
            one.id for one in self._store.workers(self._name) if one.is_alive
        }

    @cached_property
    def _record(self) -> StudyRecord:
        """The study as it was made: its purpose and its settings, which stay as they are."""
        return self._store.study(self._name)

    def _position(self, *, is_planning: bool = True) -> Position:
        seen = self._store.at_one_moment(self._look)
        with self._watch.at("prune"):
            decisions = self._rungs.judge(one for one in seen.standings if one.status == "paused")
        if is_planning:
            self._remember(seen, decisions)
        return Position(
            candidates=seen.standings,
            rungs=self._rungs.ladder,
            epochs=self._spec.train.epochs,
            trials=seen.pulse.trials,
            cohort_size=self._record.settings.cohort_size,
            max_epochs=seen.pulse.max_epochs,
            open_legs=seen.legs,
            dead={leg.number for leg in seen.legs if leg.worker not in self._alive},
            decisions={one.ordinal: one for one in decisions},
            is_exhausted=is_exhausted(
                self._record.purpose, seen.pulse.exhausted_at, len(seen.standings)
            ),
        )

    def _look(self) -> _Seen:
        """Reads where the study stands, and lets the rungs know of what was reported since."""
        store, name = self._store, self._name
        legs, standings = store.legs(name, state="open"), store.standings(name)
        behind = {one.trial: one for one in standings if self._rungs.is_behind(one)}
        if behind:
            reports = by_ordinal(store.progress(name, trials=behind))
            for one in behind.values():
                self._rungs.take(one, reports.get(one.ordinal, ()))
        if legs and not self._alive:
            self._alive = {one.id for one in store.workers(name) if one.is_alive}
        is_anybody_paused = any(one.status == "paused" for one in standings)
        return _Seen(
            legs=legs,
            standings=standings,
            decisions=store.decisions(name, status=("paused",)) if is_anybody_paused else [],
            pulse=store.pulse(name, min((leg.number for leg in legs), default=_NO_LEG)),
        )

    def _remember(self, seen: _Seen, decisions: Sequence[Decision]) -> None:
        """Stores decisions that have changed, so that `status` can say why somebody waits."""
        stored = {(one.trial, one.rung): one for one in seen.decisions}
        news = changed(self._to_store(seen.standings, decisions), stored) if decisions else ()
        if news:
            self._store.decide(self._name, self._worker, news)

    def _to_store(
        self, standings: Sequence[Standing], decisions: Sequence[Decision]
    ) -> list[RungDecision]:
        return to_store(decisions, {one.ordinal: one.trial for one in standings})

    # Designs

    def _draws_apart(self, position: Position) -> bool:
        """Says whether to draw designs without the turn to plan: it takes long, and others are at work.

        A worker that is alone draws them in its turn, so that what it draws follows from what is stored alone.
        """
        has_company = any(
            leg.worker != self._worker and leg.number not in position.dead
            for leg in position.open_legs
        )
        return has_company and self._proposals.may_be_drawn_apart(len(position.candidates))

    def _drawn(self, step: Propose) -> list[Addition]:
        """Returns designs for a cohort that are new as far as this worker knows, fewer if the space has no more.

        Others draw at the same time from the same knowledge: what is drawn depends on who draws it.
        """
        proposer = self._proposer(self._store.standings(self._name), self._worker)
        drafts, ending = self._additions(proposer, step.cohort, step.number)
        if ending == "stopped":
            raise Interrupted("stopped between two proposals")
        return drafts

    def _add(
        self, drafts: Sequence[Addition], step: Propose, candidates: Sequence[Standing]
    ) -> list[Standing]:
        """Adds drafts to a cohort under the next ordinals, but those that others drew; returns where they stand."""
        hashes = {one.candidate.design_hash: one for one in drafts}
        taken = self._store.known_designs(self._name, hashes)
        fresh = [one for design, one in hashes.items() if design not in taken][: step.number]
        first = max((one.ordinal for one in candidates), default=-1) + 1
        additions = [
            replace(one, candidate=replace(one.candidate, ordinal=ordinal), cohort=step.cohort)
            for ordinal, one in enumerate(fresh, start=first)
        ]
        return self._added(additions)

    def _added(self, additions: Sequence[Addition]) -> list[Standing]:
        """Adds candidates; returns where they stand."""
        trials = self._store.add_candidates(self._name, additions, worker=self._worker)
        return [
            Standing(
                trial=trial,
                ordinal=one.candidate.ordinal,
                cohort=one.cohort,
                status="running",
                epochs=0,
                checkpoint=None,
                pack_key=one.candidate.pack_key,
                reference=one.candidate.reference,
            )
            for trial, one in zip(trials, additions, strict=True)
        ]

    def _proposer(self, candidates: Sequence[Standing], who: str = "") -> Proposer:
        """Returns a proposer that knows these candidates, see `Proposer`."""
        moved = self._proposals.moved(candidates)
        self._proposals.tell(
            self._store.candidates(
                self._name,
                trials=moved if len(moved) < len(candidates) else None,
                with_routing=False,
            )
        )
        with self._watch.at("sample"):
            return self._proposals.proposer(self._rungs, who)

    def _propose(self, step: Propose, candidates: Sequence[Standing]) -> list[Standing]:
        """Adds designs to a cohort, fewer if there are no more; returns where they stand.

        Whoever is killed before they are stored would propose the same ones again.
        """
        proposer = self._proposer(candidates)
        found: list[Standing] = []
        for missing in range(step.number, 0, -_STORED_TOGETHER):
            wanted = min(missing, _STORED_TOGETHER)
            additions, ending = self._additions(proposer, step.cohort, wanted)
            found += self._added(additions)
            if ending == "stopped":  # the cohort is filled up when the study goes on
                raise Interrupted("stopped between two proposals")
            if ending == "exhausted":
                number = len(candidates) + len(found)
                self._store.set_exhausted(self._name, number, worker=self._worker)
                break
        return found

    def _additions(
        self, proposer: Proposer, cohort: int, number: int
    ) -> tuple[list[Addition], _Ending]:
        """Returns the next designs, at most so many, and why there are no more."""
        found: list[Addition] = []
        with self._watch.at("sample"):
            while len(found) < number:
                proposal = proposer.propose()
                if proposal is None:
                    return found, "exhausted"
                found.append(
                    Addition(
                        candidate=proposal.candidate,
                        params=proposal.params,
                        distributions=proposal.distributions,
                        cohort=cohort,
                        sampler_state=proposal.sampler_state,
                    )
                )
                if self._should_stop():
                    return found, "stopped"
        return found, "enough"

    def _close(self, step: Over, position: Position) -> None:
        """Ends whoever waits, if nobody will go on; a budget of epochs can be raised.

        A worker that died may not have told Optuna of its last leg, or have told it of candidates that it did not add.
        """
        paused = [one for one in position.candidates if one.status == "paused"]
        if step.reason != "epochs" and paused:
            self._stop(paused, position)
        self._store.replay_tells(self._name)
        self._store.discard_left_behind(self._name, self._worker)

    def _stop(self, paused: Sequence[Standing], position: Position) -> None:
        found = self._to_store(position.candidates, tuple(position.decisions.values()))
        decisions = {one.trial: one for one in found}
        trials = [one.trial for one in paused]
        reports = by_ordinal(self._store.progress(self._name, trials=trials))
        ended = [
            self._trainer.stopped(one, reports.get(one.ordinal, ()), decisions[one.trial])
            for one in self._store.candidates(self._name, trials=trials)
        ]
        final = [replace(decisions[one.trial], action="stop") for one in ended]
        self._store.stop_paused(self._name, self._worker, ended, final)
        self._on_ended(ended)


def _soon() -> float:
    """Returns when to look for the dead again; many who wait do not do so at the same time."""
    return time.monotonic() + _LOOK_SECONDS * random.uniform(0.75, 1.25)  # noqa: S311


def is_exhausted(purpose: Purpose, exhausted_at: int | None, num_proposals: int) -> bool:
    """Says whether a study proposes no more designs, because its space has no other or it was given all of them.

    That the space gave out is stored like a proposal, and is as final: a study that goes on must not ask again, knowing
    more, and find what the uninterrupted one did not. Nor does it ask again when it is asked for more trials. One that
    was asked for them from the start would have made the same proposals, to the same end. Should another worker have
    found a design since, the space had not given out.

    Args:
        purpose: Of the study.
        exhausted_at: How many designs it had proposed when its space gave out; None if it did not.
        num_proposals: Designs that were proposed so far.
    """
    return purpose != "search" or exhausted_at == num_proposals
