"""Training to measure how long a step takes: as a leg is trained, without evaluation and checkpoints."""

import itertools
import time
from collections.abc import Sequence

import torch

from dynamoe_search.data import SearchData
from dynamoe_search.records import Candidate
from dynamoe_search.training import hands
from dynamoe_search.training.hand import Line
from dynamoe_search.training.hands import HandLostError
from dynamoe_search.training.large import Large, read_once
from dynamoe_search.training.parts import divided, most_parts
from dynamoe_search.training.population import Population
from dynamoe_search.training.settings import TrainSettings

_START_SECONDS = 60.0  # for a process to come up

_KEPT = 8
_numbers = itertools.count()
_own: dict[
    int, Population
] = {}  # in a hand: the parts that it trained last, by the number of their run


class TrialRun:
    """A pack in training, in as many parts side by side as a long leg is trained in.

    Attributes:
        population: The part that this process trains.
        num_parts: How many there are.

    Args:
        pack: Candidates of one pack key.
        data: What they are trained on.
        settings: How.

    Raises:
        HandLostError: Another process does not come up.
    """

    def __init__(
        self, pack: Sequence[Candidate], data: SearchData, settings: TrainSettings
    ) -> None:
        self._data, self._settings = data, settings
        number = most_parts(pack, data, settings)
        self._hands = hands.hands(number - 1)
        parts = divided(pack, number) if self._hands else [list(pack)]
        self._others = parts[1:]
        self._hands = self._hands[: len(self._others)]
        self._number = next(_numbers)
        self.num_parts = len(parts)
        _await(self.num_parts - 1)
        self.population = Population(parts[0], data, settings)

    def train_epoch(self) -> None:
        """Trains the whole pack for an epoch.

        Raises:
            HandLostError: Another process is gone.
        """
        is_new = self._others and self.population.epoch == 0
        data = hands.written(self._data) if is_new else None
        try:
            for hand, part in zip(self._hands, self._others, strict=True):
                hand.begin(_train_epoch, self._number, part, data, self._settings)
            self.population.train_epoch()
            for hand in self._hands:
                while not hand.has_ended:
                    hands.wait_for(self._hands, 1.0)
                    hand.listen(hands.ignore)
                hand.release()
        except BaseException:
            for hand in self._hands:
                hand.tell_to_leave("drop")
            for hand in self._hands:
                hand.await_leave()
            raise
        if self.population.device.type == "cuda":
            torch.cuda.synchronize(self.population.device)


def _await(number: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while not hands.are_ready(number):
        if time.monotonic() > end:
            raise HandLostError("a process that trains a part of the pack does not come up")
        time.sleep(0.01)


def _train_epoch(
    line: Line, number: int, part: list[Candidate], data: Large | None, settings: TrainSettings
) -> int:
    """Trains a part that another process has for an epoch, in this one; returns the epochs so far."""
    del line
    if number not in _own:
        assert data is not None  # it comes with the first epoch
        for old in [*_own][: 1 - _KEPT]:
            del _own[old]
        _own[number] = Population(part, read_once(data), settings)
    _own[number].train_epoch()
    return _own[number].epoch
