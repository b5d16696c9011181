"""What a study does next: a pure function of what is stored. No torch, no I/O, no clock.

A study is trained in *legs*: candidates that all stand at the same epoch go on together to the next rung, where each is
given a checkpoint of its own. Since a candidate's numbers do not depend on its company, any candidates of one pack key
and one epoch may share a leg. Pausing, resuming, filling places that became free, sharing work between processes and
taking over from a dead one are all the same thing: who goes on, in which leg.

The order of precedence: take over the leg of a dead worker; train what is proposed; as long as nobody is complete,
bring the references and the best of the first cohort to the end, so that there is a front early; go on with a whole leg
of candidates that the pruner lets go on, from the highest rung where there are so many; propose another cohort; when no
more are to be proposed, go on with what the pruner lets go on, from the lowest rung up; with a budget of epochs, spend
what is left of it on the paused with the best chance.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from dynamoe_search.pruning import Decision
from dynamoe_search.records import Leg, Standing

_RIVALS = 3
"""A whole leg goes on past a rung, before all candidates are proposed, once the rung has so many times its size in
records: early on nearly everybody looks good, and whoever goes on too early is trained in vain."""
_FIRST = 4
"""The first who go to the end, before more are proposed, are a cohort divided by this, or the references and half as
many others if those are more. On recorded curves fewer are too few for a front, and more cost epochs: they had no
rivals to be judged by."""
_KNOWN_FROM = 8
"""Candidates at a rung from which on the share that went on says something."""
_USUAL_SHARE = 0.8
"""How many go on past a rung of which nothing is known."""
_LEFT_OVER = 4
"""The last of a group join the leg before if they are at most a cohort divided by this: alone they would cost as much
as many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Where a study stands.

    Attributes:
        candidates: All of them.
        rungs: Epochs after which candidates are compared, ascending; below `epochs`.
        epochs: Of a candidate that is trained to its end.
        trials: How many candidates are asked for.
        cohort_size: How many are proposed at a time, and trained in one leg, see `most_in_leg`.
        max_epochs: Budget in candidate-epochs, None for no limit.
        open_legs: Legs in training, or left behind.
        dead: Numbers of the open legs whose worker is no more.
        decisions: By ordinal, for whoever stands at a rung.
        is_exhausted: Whether the space has no new designs.
    """

    candidates: Sequence[Standing]
    rungs: Sequence[int]
    epochs: int
    trials: int
    cohort_size: int
    max_epochs: int | None = None
    open_legs: Sequence[Leg] = ()
    dead: Collection[int] = ()
    decisions: Mapping[int, Decision] = field(default_factory=dict)
    is_exhausted: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TakeOver:
    """Train a leg that a dead worker left behind."""

    leg: Leg


@dataclass(frozen=True, kw_only=True, slots=True)
class Propose:
    """Propose so many candidates for a cohort, then plan again."""

    cohort: int
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Train:
    """Open a leg with these trials and train it."""

    trials: tuple[int, ...]
    start: int
    end: int
    pack_key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """Others are at work, and what is left to do depends on what comes out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Over:
    """There is nothing left to do."""

    reason: Literal["trials", "epochs", "exhausted"]


Step: TypeAlias = TakeOver | Propose | Train | Wait | Over


def rung_of(epochs: int, rungs: Sequence[int]) -> int:
    """Returns the last rung that a candidate with so many epochs behind it has reached; 0 if none."""
    return max((rung for rung in rungs if rung <= epochs), default=0)


def most_in_leg(cohort_size: int) -> int:
    """Returns how many candidates a leg has at most: a cohort, and a quarter of one if nobody is left over then."""
    return cohort_size + cohort_size // _LEFT_OVER


def plan(position: Position) -> Step:
    """Returns the next step of a worker. The order of the records does not matter."""
    return _Planner(position).step()


