"""`PackRun`: a pack on its leg, with the ends of those who train no more."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dynamoe_search.data import SearchData
from dynamoe_search.records import Candidate, Progress
from dynamoe_search.training.population import Population
from dynamoe_search.training.settings import Trained, TrainSettings
from dynamoe_search.training.states import CandidateState


class PackRun:
    """A pack on its leg.

    Attributes:
        pack: All candidates that began the leg together.
        population: Those still in training; none once everybody has ended.
        epoch: Epochs finished.
        seconds: What each candidate's share of the time was so far, by ordinal; earlier legs count.
        epoch_seconds: Time of the whole pack in the epoch that has begun, as far as `lap` has counted it.
        reports: All reports of the leg so far, in the order of epochs.
        finished: The ends of those who train no more.
        share: Of the time that counts, where others are trained at the same time.
    """

    def __init__(
        self,
        pack: Sequence[Candidate],
        population: Population | None,
        seconds: Mapping[int, float] | None = None,
    ) -> None:
        self.pack = tuple(pack)
        self.population = population
        self.epoch = 0 if population is None else population.epoch
        self.seconds = {one.ordinal: (seconds or {}).get(one.ordinal, 0.0) for one in pack}
        self.epoch_seconds = 0.0
        self.reports: list[Progress] = []
        self.finished: list[Trained] = []
        self.share = 1.0
        self._last = time.perf_counter()

    @classmethod
    def start(
        cls,
        pack: Sequence[Candidate],
        data: SearchData,
        settings: TrainSettings,
        states: Mapping[int, CandidateState],
    ) -> "PackRun":
        """Returns a pack where its candidates stand; without states, before its first epoch."""
        own = [states[candidate.ordinal] for candidate in pack] if states else []
        population = Population(pack, data, settings, own)
        return cls(pack, population, {state.ordinal: state.seconds for state in own})

    @property
    def live(self) -> list[Candidate]:
        """Those still in training, in order."""
        return [] if self.population is None else self.population.candidates

    def lap(self) -> float:
        """Counts the time since the last call, and returns that of the whole pack in this epoch."""
        before, self._last = self._last, time.perf_counter()
        self.epoch_seconds += self._last - before
        return self.epoch_seconds

    def end_epoch(self) -> float:
        """Gives every live candidate its share of the epoch's time; returns the time of the whole pack."""
        elapsed = self.lap() * self.share
        self.epoch_seconds = 0.0
        for candidate in self.live:
            self.seconds[candidate.ordinal] += elapsed / len(self.live)
        return elapsed

    def go_on_with(self, positions: Sequence[int]) -> None:
        """Goes on with the live candidates at these positions; with none, the training is over."""
        if self.population is None:
            return
        if positions:
            self.population.keep(positions)
        else:
            self.population = None

    def results(self) -> list[Trained]:
        """Returns all ends, and the states of those who stand, each with its reports."""
        standing = [] if self.population is None else self.population.states(self.seconds)
        everybody = [*self.finished, *(Trained(standing=state) for state in standing)]
        return [
            replace(one, reports=tuple(r for r in self.reports if r.ordinal == one.ordinal))
            for one in everybody
        ]
