"""Parts of a pack that other processes train while this one trains the first."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from dynamoe_search.training import hands
from dynamoe_search.training.failures import Caller
from dynamoe_search.training.hands import Hand, HandLostError
from dynamoe_search.training.settings import Interrupted, Trained

_LOOK_SECONDS = 0.05


class OthersAtWork:
    """Hands that train parts of a pack, from the first order to the last result.

    As a context manager it sees to it that all of them are free afterwards; where training was interrupted, they have
    written a checkpoint.

    Attributes:
        caller: For the part that is trained here; after every step what the others report is passed on.

    Args:
        caller: Of the whole pack.
        number: How many other parts there are.

    Raises:
        HandLostError: There are no processes for them.
    """

    def __init__(self, caller: Caller, number: int) -> None:
        self._hands: Sequence[Hand] = hands.hands(number)
        if len(self._hands) < number:
            raise HandLostError("no process can be started for a part of the pack")
        self._begun: list[Hand] = []
        self.caller = caller.listening(self._listen)

    def begin(self, function: Callable[..., Any], *arguments: object) -> None:
        """Gives the next of them an order, see `hands.Hand.begin`."""
        hand = self._hands[len(self._begun)]
        self._begun.append(hand)
        hand.begin(function, *arguments)

    def _listen(self) -> None:
        for hand in self._begun:
            hand.listen(self.caller.told)

    def wait(self) -> bool:
        """Returns true once all have ended, false as soon as they are to be stopped."""
        while not all(hand.has_ended for hand in self._begun):
            if self.caller.should_stop():
                return False
            hands.wait_for(self._begun, _LOOK_SECONDS)
        return True

    def results(self) -> list[Trained]:
        """Returns what came out of all parts; whoever asks has waited for it."""
        return [one for hand in self._begun for one in hand.release()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        is_kept = isinstance(error, Interrupted | HandLostError)
        for hand in self._begun:
            hand.tell_to_leave("stop" if is_kept else "drop")
        for hand in self._begun:
            hand.await_leave()