class _Planner:
    def __init__(self, position: Position) -> None:
        self.position = position
        training = {trial for leg in position.open_legs for trial in leg.trials}
        free = [one for one in position.candidates if one.trial not in training]
        free.sort(key=lambda one: one.ordinal)
        self.new = [one for one in free if one.status == "running"]
        self.paused = [one for one in free if one.status == "paused"]
        self.left = self._left()

    def _left(self) -> float:
        """Returns what the budget of epochs leaves, after the legs in training."""
        if self.position.max_epochs is None:
            return float("inf")
        spent = sum(one.epochs for one in self.position.candidates)
        bound = sum(len(leg.trials) * (leg.end - leg.start) for leg in self.position.open_legs)
        return max(0, self.position.max_epochs - spent - bound)

    def step(self) -> Step:
        if self.position.dead:
            return TakeOver(
                leg=min(
                    (leg for leg in self.position.open_legs if leg.number in self.position.dead),
                    key=lambda leg: leg.number,
                )
            )
        going = self._affordable([one for one in self.paused if self._goes(one)])
        step = (
            self._fill_up()
            or self._lowest_leg(self.new)
            or self._first_leg(going)
            or self._whole_leg(going)
            or self._propose(going)
            or self._lowest_leg(going)
            or (self._best_chances() if self.position.max_epochs is not None else None)
        )
        if step is not None:
            return step
        return Wait() if self.position.open_legs else self._over()

    def _goes(self, one: Standing) -> bool:
        decision = self.position.decisions.get(one.ordinal)
        return one.reference is not None or decision is None or decision.keep

    def _affordable(self, going: Sequence[Standing]) -> list[Standing]:
        """Returns those whom the budget is expected to bring to their end: who came far first, then the best chances.

        Otherwise a small budget would bring everybody a little further and nobody to the end.
        """
        if self.position.max_epochs is None:
            return list(going)
        chosen: list[Standing] = []
        needed = 0.0
        for one in sorted(going, key=lambda one: (-one.epochs, self._rank(one))):
            needed += self._expected_epochs(one.epochs)
            if needed <= self.left or not chosen:
                chosen.append(one)
        return chosen

    def _end(self, start: int) -> int:
        """Returns where a leg from here ends."""
        return min((r for r in self.position.rungs if r > start), default=self.position.epochs)

    # Proposals

    def _cohorts(self) -> tuple[int, list[Standing]]:
        """Returns the number of the last cohort, and its members if none of them was in a leg yet."""
        number = max((one.cohort for one in self.position.candidates), default=0)
        members = [one for one in self.position.candidates if one.cohort == number]
        fresh = {one.trial for one in self.new if one.epochs == 0}
        return number, members if all(one.trial in fresh for one in members) else []

    def _fill_up(self) -> Step | None:
        """Goes on with proposals that were cut short: they know no more than the first ones did."""
        number, members = self._cohorts()
        missing = self._room(len(members)) - len(members) if members else 0
        return Propose(cohort=number, number=missing) if missing > 0 else None

    def _propose(self, going: Sequence[Standing]) -> Step | None:
        """Proposes a cohort, unless the budget is needed for those that are on their way."""
        number = self._room(0)
        if number <= 0 or not self._is_affordable(number, going):
            return None
        last = max((one.cohort for one in self.position.candidates), default=-1)
        return Propose(cohort=last + 1, number=number)

    def _room(self, num_members: int) -> int:
        """Returns how large the next cohort is; `num_members` candidates are of it already."""
        position = self.position
        if position.is_exhausted:
            return num_members
        trials = position.trials - (len(position.candidates) - num_members)
        room = min(trials, position.cohort_size)
        cost = self._end(0)
        if position.max_epochs is None or not room:
            return max(0, room)
        affordable = int(self.left // cost)
        if not affordable and position.rungs and self.left > 0:
            affordable = 1  # goes as far as the budget does, and stands there
        return max(0, min(room, affordable))

    def _is_affordable(self, number: int, going: Sequence[Standing]) -> bool:
        if self.position.max_epochs is None or not going:
            return True
        reserved = sum(self._expected_epochs(one.epochs) for one in going)
        return self.left - reserved >= number * self._end(0)

    def _expected_epochs(self, start: int) -> float:
        """Returns how many more epochs a candidate gets that goes on from here, if it fares as others did."""
        expected, share, epoch = 0.0, 1.0, start
        while epoch < self.position.epochs:
            end = self._end(epoch)
            expected += share * (end - epoch)
            share *= self._share_that_goes(end)
            epoch = end
        return expected

    def _share_that_goes(self, rung: int) -> float:
        reached = [one for one in self.position.candidates if one.epochs >= rung]
        if len(reached) < _KNOWN_FROM:
            return _USUAL_SHARE
        stay = sum(
            one.epochs == rung and (one.status in ("stopped", "failed") or not self._goes(one))
            for one in reached
        )
        return 1 - stay / len(reached)

    # Legs

    def _groups(self, some: Sequence[Standing]) -> dict[tuple[int, str], list[Standing]]:
        groups: dict[tuple[int, str], list[Standing]] = defaultdict(list)
        for one in some:
            groups[one.epochs, one.pack_key].append(one)
        return groups

    def _first_leg(self, going: Sequence[Standing]) -> Step | None:
        """Goes on with the first who are to be complete, unless they are at it or need not be ahead of the others.

        Who takes the place of those that the pruner holds back at a later rung is the best of whoever goes on then.
        """
        position = self.position
        tried = sum(one.epochs > 0 or one.status != "running" for one in position.candidates)
        is_early = tried >= min(position.cohort_size, position.trials)
        if (
            not is_early
            or not going
            or any(one.status == "complete" for one in position.candidates)
        ):
            return None
        start = max(one.epochs for one in going)
        if any(leg.start >= start for leg in position.open_legs) or self._propose(going) is None:
            return None
        level = sorted((one for one in going if one.epochs == start), key=self._rank)
        key = level[0].pack_key
        members = [one for one in level if one.pack_key == key]
        size = position.cohort_size
        references = sum(one.reference is not None for one in members)
        number = max(1, size // _FIRST, references + size // (2 * _FIRST))
        return self._train(members[: min(number, size)], start, key)

    def _whole_leg(self, going: Sequence[Standing]) -> Step | None:
        size = self.position.cohort_size
        groups = self._groups(going)
        for start in sorted({one.epochs for one in going}, reverse=True):
            level = [(key, members) for (epoch, key), members in groups.items() if epoch == start]
            rivals = sum(one.epochs >= start for one in self.position.candidates)
            if sum(len(members) for _, members in level) >= size and rivals >= _RIVALS * size:
                key, members = min(level, key=lambda item: (-len(item[1]), item[0]))
                return self._train(members, start, key)
        return None

    def _lowest_leg(self, some: Sequence[Standing]) -> Step | None:
        """Trains those at the lowest epoch; of several pack keys that of the first ordinal."""
        if not some:
            return None
        start = min(one.epochs for one in some)
        level = sorted((one for one in some if one.epochs == start), key=self._rank)
        number = max(1, min(len(level), int(min(self.left, 1e9) // (self._end(start) - start))))
        level = level[:number]  # of all pack keys: the budget is for those with the best chance
        first = min(level, key=lambda one: one.ordinal)
        return self._train(self._groups(level)[start, first.pack_key], start, first.pack_key)

    def _best_chances(self) -> Step | None:
        """Spends what is left on the paused, best chance first."""
        hopeful = [one for one in self.paused if not self._is_hopeless(one)]
        if not hopeful:
            return None
        best = min(hopeful, key=self._chance)
        group = self._groups(hopeful)[best.epochs, best.pack_key]
        return self._train(group, best.epochs, best.pack_key)

    def _is_hopeless(self, one: Standing) -> bool:
        decision = self.position.decisions.get(one.ordinal)
        return decision is not None and (
            decision.reason == "not-finite" or decision.action == "stop"
        )

    def _chance(self, one: Standing) -> tuple[float, int, int]:
        decision = self.position.decisions.get(one.ordinal)
        return 0.0 if decision is None else decision.behind, -one.epochs, one.ordinal

    def _train(self, members: Sequence[Standing], start: int, key: str) -> Step | None:
        """Opens a leg with those who have the best chance, as many as fit into a leg and the budget."""
        end = self._end(start)
        size = self.position.cohort_size
        number = len(members) if len(members) <= most_in_leg(size) else size
        if self.left < number * (end - start):
            number = int(self.left // (end - start))
            if not number and self.left >= 1 and self.position.rungs:
                number, end = 1, start + int(self.left)
        if not number:
            return None
        chosen = sorted(members, key=self._rank)[:number]
        chosen.sort(key=lambda one: one.ordinal)
        trials = tuple(one.trial for one in chosen)
        return Train(trials=trials, start=start, end=end, pack_key=key)

    def _rank(self, one: Standing) -> tuple[bool, tuple[float, int, int]]:
        return one.reference is None, self._chance(one)

    def _over(self) -> Over:
        position = self.position
        has_all = position.is_exhausted or len(position.candidates) >= position.trials
        is_short = self.left < (1 if position.rungs else position.epochs)
        hopeful = [one for one in self.paused if not self._is_hopeless(one)]
        if is_short and (self.new or hopeful or not has_all):
            return Over(reason="epochs")
        is_short_of_designs = len(position.candidates) < position.trials
        return Over(reason="exhausted" if is_short_of_designs else "trials")
